"""Digests of what small runs of all recipes leave. A change that is meant to change no number leaves them equal:

    python benchmarks/digests.py > before.txt
    python benchmarks/digests.py > after.txt
    diff before.txt after.txt

Of each recipe: a run from start to end, one that is interrupted within an epoch, killed within another, and resumed,
and for two of them one on two ranks. Digested are log.txt, and networks, averages, optimisers and running means of all
checkpoints. Digests hold for one machine and one version of PyTorch. Takes three minutes on 2 CPU cores.
"""

import argparse
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

from helpers.scripts import ROOT, torchrun

from benchmarks.saved import epoch_and_step
from benchmarks.torture import RECIPES, finish, flags_of, folder_of, start

STATE = ("epoch", "state_dict", "ema_state_dict", "optimizer", "emp_distb_u", "picked")
STATE += ("teacher_head", "ema_teacher", "teacher_optimizer")
ON_TWO_RANKS = ("train_cifar_fix", "train_cifar_remix_cossl")


def digest(value: Any) -> str:
    """SHA-256, cut to 12 digits, of tensors, numbers and texts in dicts and lists."""
    if isinstance(value, torch.Tensor):
        content = f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        content = repr([(key, digest(item)) for key, item in value.items()]).encode()
    elif isinstance(value, (list, tuple)):
        content = repr([digest(item) for item in value]).encode()
    else:
        content = repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def digests_of(out: Path) -> str:
    """Digests of a run's log and of its checkpoints."""
    states = [torch.load(path, weights_only=True) for path in sorted(out.glob("checkpoint*.pth.tar"))]
    kept = [{key: state[key] for key in STATE if key in state} for state in states]
    return f"log {digest((out / 'log.txt').read_text())}  {len(kept)} checkpoints {digest(kept)}"


def in_parts(recipe: str, flags: list[str], out: Path, shown: Path) -> None:
    """A run that ends after its first step, goes on, is killed after its first epoch, and goes on."""
    flags = [*flags, "--out", str(out)]
    os.waitpid(start(recipe, [*flags, "--time_limit", "1e-6"], shown), 0)
    pid = start(recipe, flags, shown)
    while epoch_and_step(folder_of(recipe, out))[0] < 1:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    finish(start(recipe, flags, shown), shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=RECIPES, help="default: all")
    recipes = parser.parse_args().recipe
    for recipe in recipes:  # the processes that are forked have it then
        importlib.import_module(recipe)
    torch.set_num_threads(1)
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            flags, shown = flags_of(recipe, root), root / "shown"
            finish(start(recipe, [*flags, "--out", str(root / "whole")], shown), shown)
            in_parts(recipe, flags, root / "parts", shown)
            outs = [root / "whole", root / "parts"]
            if recipe in ON_TWO_RANKS:
                outs.append(root / "ranks")
                ranks = torchrun(f"{recipe}.py", *flags, "--out", outs[-1])
                subprocess.run(ranks, cwd=ROOT, check=True, capture_output=True)
            for out in outs:
                print(f"{recipe:36} {out.name:5}  {digests_of(folder_of(recipe, out))}", flush=True)


if __name__ == "__main__":
    main()

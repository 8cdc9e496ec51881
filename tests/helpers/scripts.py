"""Scripts run as a user runs them, and what they leave compared."""

from utils.start import run_main

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch

from training.run import Run

ROOT = Path(__file__).parent.parent.parent
# Seconds after which what a test waits for is taken to hang. Nothing comes near it, however loaded the machine is.
HANG = 600
# A run of seconds: real images that need no download, a small network, few steps.
TINY = [
    "--dataset",
    "digits",
    "--gpu",
    "cpu",
    "--num_max",
    40,
    "--imb_ratio_l",
    20,
    "--imb_ratio_u",
    20,
    "--depth",
    10,
    "--width",
    1,
    "--batch-size",
    16,
    "--ema-decay",
    0.9,
    "--manualSeed",
    1,
]
FOOD = [
    "--gpu",
    "cpu",
    "--num_max",
    12,
    "--imb_ratio_l",
    3,
    "--imb_ratio_u",
    3,
    "--depth",
    10,
    "--img_size",
    16,
    "--batch-size",
    8,
    "--ema-decay",
    0.9,
    "--tau",
    0.4,
    "--workers",
    0,
    "--manualSeed",
    1,
]
FIX, MIX, REMIX = METHODS = ["train_cifar_fix.py", "train_cifar_mix.py", "train_cifar_remix.py"]
FIX_COSSL, MIX_COSSL, REMIX_COSSL = COSSL = [script.replace(".py", "_cossl.py") for script in METHODS]
SHORT = ["--epoch", 1, "--val-iteration", 2]


def steps(script: str, n: int) -> list:
    """The flag for n steps per epoch; on Food-101, the data decide (on the small one here: 4)."""
    return [] if "food" in script else ["--val-iteration", n]


def environment(**others: str) -> dict[str, str]:
    """For a process with as many threads as this one, since another number may change the last bits of sums."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "OMP_WAIT_POLICY": "passive"} | others


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def run_script(script: str, *arguments: object, **others: object) -> subprocess.CompletedProcess:
    """Run a script as a user does, from the repository. others: for `subprocess.run`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    usual = pipes | {"cwd": ROOT, "timeout": HANG, "env": environment()}
    return subprocess.run(command(script, *arguments), **usual | others)


def run_here(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """The same within this process, which spares the seconds that another one takes to start."""
    argv, out, err, code = [script, *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            run_main(importlib.import_module(Path(script).stem).main)
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def torchrun(script: str, *arguments: object) -> list[str]:
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*started, str(ROOT / script), *map(str, arguments)]


def run_ranks(script: str, *arguments: object) -> subprocess.CompletedProcess:
    started = torchrun(script, *arguments)
    return subprocess.run(started, capture_output=True, text=True, cwd=ROOT, timeout=HANG, env=environment())


def assert_runs(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script within this process to its end."""
    result = run_here(script, *arguments)
    assert result.returncode == 0, result.stderr
    return result


def handed_to_fit(script: str, *arguments: object) -> SimpleNamespace:
    """What a recipe hands to `Run.fit`, by the names there, and the run; nothing is trained, no folder is made."""
    found = SimpleNamespace()

    def fit(run, step, predict, data, steps, student, teacher=None, before=None):
        found.__dict__.update(run=run, step=step, predict=predict, data=data, steps=steps)
        found.__dict__.update(student=student, teacher=teacher, before=before)

    with patch.object(Run, "fit", fit):
        assert_runs(script, *arguments)
    return found


def load_checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """One line on stderr with all the words in it, and exit code 2."""
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def assert_same(a, b, path="checkpoint"):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if path + f".{key}" not in ("checkpoint.seconds", "checkpoint.arguments"):
                assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b or (a != a and b != b), path  # a figure without meaning is nan


def summary(out: Path) -> dict:
    found = json.loads((out / "summary.json").read_text())
    for name in ("wall_seconds", "step_seconds", "evaluation_seconds"):
        found.pop(name, None)
    found["arguments"].pop("out")
    return found


def log_lines(out: Path) -> list[str]:
    return (out / "log.txt").read_text().splitlines()

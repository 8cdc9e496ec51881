"""Kill recipes with SIGKILL at random moments, restart them by the same command, and compare with an uninterrupted run.

    python benchmarks/torture.py --kills 100 --recipe train_cifar_fix train_cifar_fix_cossl

Of three kills one comes at any moment, one is aimed: it waits for a temporary file to appear, so that it hits a save,
and one follows closely on SIGTERM, so that it hits a save in the middle of an epoch. No part of a run may begin before
the epoch that the last one had saved, nor train an epoch again that had been saved ("again"). What must not differ in
the end, by a bit: checkpoint and its copies (networks, averages, optimisers, history), log.txt, diagnostics.npz, what
TensorBoard shows, summary.json (but for wall time and folder). The processes are forked from one that has imported
everything, since importing takes longer than training here; they run the scripts' files as Python would.
"""

import argparse
import importlib
import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

from helpers.data_files import write_archives, write_food101
from helpers.scripts import FOOD, ROOT, TINY

from benchmarks.saved import content, epoch_and_step, finished, printed, same
from training.checkpoint import LATEST
from training.folder import generation_folder

RECIPES = sorted(path.stem for path in ROOT.glob("train_*_*.py"))
EPOCHS = 5
# When a kill comes, and up to how many seconds later: at any moment, in a write, after SIGTERM.
AT = {"any": 0.0, "write": 0.003, "SIGTERM": 0.15}


class Tally(NamedTuple):
    """What came of a recipe. hits: kills that cut a write short; within: restarts in the middle of an epoch; repeated:
    epochs that had been printed or saved, and were not in the checkpoint, or were trained once more; runs: those that
    ended, and were compared; differing: what differed, in words.
    """

    recipe: str
    kills: int
    hits: int
    within: int
    repeated: int
    runs: int
    differing: list[str]


def flags_of(recipe: str, root: Path) -> list[str]:
    """The flags of a run of seconds but for --out; makes its data and its first stage in `root`."""
    if "food" in recipe:
        (root / "food").mkdir(exist_ok=True)
        if not (root / "food" / "food-101").exists():
            write_food101(root / "food")
        flags = [*FOOD, "--workers", 1, "--data_root", root / "food"]
    elif "small" in recipe:
        if not (root / "small").exists():
            write_archives(root / "archives", 32)
            prepare = ["--source", root / "archives", "--out", root / "small"]
            finish(start("prepare_small_imagenet_127", list(map(str, prepare)), root / "shown"), root / "shown")
        flags = ["--data_root", root / "small", "--labeled_percent", 0.6, "--gpu", "cpu", "--width", 1, "--tau", 0.01]
        flags += ["--batch-size", 8, "--manualSeed", 1, "--val-iteration", 4]
    else:
        flags = [*TINY, "--val-iteration", 6]
    flags += ["--epochs", EPOCHS, *(["--align"] if "remix" in recipe else []), "--copy_every", 2]
    if recipe.endswith("_cossl"):
        first = recipe.removesuffix("_cossl")
        finish(start(first, [*map(str, flags), "--out", str(root / first)], root / "shown"), root / "shown")
        flags += ["--resume", root / first / LATEST, "--warm_tfe", 1]
    if recipe.endswith("_crest"):
        flags += ["--num_generation", 1]
    return list(map(str, flags))


def folder_of(recipe: str, out: Path) -> Path:
    """Where the run lies that a recipe trains in `out`."""
    return generation_folder(out, 0) if recipe.endswith("_crest") else out


def start(script: str, flags: list[str], shown: Path) -> int:
    """The id of a process that runs a script, as Python would; `shown`: where its output goes."""
    sys.stdout.flush()
    shown.unlink(missing_ok=True)
    if pid := os.fork():
        return pid
    code = 99
    try:
        handle = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = [f"{script}.py", *flags]
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # a process of its own ends here, whatever happened
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finish(pid: int, shown: Path) -> None:
    """Wait for a process, which must end well."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise SystemExit(f"exit code {code}:\n{shown.read_text()}")


def kill(pid: int, out: Path, how: str, seconds: float) -> bool:
    """Kill the process at a random moment of the next `seconds`, see AT; whether it hadn't come to its end.

    It is reaped.
    """
    latest = time.monotonic() + random.uniform(0, seconds)
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > latest and (how != "write" or any(out.glob(".*.tmp"))):
            if how == "SIGTERM":
                os.kill(pid, signal.SIGTERM)
            time.sleep(random.uniform(0, AT[how]))
            break
        time.sleep(0.0002)
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)


def duration(recipe: str, flags: list[str], shown: Path) -> float:
    """Of a whole run, seconds."""
    began = time.monotonic()
    finish(start(recipe, flags, shown), shown)
    return time.monotonic() - began


def torture(recipe: str, kills: int, seed: int) -> Tally:
    random.seed(f"{recipe} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        flags, shown = flags_of(recipe, root), root / "shown"
        seconds = duration(recipe, [*flags, "--out", str(root / "whole")], shown)
        whole = content(folder_of(recipe, root / "whole"))
        done, hits, within, repeated, runs, differing = 0, 0, 0, 0, 0, []
        while done < kills:
            runs += 1
            given, ended, before = root / f"run{runs}", False, (0, 0)
            out = folder_of(recipe, given)
            while not ended:
                born, pid = time.time(), start(recipe, [*flags, "--out", str(given)], shown)
                if ended := done == kills:
                    finish(pid, shown)
                elif kill(pid, out, list(AT)[done % len(AT)], seconds):
                    done += 1
                    hits += any(file.stat().st_mtime > born for file in out.glob(".*.tmp"))
                elif not (ended := finished(out)):
                    raise SystemExit(f"{recipe}:\n{shown.read_text()}")
                epochs, after = printed(shown), epoch_and_step(out)
                repeated += (
                    after < before or after[0] < max(epochs, default=0) or min(epochs, default=EPOCHS + 1) <= before[0]
                )
                within, before = within + (after[1] > 0 and not ended), after
            found = content(out)
            differing += [name for name in whole if not same(whole[name], found[name])]
    return Tally(recipe, done, hits, within, repeated, runs, differing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kills", type=int, default=100, help="of each recipe (default: %(default)s)")
    add("--recipe", nargs="+", choices=RECIPES, default=RECIPES, help="default: all")
    add("--jobs", type=int, default=2, help="recipes at a time (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    for recipe in args.recipe:  # the processes that are forked have it then
        importlib.import_module(recipe)
    torch.set_num_threads(1)
    heads = "kills", "during a write", "within an epoch", "epochs again", "runs"
    print(f"{'recipe':36}", *(f"{head:>15}" for head in heads), " differing", flush=True)
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        tallies = []
        for tally in pool.map(partial(torture, kills=args.kills, seed=args.seed), args.recipe):
            words = ", ".join(tally.differing) or "nothing"
            print(f"{tally.recipe:36}", *(f"{number:15}" for number in tally[1:-1]), f" {words}", flush=True)
            tallies.append(tally)
    raise SystemExit(int(any(tally.differing or tally.repeated for tally in tallies)))


if __name__ == "__main__":
    main()

"""Does an epoch take as long, and its checkpoint as much space, as epochs pile up?

    python benchmarks/epochs.py --epochs 2000

FixMatch on the digits, on a network so small (WRN-10-1) that everything else shows, one step of 16 images per epoch.
At epoch n: the median time of the 50 epochs up to n, whole, and of what the run writes at their ends; the checkpoint's
size, and its number of entries. "relative" is that of the first row.
"""

import argparse
import runpy
import statistics
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import ABOUT_CLOCK, CLOCKS, machine
from training.checkpoint import LATEST
from training.recorder import Recorder
from utils.flag_types import positive_int

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (50, 500, 1000, 2000)
WINDOW = 50
FLAGS = "--dataset digits --gpu cpu --num_max 20 --imb_ratio_l 2 --imb_ratio_u 2 --depth 10 --width 1 --batch-size 16"


def train(epochs: int, clock: str) -> tuple[list[float], list[float], dict[int, tuple[int, int]]]:
    """Per epoch, the time at its end and the seconds of its writes; by epoch, bytes and entries of its checkpoint."""
    ends, writes, saved, now = [], [], {}, CLOCKS[clock]
    write, of_thread = Recorder._write_epoch, time.thread_time if clock == "cpu" else now

    def timed(recorder: Recorder, *rest: Any) -> None:
        began = of_thread()
        write(recorder, *rest)
        writes.append(of_thread() - began)
        if recorder.done in SHOWN:
            path = recorder.out / LATEST
            with zipfile.ZipFile(path) as archive:
                saved[recorder.done] = path.stat().st_size, len(archive.infolist())
        ends.append(now())

    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        flags = [*FLAGS.split(), "--val-iteration", "1", "--epochs", str(epochs), "--out", folder]
        patches.enter_context(patch.object(sys, "argv", ["train_cifar_fix", *flags]))
        patches.enter_context(patch.object(Recorder, "_write_epoch", timed))
        patches.enter_context(redirect_stdout(StringIO()))
        runpy.run_path(str(ROOT / "train_cifar_fix.py"), run_name="__main__")
    return ends, writes, saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=positive_int, default=2000, help="epochs to train")
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=ABOUT_CLOCK)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ends, writes, saved = train(args.epochs, args.clock)
    times = [later - earlier for earlier, later in pairwise(ends)]  # of epochs 2, 3, ...
    print(machine(f"{args.threads} threads"))
    print(f"{'epoch':>6}{'epoch, ms':>11}{'relative':>10}{'writes, ms':>12}{'checkpoint, kB':>16}{'entries':>9}")
    first = statistics.median(times[: WINDOW - 1])
    for n, (size, entries) in saved.items():
        window = slice(max(0, n - WINDOW), n)
        whole, written = statistics.median(times[: n - 1][-WINDOW:]), statistics.median(writes[window])
        print(f"{n:6}{1e3 * whole:11.1f}{whole / first:10.2f}{1e3 * written:12.1f}{size / 1e3:16.0f}{entries:9}")


if __name__ == "__main__":
    main()

"""What a run shows while it goes: progress bar or plain lines, `log.txt`, TensorBoard scalars.

Shape legend: a history has a row per epoch: {"train": {name: float}, "test": figures of `metrics.evaluate`,
"pseudo": {name: float} if there are pseudo-labels}, and arrays for `training.diagnostics`.
"""

import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from utils.files import atomic_write_text

Row = dict[str, dict[str, Any]]


def columns(row: Row) -> dict[str, float]:
    """The figures of an epoch by their names in `log.txt`; the test set's loss is `test_loss`."""
    test = {name: value for name, value in row["test"].items() if name != "recall"}
    return row["train"] | {"test_loss": test.pop("loss")} | test | row.get("pseudo", {})


def write_log(path: Path, history: list[Row], last: int) -> None:
    """Tab-separated, a header and a line per epoch up to `last`; written anew, so that it is whole at any moment."""
    names = list(columns(history[-1]))
    lines = ["\t".join(["epoch", *names])]
    for epoch, row in enumerate(history, last - len(history) + 1):
        figures = columns(row)  # older versions had fewer
        lines.append("\t".join([str(epoch), *(f"{figures.get(name, math.nan):.6g}" for name in names)]))
    atomic_write_text(path, "\n".join(lines) + "\n")


class Board:
    """TensorBoard scalars `train/NAME`, `test/NAME` and `machine/NAME` over epochs; what a killed run wrote too
    much is purged.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.folder, self.done, self.path = folder, done, None

    def write(self, row: Row, epoch: int) -> None:
        """Append to the run's file. (PyTorch's SummaryWriter does so in a thread, whose errors are tracebacks.)"""
        figures = [
            Event(step=epoch, summary=scalar(f"{part}/{name}", value))
            for part in ("train", "test", "pseudo", "machine")
            for name, value in row.get(part, {}).items()
            if name != "recall" and math.isfinite(value)
        ]
        if self.path is None:
            self.folder.mkdir(exist_ok=True)
            self.path = self.folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
            purge = SessionLog(status=SessionLog.START)
            version = Event(step=self.done + 1, file_version="brain.Event:2")
            figures = [version, Event(step=self.done + 1, session_log=purge), *figures]
        with self.path.open("ab") as file:
            for event in figures:
                event.wall_time = time.time()
                RecordWriter(file).write(event.SerializeToString())


class Progress:
    """A bar with ETA and running figures on a terminal; a line per epoch there and elsewhere.

    epochs, steps: of the whole run; done: epochs that an earlier part of the run has done.
    """

    def __init__(self, epochs: int, steps: int, done: int) -> None:
        self.epochs, self.steps, self.done, self.shown = epochs, steps, done, 0.0
        self.start = self.last = time.monotonic()
        self.bar = _bar(epochs * steps, done * steps) if sys.stdout.isatty() else None

    def step(self, t: int, figures: Callable[[], dict[str, float]]) -> None:
        """After step t; `figures` reads the running means from the device, at most twice a second."""
        if self.bar is None or time.monotonic() - self.shown < 0.5:
            return
        self.shown = time.monotonic()
        text = f"epoch {(t - 1) // self.steps + 1}/{self.epochs}"
        room = shutil.get_terminal_size().columns - 32  # what percentage, a short bar and the ETA leave
        for name, value in figures().items():
            more = f"{text}  {name} {value:.3g}"
            text = more if len(more) <= room else text
        self.bar.update(t, force=True, figures=text)  # by itself it leaves out what follows closely

    def epoch(self, n: int, row: Row) -> None:
        """After epoch n (from 1)."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        left = (now - self.start) / (n - self.done) * (self.epochs - n)
        shown = columns({**row, "pseudo": {}}) | row.get("machine", {})  # the pseudo-labels' are too many for a line
        figures = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        print(f"epoch {n}/{self.epochs}  {figures}  {seconds:.1f} s, {timedelta(seconds=round(left))} left", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.finish(dirty=True)


def _bar(total: int, done: int):
    import progressbar  # takes hold of the standard streams on import, so only where a bar is shown

    widgets = [
        progressbar.Percentage(),
        " ",
        progressbar.Bar(),
        " ",
        progressbar.AdaptiveETA(),
        "  ",
        progressbar.Variable("figures", format="{formatted_value}", width=1, precision=1),
    ]
    bar = progressbar.ProgressBar(max_value=total, widgets=widgets, redirect_stdout=True)
    bar.start()
    bar.update(done, figures="")
    return bar

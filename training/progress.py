"""What a run shows on the terminal: a progress bar, or plain lines."""

import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from training.forecast import Forecast
from training.history import log_columns
from training.schema import Row

WIDTH = 100  # columns of a printed line
# Of an epoch's figures.
FIRST, THEN = ("loss", "balanced", "held_out_balanced", "few"), ("gm", "top1", "mask", "acc_u", "test_loss")


class Progress:
    """A bar with ETA and running figures on a terminal; a line per epoch there and elsewhere.

    epochs, steps: of the whole run; done: epochs that an earlier part of the run has done.
    """

    def __init__(self, epochs: int, steps: int, done: int, forecast: Forecast) -> None:
        self.epochs, self.steps, self.done, self.shown = epochs, steps, done, 0.0
        self.forecast, self.start = forecast, time.monotonic()
        self.last = self.start
        self.bar = _bar(epochs * steps, done * steps) if sys.stdout.isatty() else None

    def step(self, t: int, figures: Callable[[], dict[str, float]]) -> None:
        """After step t; `figures` reads the running means from the device, at most twice a second."""
        for line in self.forecast.step(t, figures):
            print(line, flush=True)
        if self.bar is None or time.monotonic() - self.shown < 0.5:
            return
        self.shown = time.monotonic()
        text = f"epoch {(t - 1) // self.steps + 1}/{self.epochs}"
        room = shutil.get_terminal_size().columns - 32  # what percentage, a short bar and the ETA leave
        for name, value in figures().items():
            more = f"{text}  {name} {value:.3g}"
            text = more if len(more) <= room else text
        self.bar.update(t, force=True, figures=text)  # by itself it leaves out what follows closely

    def epoch(self, n: int, row: Row, machine: dict[str, float]) -> None:
        """After epoch n (from 1); machine: figures of how it went here."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        remaining = (now - self.start) / (n - self.done) * (self.epochs - n)
        known = machine | log_columns(row)
        line, end = f"epoch {n}/{self.epochs}", f"  {seconds:.1f} s, {timedelta(seconds=round(remaining))} left"
        for name in dict.fromkeys([*FIRST, *machine, *THEN, *known]):  # the rest is in log.txt
            more = f"  {name} {known[name]:.4g}" if name in known else ""
            line += more if len(line + more + end) <= WIDTH else ""
        print(line + end, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.finish(dirty=True)


def _bar(total: int, done: int) -> Any:
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

"""Where a run is, told while it trains: for what is to happen there.

Places: "data" (before they are loaded), "preparation", "step T" (before it), "evaluation" (before its first batch),
"save" (a checkpoint is half written).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import torch

import dataset.streams
from training.background import Background
from training.run import Run
from training.totals import Totals

FIT, SAVE, LOAD, ADD = Run.fit, torch.save, dataset.streams.load, Totals.add


class Watched:
    """Data of a run, whose draws and evaluations call `at`."""

    def __init__(self, data: Any, at: Callable[[str], None]) -> None:
        self.data, self.at = data, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def batches(self, *which: Any, **named: Any) -> Any:
        made = self.data.batches(*which, **named)
        draw = made.draw

        def drawing(t):
            self.at(f"step {t}")
            return draw(t)

        made.draw = drawing
        return made

    def evaluated(self) -> dict[str, Iterator]:
        return self.data.evaluated() | {"test": self.test()}

    def test(self) -> Iterator:
        for i, batch in enumerate(self.data.test()):
            if i == 0:
                self.at("evaluation")
            yield batch


@contextmanager
def watched(at: Callable[[str], None]) -> Iterator[None]:
    """Within, every run of a script calls `at` with the places where it is."""

    def fit(self, step, predict, data, steps, student, teacher=None, before=None):
        def preparing():
            at("preparation")
            before()

        FIT(self, step, predict, Watched(data, at), steps, student, teacher, preparing if before else None)

    def save(state, file):
        file.write(b"half")
        file.flush()
        at("save")
        file.seek(0)
        file.truncate()
        SAVE(state, file)

    def load(*names):
        at("data")
        return LOAD(*names)

    with patch.object(Run, "fit", fit), patch("torch.save", save), patch("dataset.streams.load", load):
        yield


def saved_at_once() -> Any:
    """Within, an epoch is saved before the second step of the next one, so that it is known what is found there."""
    return patch.object(Background, "check", Background.wait)


@contextmanager
def spoiled_loss(step: int) -> Iterator[None]:
    """Within, the loss of the given step (from 0, counted through all runs) is no number."""
    steps = count()

    def add(self, logs):
        ADD(self, logs | ({"loss": torch.tensor(torch.nan)} if next(steps) == step else {}))

    with patch.object(Totals, "add", add):
        yield

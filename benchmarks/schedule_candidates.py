"""Schedules that were tried, by name, and a recipe run with one of them:

    python -m benchmarks.schedule_candidates NAME train_cifar_fix.py FLAG...

A candidate changes what `--schedule short` does. Users have `published` and `short` alone.
"""

import math
import runpy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from dataset.streams import Sampling
from methods.averaged import Averaged
from methods.muon import MuonForKernels
from methods.schedules import on_schedule
from methods.step import Step

ROOT = Path(__file__).resolve().parents[1]
Rate = Callable[[int, int], float]  # (step t, steps of the run) -> factor on all learning rates


class Candidate(NamedTuple):
    """schedule: of the recipe, which has `changes`, patches made when a run begins, and `flags` of each stage; rate: of
    network and head, if it changes.
    """

    schedule: str = "short"
    rate: Rate | None = None
    flags: tuple[str, str] = ("", "")
    changes: tuple[Any, ...] = ()


def cosine(t: int, steps: int, peak: float = 1.0, warm_up: float = 0.0) -> float:
    """From 0 to `peak`, linearly over a share `warm_up` of all steps; then down to 0 by half a cosine, which the step
    after the last one would reach. (Loshchilov & Hutter 2017, without restarts.)
    """
    first = warm_up * steps
    if t < first:
        return peak * (t + 1) / (first + 1)
    return peak * (1 + math.cos(math.pi * (t - first) / (steps - first))) / 2


def linear(t: int, steps: int) -> float:
    """From 1 to 0."""
    return 1 - t / steps


def flat_then_cosine(t: int, steps: int) -> float:
    """1 for half of the steps, then a cosine to 0."""
    first = steps // 2
    return 1.0 if t < first else cosine(t - first, steps - first)


def rated(
    rate: Rate, step: Step, flags: Any, student: Averaged, teacher: Averaged | None = None, begun: int = 0
) -> Step:
    """In the place of `on_schedule`: its step, with a factor on learning rates and shrink that the host sets before
    each step, and so not for CUDA graphs. The factor is in the logs.
    """
    step, steps = on_schedule(step, flags, student, teacher, begun), flags.epochs * flags.val_iteration
    trained = [student, *([teacher] if teacher else [])]

    def groups() -> list[dict[str, Any]]:
        optimizers: list[Any] = [one.optimizer for one in trained]
        optimizers += [one.muon for one in optimizers if isinstance(one, MuonForKernels)]
        return [group for optimizer in optimizers for group in optimizer.param_groups]

    rates, shrinks = [group["lr"] for group in groups()], [one.shrink for one in trained]

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"rate": np.array(rate(t, steps), np.float32)}

    def train(batch: Any) -> Any:
        factor = batch.numbers["rate"].item()
        for group, lr in zip(groups(), rates, strict=True):
            group["lr"] = factor * lr
        for one, shrink in zip(trained, shrinks, strict=True):
            one.shrink = factor * shrink
        return step(batch) | {"lr_factor": batch.numbers["rate"]}

    return step._replace(train=train, draws=(*step.draws, draw))


def shrinking(factor: float) -> Any:
    """Decoupled weight decay of stage 1, so many times as strong."""
    init = Averaged.__init__

    def stronger(self: Averaged, live: Any, optimizer: Any, decay: float, shrink: float = 0.0) -> None:
        init(self, live, optimizer, decay, factor * shrink)

    return patch.object(Averaged, "__init__", stronger)


class OutputFaster(MuonForKernels):
    """The output layer alone has a larger rate: the same as steps that many times as long."""

    def __init__(self, adam: Any, others: float) -> None:
        super().__init__(adam)
        self.factor, self.last = others, self.param_groups[0]["params"][-4:-2]  # before that of ReMixMatch's rotations

    def step(self, closure: Any = None) -> None:
        before = [parameter.detach().clone() for parameter in self.last]
        super().step(closure)
        with torch.no_grad():
            for parameter, old in zip(self.last, before, strict=True):
                parameter.copy_(old + self.factor * (parameter - old))


def rates(others: float) -> Any:
    """Of what Adam trains beside Muon, so many times the flag's."""
    return patch("methods.schedules.OTHERS", others)


def factor(muon: float) -> Any:
    return patch("methods.muon.FACTOR", muon)


def averaged(window: int) -> Any:
    """Averages over the last 1/window of the steps."""
    return patch("methods.schedules.growing_decay", lambda t, decay: min(decay, (1 + t) / (window + t)))


OUTPUT = patch("methods.schedules.MuonForKernels", OutputFaster)
NO_MUON = patch("methods.schedules.MuonForKernels", lambda optimizer, others: optimizer)
TWICE_UNLABELLED = patch("dataset.streams.Sampling", partial(Sampling, mu=2))
SHORTER, TAU = ("--ema-decay 0.99",) * 2, ("--tau 0.8",) * 2
TENTH, SLOW_HEAD = averaged(10), ("", "--lr_tfe 0.002")
SLOW_HEAD_TAU = "--tau 0.8", "--tau 0.8 --lr_tfe 0.002"
AVERAGE = Candidate(changes=(NO_MUON, TENTH), flags=SLOW_HEAD)  # its decay grows, and nothing else
MUON = Candidate(changes=(rates(1), TENTH), flags=SLOW_HEAD)
CANDIDATES = {
    "published": Candidate("published"),
    "published, decay 0.99": Candidate("published", flags=SHORTER),
    "short": Candidate(),
    # In the order of the trials: with Adam, with Muon, with Muon and larger rates of all else.
    "average": AVERAGE,
    "average, rate 2": AVERAGE._replace(flags=("--lr 0.004", "--lr 0.004 --lr_tfe 0.002")),
    "average, tau 0.8": AVERAGE._replace(flags=SLOW_HEAD_TAU),
    "average, 1 : 2": AVERAGE._replace(changes=(NO_MUON, TENTH, TWICE_UNLABELLED)),
    "average, weight decay 5": AVERAGE._replace(changes=(NO_MUON, TENTH, shrinking(5))),
    "cosine": AVERAGE._replace(rate=cosine),
    "cosine, warm-up": AVERAGE._replace(rate=partial(cosine, warm_up=0.1)),
    "cosine, warm-up, rate 2": AVERAGE._replace(rate=partial(cosine, peak=2, warm_up=0.1)),
    "cosine, tau 0.8": AVERAGE._replace(rate=cosine, flags=SLOW_HEAD_TAU),
    "cosine, 1 : 2": AVERAGE._replace(rate=cosine, changes=(NO_MUON, TENTH, TWICE_UNLABELLED)),
    "linear": AVERAGE._replace(rate=linear),
    "flat, then cosine": AVERAGE._replace(rate=flat_then_cosine),
    "Muon": MUON,
    "Muon, cosine": MUON._replace(rate=cosine),
    "Muon, flat, then cosine": MUON._replace(rate=flat_then_cosine),
    "Muon, tau 0.8": MUON._replace(flags=SLOW_HEAD_TAU),
    "Muon, factor 2": MUON._replace(changes=(rates(1), TENTH, factor(2))),
    "Muon, factor 10": MUON._replace(changes=(rates(1), TENTH, factor(10))),
    "Muon, factor 20": MUON._replace(changes=(rates(1), TENTH, factor(20))),
    "Muon, head's rate 0.02": MUON._replace(flags=("", "")),
    "Muon, head's rate 0.1": MUON._replace(flags=("", "--lr_tfe 0.1")),
    "output 10": Candidate(changes=(OUTPUT, rates(10), TENTH)),
    "output 30": Candidate(changes=(OUTPUT, rates(30), TENTH)),
    "output 100": Candidate(changes=(OUTPUT, rates(100), TENTH)),
    "others 30": Candidate(changes=(rates(30), TENTH)),
    "others 100": Candidate(changes=(rates(100), TENTH)),
    "others 30, factor 2.5": Candidate(changes=(rates(30), TENTH, factor(2.5))),
    "others 30, 1 : 2": Candidate(changes=(rates(30), TENTH, TWICE_UNLABELLED)),
    "others 30, flat, then cosine": Candidate(changes=(rates(30), TENTH), rate=flat_then_cosine),
    "others 30, average over a quarter": Candidate(changes=(rates(30), averaged(4))),
    "short, tau 0.8": Candidate(flags=TAU),
    "short, weight decay 10": Candidate(changes=(shrinking(10),)),
    "short, head's warm-up 3": Candidate(flags=("", "--warm_tfe 3")),
}


def main() -> None:
    """Run a recipe as it runs by itself, but for the candidate's changes."""
    name, script, *flags = sys.argv[1:]
    schedule, rate, more, changes = CANDIDATES[name]
    sys.argv = [script, *flags, *more["cossl" in script].split(), "--schedule", schedule]
    with ExitStack() as patches:
        for change in [*changes, *([patch("training.run.on_schedule", partial(rated, rate))] if rate else [])]:
            patches.enter_context(change)
        runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main()

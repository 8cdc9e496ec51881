"""Schedules that were tried, by name, and a recipe run with one of them:

    python -m benchmarks.schedule_candidates NAME train_cifar_fix.py FLAG...

A candidate stands in the place of `methods.schedules.SHORT`, and may change more than a schedule does. Users have
`published` and `short` alone.
"""

import runpy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import methods.schedules
from dataset.streams import Sampling
from methods.averaged import Averaged
from methods.schedules import SHORT, Schedule, cosine, growing_decay

ROOT = Path(__file__).resolve().parents[1]


class Candidate(NamedTuple):
    """schedule: None for `published`; flags: of each stage, besides; changes: -> patches, made when a run begins."""

    schedule: Schedule | None
    flags: tuple[str, str] = ("", "")
    changes: Callable[[], list[Any]] = list


def constant(t: int, steps: int) -> float:
    return 1.0


def linear(t: int, steps: int) -> float:
    """From 1 to 0."""
    return 1 - t / steps


def flat_then_cosine(t: int, steps: int, flat: float = 0.5, peak: float = 1.0) -> float:
    """`peak` for a share of the steps, then a cosine to 0."""
    first = int(flat * steps)
    return peak if t < first else cosine(t - first, steps - first, peak)


def twice_as_many_unlabelled() -> list[Any]:
    return [patch("dataset.streams.Sampling", partial(Sampling, mu=2))]


def factor_of_muon(factor: float) -> list[Any]:
    return [patch("methods.muon.FACTOR", factor)]


def shrinking(factor: float) -> list[Any]:
    """Decoupled weight decay of stage 1, so many times as strong."""
    init = Averaged.__init__

    def stronger(self: Averaged, live: Any, optimizer: Any, decay: float, shrink: float = 0.0) -> None:
        init(self, live, optimizer, decay, factor * shrink)

    return [patch.object(Averaged, "__init__", stronger)]


NO_MUON = partial(Schedule, kept=growing_decay, muon=False)
AVERAGE = NO_MUON(constant)  # a warm-up of the average, and nothing else
MUON = Schedule(constant, growing_decay)
TAU = "--tau 0.8"
CANDIDATES = {
    "published": Candidate(None),
    "published, decay 0.99": Candidate(None, ("--ema-decay 0.99", "--ema-decay 0.99")),
    "short": Candidate(SHORT),
    "average": Candidate(AVERAGE),
    "cosine": Candidate(NO_MUON(cosine)),
    "cosine, warm-up": Candidate(NO_MUON(partial(cosine, warm_up=0.1))),
    "cosine, warm-up, rate 2": Candidate(NO_MUON(partial(cosine, peak=2, warm_up=0.1))),
    "cosine, 1 : 2": Candidate(NO_MUON(cosine), changes=twice_as_many_unlabelled),
    "cosine, tau 0.8": Candidate(NO_MUON(cosine), (TAU, TAU)),
    "linear": Candidate(NO_MUON(linear)),
    "flat, then cosine": Candidate(NO_MUON(flat_then_cosine)),
    "average, rate 2": Candidate(NO_MUON(partial(flat_then_cosine, flat=1, peak=2))),
    "average, tau 0.8": Candidate(AVERAGE, (TAU, TAU)),
    "average, 1 : 2": Candidate(AVERAGE, changes=twice_as_many_unlabelled),
    "average, weight decay 5": Candidate(AVERAGE, changes=partial(shrinking, 5)),
    "average, head's warm-up 3": Candidate(AVERAGE, ("", "--warm_tfe 3")),
    "Muon": Candidate(MUON),
    "Muon, cosine": Candidate(Schedule(cosine, growing_decay)),
    "Muon, linear": Candidate(Schedule(linear, growing_decay)),
    "Muon, flat, then cosine": Candidate(Schedule(flat_then_cosine, growing_decay)),
    "Muon, factor 2": Candidate(MUON, changes=partial(factor_of_muon, 2)),
    "Muon, factor 10": Candidate(MUON, changes=partial(factor_of_muon, 10)),
    "Muon, factor 20": Candidate(MUON, changes=partial(factor_of_muon, 20)),
    "Muon, tau 0.8": Candidate(MUON, (TAU, TAU)),
}


def main() -> None:
    """Run a recipe as it runs by itself, but for the candidate's changes."""
    name, script, *flags = sys.argv[1:]
    schedule, more, changes = CANDIDATES[name]
    sys.argv = [script, *flags, *more["cossl" in script].split(), *(["--schedule", "short"] if schedule else [])]
    with ExitStack() as patches:
        for change in [*changes(), *([patch.object(methods.schedules, "SHORT", schedule)] if schedule else [])]:
            patches.enter_context(change)
        runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main()

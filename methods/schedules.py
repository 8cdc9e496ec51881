"""Weights and learning rates that are functions of the step: nothing to save, nothing to rewind."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from methods.averaged import Averaged
from methods.method import Logs
from methods.muon import MuonForKernels
from methods.step import Step

OTHERS = 20  # times the rate: for the output layer and normalisation, which Adam trains beside Muon


class ScheduleFlags(Protocol):
    """The flags of a recipe that are read here, and `weights`, of a pre-trained network, where a recipe has it.

    schedule: `published` or `short`.
    """

    schedule: str


def growing_decay(t: int, decay: float) -> float:
    """(1 + t) / (20 + t), at most `decay`: an average over about the last twentieth of the steps so far, until it is as
    long as it shall be. (TensorFlow's ExponentialMovingAverage has 10 for 20.)
    """
    return min(decay, (1 + t) / (20 + t))


def on_schedule(
    step: Step, flags: ScheduleFlags, student: Averaged, teacher: Averaged | None = None, begun: int = 0
) -> Step:
    """`step` as the schedule has it. `published`: as it is. `short`: the decays of all averages grow, drawn with the
    numbers of the step; Muon trains the student's convolutions, and Adam all else of it, unless that is pre-trained, at
    20 times the rate. Its optimiser is another one from now on.

    begun: steps of pre-training, which the student's average has behind it. Raises UserError as `MuonForKernels`.
    """
    if flags.schedule == "published":
        return step
    student.optimizer = MuonForKernels(student.optimizer, 1 if getattr(flags, "weights", None) else OTHERS)
    trained = {student: begun} | ({teacher: 0} if teacher else {})

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"kept": np.array([growing_decay(before + t, one.decay) for one, before in trained.items()], np.float32)}

    def train(batch: Any) -> Logs:
        for one, kept in zip(trained, batch.numbers["kept"], strict=True):
            one.kept = kept
        return step(batch)

    return step._replace(train=train, draws=(*step.draws, draw))


def linear_rampup(epoch: float, length: float) -> float:
    """How the weight of an unlabelled loss grows: epoch / length, kept within 0 and 1; 1 where length is 0; in epochs.

    Source: MixMatch, section 3.5 (Berthelot et al. 2019).
    """
    return min(max(epoch / length, 0.0), 1.0) if length else 1.0


def warm_up_then_steps(t: int, lr: float, gamma: float, warm_up: int, every: int) -> float:
    """From 0 to `lr`, linearly over the first `warm_up` steps; then lr gamma^k, k = whole multiples of `every` since.

    t, warm_up, every: steps since the start of training. Source: published code for Food-101, not in the paper.
    """
    return lr * t / warm_up if t < warm_up else lr * gamma ** ((t - warm_up) // every)


def scheduled(step: Step, optimizer: torch.optim.Optimizer, rate: Callable[[int], float]) -> Step:
    """`step` with the optimiser's learning rate a function of the step, drawn with the step's numbers: `lr` and
    `next_lr` (), float64, which must lie on the host.

    `lr` is in its logs, too. Afterwards the rate is that of the next step, as schedulers leave it: a checkpoint's
    optimiser says how it would go on.
    """

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"lr": np.array(rate(t)), "next_lr": np.array(rate(t + 1))}

    def use(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    def train(batch: Any) -> Logs:
        now, after = (batch.numbers[name].item() for name in ("lr", "next_lr"))
        use(now)
        logs = step(batch)
        use(after)
        return logs | {"lr": torch.full_like(logs["loss"], now)}

    return step._replace(train=train, draws=(*step.draws, draw))

"""The first stage: an SSL method by itself, whose network labels for itself.

Shape legend: B images (3, S, S), C classes.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from methods.averaged import Averaged
from methods.pseudo_labels import quality


def pretrain(
    ssl: Callable, student: Averaged, streams: Any, schedule: Callable[[int], dict[str, float]] = lambda t: {}
) -> tuple[Callable, Callable]:
    """(step, predict): `step(t) -> logs` trains once; `predict: images -> logits (B, C)` is what is evaluated.

    ssl: an SSL method with its hyper-parameters bound; streams: `labelled` and `unlabelled`, each with `at(t)`;
    schedule: t -> the hyper-parameters that change with the step.
    Pseudo-labels come from the live network in train mode, so its BatchNorm statistics move (published code).
    """

    def step(t: int) -> dict[str, Tensor]:
        ((x,), y), (u, truth) = streams.labelled.at(t), streams.unlabelled.at(t)
        student.live.train()
        loss, logs, pseudo = ssl(student.live, student.live, x, y, u, **schedule(t))
        student.descend(loss)
        return logs | quality(pseudo, truth)

    return step, student.ema

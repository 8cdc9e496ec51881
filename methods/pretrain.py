"""The first stage: an SSL method by itself, whose network labels for itself.

Shape legend: B images (3, S, S), C classes.
"""

from typing import Any

from methods.averaged import Averaged
from methods.method import Logs, Method, Network, Step
from methods.pseudo_labels import quality


def pretrain(method: Method, student: Averaged) -> tuple[Step, Network]:
    """(step, predict): `step(batch) -> logs` trains once; `predict: images -> logits (B, C)` is what is evaluated.

    The batch has `labelled` and `unlabelled` images.
    Pseudo-labels come from the live network in train mode, so its BatchNorm statistics move (published code).
    """

    def step(batch: Any) -> Logs:
        student.live.train()
        loss, logs, pseudo = method.loss(student.live, student.live, batch)
        student.descend(loss)
        return logs | quality(pseudo, batch.unlabelled.labels)

    return step, student.ema

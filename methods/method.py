"""The seams between methods, batches and training: what an SSL method and a classifier learner are.

Shape legend: B labelled images a step, C classes, D features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from methods.pseudo_labels import PseudoLabels

Network = Callable[[Tensor], Tensor]  # images (B, 3, S, S) -> logits (B, C)
Logs = dict[str, Tensor]
Draw = Callable[[int, int], dict[str, np.ndarray]]  # (step t, B) -> numbers by name


def draw_nothing(t: int, rows: int) -> dict[str, np.ndarray]:
    """For what takes no random numbers."""
    return {}


class Method(NamedTuple):
    """An SSL method, with its hyper-parameters. name: in words.

    views: the views that it wants of `labelled` and `unlabelled` images. loss: (model, labeller, batch) -> loss (), its
    parts, and the pseudo-labels; model: the network that learns; labeller: images -> logits, who names a class: the
    model itself in pre-training, head o momentum encoder in CoSSL. draw: (step t, B) -> all numbers that the loss needs
    of step t besides the views, which it finds in `batch.numbers`. It takes them from torch's generator for the CPU.
    state: modules that are saved with a run, by checkpoint key. balanced: whether the network learns to tell classes
    apart as if all were equally frequent.
    """

    name: str
    views: dict[str, tuple[str, ...]]
    loss: Callable[[Any, Network, Any], tuple[Tensor, Logs, PseudoLabels | None]]
    draw: Draw = draw_nothing
    state: dict[str, nn.Module] = {}  # noqa: RUF012 - nobody adds to it
    balanced: bool = False


class Learner(NamedTuple):
    """How a linear head learns on frozen features. name: in words.

    loss: (head, f_x, y, f_u, numbers) -> loss (), its parts: f_x (B, D) class-balanced labelled features with labels y
    (B,), f_u (B, D) those of partners, then those of `views` views of unlabelled images, B rows each. draw: as for a
    `Method`.
    """

    name: str
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor, dict[str, Tensor]], tuple[Tensor, Logs]]
    draw: Draw = draw_nothing
    views: int = 0

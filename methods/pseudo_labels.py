"""Pseudo-labels: what an SSL method guessed for its unlabelled images, and how good the guesses were.

Shape legend: U unlabelled images.
"""

from typing import NamedTuple

from torch import Tensor


class PseudoLabels(NamedTuple):
    """guess: int64 (U,), the guessed classes; selected: bool (U,), whether the loss uses them; None: it uses all."""

    guess: Tensor
    selected: Tensor | None = None


def quality(pseudo: PseudoLabels | None, truth: Tensor) -> dict[str, Tensor]:
    """Shares () of the images selected, of right guesses, and of right ones among the selected (0 if none).

    truth: int64 (U,), the hidden labels, used for nothing but these figures. A method that uses all its guesses has
    only the share of right ones, and one that makes none has no figures.
    """
    if pseudo is None:
        return {}
    right = pseudo.guess == truth
    if pseudo.selected is None:
        return {"acc_u": right.float().mean()}
    return {
        "mask": pseudo.selected.float().mean(),
        "acc_u": right.float().mean(),
        "acc_selected": (right & pseudo.selected).sum() / pseudo.selected.sum().clamp(min=1),
    }

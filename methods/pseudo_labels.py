"""Pseudo-labels: what an SSL method guessed for its unlabelled images, and how good the guesses were.

Shape legend: U unlabelled images.
"""

from typing import NamedTuple

from torch import Tensor


class PseudoLabels(NamedTuple):
    """guess: int64 (U,), the guessed classes; selected: bool (U,), whether the loss uses them; None: it uses all."""

    guess: Tensor
    selected: Tensor | None = None


def quality(pseudo: PseudoLabels | None, truth: Tensor | None) -> dict[str, Tensor]:
    """Shares () of the images selected, of right guesses, and of right ones among the selected (0 if none).

    truth: int64 (U,), the hidden labels, used for nothing but these figures; None: unknown. Left out is what has no
    meaning: shares of right guesses where the truth is unknown, of the selected ones for a method that uses all its
    guesses, everything for one that makes none.
    """
    figures = {}
    if pseudo is not None and pseudo.selected is not None:
        figures["mask"] = pseudo.selected.float().mean()
    if pseudo is not None and truth is not None:
        right = pseudo.guess == truth
        figures["acc_u"] = right.float().mean()
        if pseudo.selected is not None:
            figures["acc_selected"] = (right & pseudo.selected).sum() / pseudo.selected.sum().clamp(min=1)
    return figures

"""Pseudo-labels: what an SSL method guessed for its unlabelled images, and how good the guesses were.

Shape legend: U unlabelled images.
"""

from typing import NamedTuple

from torch import Tensor


class PseudoLabels(NamedTuple):
    """guess: int64 (U,), the guessed classes; selected: bool (U,), whether the loss uses them."""

    guess: Tensor
    selected: Tensor

    def quality(self, truth: Tensor) -> dict[str, Tensor]:
        """Shares () of the images selected, of right guesses, and of right ones among the selected (0 if none).

        truth: int64 (U,), the hidden labels, used for nothing but these figures.
        """
        right = self.guess == truth
        return {
            "mask": self.selected.float().mean(),
            "acc_u": right.float().mean(),
            "acc_selected": (right & self.selected).sum() / self.selected.sum().clamp(min=1),
        }

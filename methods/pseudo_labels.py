"""Pseudo-labels: what an SSL method guessed for its unlabelled images, and how good the guesses were.

Shape legend: U unlabelled images, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# The rows of `tally`; the last three need the truth.
ROWS = ("guessed", "selected", "present", "right", "right_selected")


class PseudoLabels(NamedTuple):
    """guess: int64 (U,), the guessed classes, 0 .. classes - 1; selected: bool (U,), whether the loss uses them; None:
    it uses all.
    """

    guess: Tensor
    classes: int
    selected: Tensor | None = None


def tally(pseudo: PseudoLabels, truth: Tensor | None) -> Tensor:
    """Counts per class, int64 (5, C), in the order of `ROWS`; (2, C) where the truth is unknown (None).

    Of guesses of class c: all, those that the loss uses; of images of class c: all, those guessed right, those guessed
    right and used. truth: int64 (U,), the hidden labels. Never waits for the device.
    """
    everything = torch.ones_like(pseudo.guess)
    used = everything if pseudo.selected is None else pseudo.selected.long()
    counts = everything.new_zeros(len(ROWS), pseudo.classes)
    if truth is None:
        return counts[:2].index_add(1, pseudo.guess, torch.stack([everything, used]))
    right = (pseudo.guess == truth).long()
    counts.index_add_(1, pseudo.guess, torch.stack([everything, used, 0 * used, right, right * used]))
    return counts.index_add_(1, truth, torch.stack([0 * used, 0 * used, everything, 0 * used, 0 * used]))


def quality(pseudo: PseudoLabels | None, truth: Tensor | None) -> dict[str, Tensor]:
    """Shares () of the images selected, of right guesses, and of right ones among the selected (0 if none); and the
    `tally`, under `pseudo`.

    truth: int64 (U,), the hidden labels, used for nothing but these figures; None: unknown. Left out is what has no
    meaning: shares of right guesses where the truth is unknown, of the selected ones for a method that uses all its
    guesses, everything for one that makes none.
    """
    if pseudo is None:
        return {}
    counts = tally(pseudo, truth)
    guessed, selected, *rest = counts.sum(dim=1)
    figures = {} if pseudo.selected is None else {"mask": selected / guessed}
    if truth is not None:
        _, right, right_selected = rest
        figures["acc_u"] = right / guessed
        if pseudo.selected is not None:
            figures["acc_selected"] = right_selected / selected.clamp(min=1)
    return figures | {"pseudo": counts}

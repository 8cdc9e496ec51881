"""Which classes are frequent among the unlabelled images: the flag `--order`.

Shape legend: C classes.
"""

import numpy as np

from utils.errors import UserError


def in_order(counts: np.ndarray, order: str | None, gamma: int) -> np.ndarray:
    """Images per class, int (C,), of the falling `counts` (C,): the largest for the class that the order names first,
    the next for its second, and so on.

    order: `consistent` (0, 1, ...), `reversed` (C - 1, C - 2, ...), or all class numbers with commas between them;
    None: `counts` as they are, rising where gamma is negative. Raises UserError for an order of another number of
    classes, and for one beside a negative gamma.
    """
    if order is None:
        return counts
    if gamma < 0:
        problem = f"--imb_ratio_u {gamma} has reversed the classes already"
        raise UserError(f"--order: {problem}; leave one of them out, or give --imb_ratio_u {-gamma}")
    named = {"consistent": range(len(counts)), "reversed": range(len(counts))[::-1]}
    classes = list(named[order]) if order in named else [int(c) for c in order.split(",")]
    if len(classes) != len(counts):
        raise UserError(f"--order: names {len(classes)} classes, the data set has {len(counts)}; name each once")
    ranked = np.empty_like(counts)
    ranked[classes] = counts
    return ranked


def refuse_order(order: str | None, dataset: str) -> None:
    """Raise UserError where an order is given for unlabelled images that all are taken."""
    if order is not None:
        raise UserError(f"--order: {dataset} has unlabelled images of its own, all of which are taken; leave it out")

"""Training sets that are long-tailed by themselves, or by a profile of their own: a share of each class is labelled.

Shape legend: N training images, C classes, L labelled and U unlabelled images.
"""

import numpy as np

from dataset.images import Dataset
from dataset.long_tail import LongTailed, class_counts, split
from utils.errors import UserError
from utils.text import warn


def labelled_share(dataset: Dataset, share: float, seed: int, include_labelled: bool) -> LongTailed:
    """A share of each class of `dataset.train` is labelled, rounded half to even; the unlabelled set is the rest, with
    `include_labelled` all of it.

    The data set is long-tailed by itself (Small-ImageNet-127). share: above 0, at most 1; seed: see `split`.
    Raises `UserError` if a class gets no labelled image, or no image is unlabelled.
    """
    sizes = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    n_l = _labelled(np.rint(share * sizes), sizes, share, dataset.classes)
    return _shared(dataset, n_l, sizes, share, seed, include_labelled)


def profiled_share(dataset: Dataset, num_max: int, gamma: int, share: float, include_labelled: bool) -> LongTailed:
    """Of each class the first images of `dataset.train` in file order, as many as `class_counts` of `num_max` and gamma
    or as there are, and of these again the first `share` is labelled, rounded down; the unlabelled set is the rest of
    them, with `include_labelled` all. Nothing is drawn: no seed changes it (ImageNet-1k-LT, published code of SimPro).

    Warns of classes that are too small. Raises `UserError` as `labelled_share`.
    """
    wanted = class_counts(num_max, len(dataset.classes), gamma)
    sizes = np.minimum(wanted, np.bincount(dataset.train.labels, minlength=len(wanted)))
    if short := int((sizes < wanted).sum()):
        problem = f"too few images of {short} of the {len(wanted)} classes"
        warn(f"--data_root: {problem}; {sizes.sum()} are taken in all, not {wanted.sum()}")
    n_l = _labelled(np.minimum(share * wanted, sizes), sizes, share, dataset.classes)
    return _shared(dataset, n_l, sizes, share, 0, include_labelled)


def _labelled(numbers: np.ndarray, sizes: np.ndarray, share: float, classes: tuple[str, ...]) -> np.ndarray:
    """Labelled images per class, int64 (C,), rounded down. Raises UserError where that is none."""
    n_l = numbers.astype(np.int64)
    if n_l.min() == 0:
        c = int(n_l.argmin())
        problem = f"class {c} ({classes[c]}) has {sizes[c]} images, so none is labelled"
        raise UserError(f"--labeled_percent {share}: {problem}; raise it")
    return n_l


def _shared(
    dataset: Dataset, n_l: np.ndarray, sizes: np.ndarray, share: float, seed: int, include_labelled: bool
) -> LongTailed:
    """n_l, sizes: labelled images of each class, and all that are taken of it, int64 (C,)."""
    labels = dataset.train.labels
    labelled, unlabelled = split(labels, n_l, sizes - n_l, seed, include_labelled, dataset.classes)
    if not len(unlabelled):
        raise UserError(f"--labeled_percent {share}: leaves no unlabelled image; lower it, or --unlabelled included")
    counts = sizes if include_labelled else sizes - n_l
    return LongTailed(labelled, np.sort(unlabelled), n_l, counts)

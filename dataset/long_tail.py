"""Long-tailed class counts, and the split of a training set into labelled and unlabelled images.

Shape legend: N training images, C classes, L labelled and U unlabelled images, S x S pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dataset.images import Dataset
from dataset.layouts import UNKNOWN
from dataset.orders import in_order, refuse_order
from utils.errors import UserError
from utils.flags import LONG_TAIL
from utils.text import warn


class LongTailed(NamedTuple):
    """Which training images are labelled and which unlabelled: indices int64 (L,) and (U,), each sorted by class.

    counts, unlabelled_counts: int64 (C,), the images of each class that the one and the other set hold; None: unknown.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    counts: np.ndarray
    unlabelled_counts: np.ndarray | None


def class_profile(num_classes: int, gamma: int) -> list[float]:
    """Size of each class relative to the largest one, (C,), C >= 2, before any rounding: |gamma|^(-i / (C - 1)).

    gamma: imbalance ratio, largest to smallest class, negative to reverse the order of the classes, never 0.
    """
    mu = (1 / abs(gamma)) ** (1 / (num_classes - 1))
    shares = [mu**i for i in range(num_classes)]
    return shares[::-1] if gamma < 0 else shares


def class_counts(num_max: float, num_classes: int, gamma: int) -> np.ndarray:
    """Images per class, int64 (C,): class i of C >= 2 has num_max |gamma|^(-i / (C - 1)), rounded down.

    num_max: size of the largest class, may be fractional; gamma: imbalance ratio, largest to smallest class,
    negative to reverse the order of the classes, never 0.
    Source: paper, section 4; rounding as in the published code.
    """
    counts = [int(num_max * share) for share in class_profile(num_classes, abs(gamma))]
    counts[-1] = int(num_max / abs(gamma))  # here the error of the power could cost an image
    return np.array(counts[::-1] if gamma < 0 else counts, dtype=np.int64)


def split(
    labels: np.ndarray,
    labelled_counts: np.ndarray,
    unlabelled_counts: np.ndarray,
    seed: int,
    include_labelled: bool,
    classes: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the labelled (L,) and unlabelled (U,) images, int64, as the published code draws them.

    Class by class: the first n_l images are labelled, the n_u after them unlabelled; with `include_labelled` the
    unlabelled set starts with the n_l labelled images. labels: int (N,); labelled_counts, unlabelled_counts: n_l and
    n_u of each class, int (C,); seed: below 2^32, shuffles the images of each class, 0 keeps them in file order;
    classes: names for error messages. Raises `UserError` if a class has too few images.
    """
    legacy = np.random.RandomState(seed)  # the published splits come from this generator
    labelled, unlabelled = [], []
    for c, (n_l, n_u) in enumerate(zip(labelled_counts, unlabelled_counts, strict=True)):
        members = np.flatnonzero(labels == c)
        if n_l + n_u > len(members):
            name = f" ({classes[c]})" if classes else ""
            raise UserError(
                f"--num_max/--ratio: class {c}{name} needs {n_l + n_u} images ({n_l} labelled, {n_u} "
                f"unlabelled) but the training set has only {len(members)}; lower --num_max or --ratio"
            )
        if seed != 0:
            legacy.shuffle(members)
        labelled.append(members[:n_l])
        unlabelled.append(members[0 if include_labelled else n_l : n_l + n_u])
    return np.concatenate(labelled), np.concatenate(unlabelled)


class ImbalanceFlags(Protocol):
    """The flags of a long-tailed split. num_max: labelled images of the largest class; ratio: unlabelled per labelled
    image of it; imb_ratio_l, imb_ratio_u: gamma of each set, see `class_counts`; order: see `in_order`; manualSeed: see
    `split`.
    """

    num_max: int
    ratio: float
    imb_ratio_l: int
    imb_ratio_u: int
    order: str | None
    manualSeed: int


def long_tailed(dataset: Dataset, args: ImbalanceFlags, include_labelled: bool) -> LongTailed:
    """Draw a long-tailed labelled and a long-tailed unlabelled set from `dataset.train` (paper, section 4); images of
    unknown class, where it has some (STL-10), are the unlabelled set.

    include_labelled: see `split`. Raises `UserError` for numbers that the training set cannot serve.
    """
    names = dataset.classes
    n_l = class_counts(args.num_max, len(names), args.imb_ratio_l)
    if n_l.min() == 0:
        c = int(n_l.argmin())
        raise UserError(
            f"--num_max {args.num_max} --imb_ratio_l {args.imb_ratio_l}: class {c} ({names[c]}) gets no labelled image;"
            " raise --num_max or lower --imb_ratio_l"
        )
    unknown = np.flatnonzero(dataset.train.labels == UNKNOWN)
    if len(unknown):
        return _beside_own(dataset, args, n_l, unknown, include_labelled)
    n_u = class_counts(args.ratio * args.num_max, len(names), args.imb_ratio_u)
    n_u = in_order(n_u, args.order, args.imb_ratio_u)
    if n_u.sum() == 0:
        raise UserError(f"--ratio {args.ratio}: no unlabelled image with --num_max {args.num_max}; raise --ratio")
    labelled, unlabelled = split(dataset.train.labels, n_l, n_u, args.manualSeed, include_labelled, names)
    return LongTailed(labelled, unlabelled, n_l, n_u + n_l if include_labelled else n_u)


def _beside_own(
    dataset: Dataset, args: ImbalanceFlags, n_l: np.ndarray, unknown: np.ndarray, include_labelled: bool
) -> LongTailed:
    """n_l: labelled images per class (C,); unknown: which images are of unknown class, (U,)."""
    refuse_order(args.order, "this data set")
    usual = {one.name: one.options["default"] for one in LONG_TAIL}
    if given := [f"--{name}" for name in ("ratio", "imb_ratio_u") if getattr(args, name) != usual[name]]:
        warn(f"{' and '.join(given)}: without effect, for all unlabelled images are taken, and their classes not known")
    labels, nothing = dataset.train.labels, np.zeros_like(n_l)
    labelled, _ = split(labels, n_l, nothing, args.manualSeed, include_labelled=False, classes=dataset.classes)
    return LongTailed(labelled, np.concatenate([labelled, unknown]) if include_labelled else unknown, n_l, None)

"""What every loader returns: uint8 pixels or files with labels, and the facts of a data set.

Shape legend: N images, 3 channels, S x S pixels, C classes.
"""

from typing import NamedTuple

import numpy as np

Views = dict[str, tuple[str, ...]]  # of labelled and unlabelled images, those that a method wants


class Images(NamedTuple):
    """pixels: uint8 (N, 3, S, S); labels: int64 (N,), values 0 .. C-1."""

    pixels: np.ndarray
    labels: np.ndarray


class Files(NamedTuple):
    """Images that are decoded when a batch asks for them. paths: N files; labels: int64 (N,), values 0 .. C-1."""

    paths: list[str]
    labels: np.ndarray


class Dataset(NamedTuple):
    """A training set, a test set and what augmentation needs to know of them.

    mean, std: per-channel statistics of pixels scaled to 0..1; classes: C names in label order;
    flip: whether a mirrored image keeps its meaning (digits don't);
    pixel_scale: factor on RandAugment's magnitudes given in pixels, which were published for 32-pixel images;
    held_out: labelled images that are in neither set, None for none; the test set itself where there is no other.
    """

    train: Images | Files
    test: Images | Files
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    flip: bool = True
    pixel_scale: float = 1.0
    held_out: Images | None = None

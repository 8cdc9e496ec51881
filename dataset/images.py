"""What every loader returns: uint8 pixels or files with labels, and the facts of a data set.

Shape legend: N images, 3 channels, S x S pixels, C classes.
"""

from typing import Any, NamedTuple

import numpy as np

Views = dict[str, tuple[str, ...]]  # of labelled and unlabelled images, those that a method wants


class Images(NamedTuple):
    """pixels: uint8 (N, 3, S, S); labels: int64 (N,), values 0 .. C-1."""

    pixels: np.ndarray
    labels: np.ndarray

    def some(self, rows: np.ndarray) -> "Images":
        """Those that `rows`, bool (N,) or indices, choose."""
        return Images(self.pixels[rows], self.labels[rows])

    def with_more(self, others: Any) -> "Images":
        """And others after them."""
        return Images(np.concatenate([self.pixels, others.pixels]), np.concatenate([self.labels, others.labels]))


class Files(NamedTuple):
    """Images that are decoded when a batch asks for them. paths: N files; labels: int64 (N,), values 0 .. C-1;
    upright: whether they are turned as their Exif says (published code: not those of Food-101); sweep: how many are
    swept at a time.
    """

    paths: list[str]
    labels: np.ndarray
    upright: bool = False
    sweep: int = 256

    def some(self, rows: np.ndarray) -> "Files":
        """As those of `Images`."""
        return self._replace(paths=np.array(self.paths, dtype=object)[rows].tolist(), labels=self.labels[rows])

    def with_more(self, others: Any) -> "Files":
        return self._replace(paths=self.paths + others.paths, labels=np.concatenate([self.labels, others.labels]))


class Dataset(NamedTuple):
    """A training set, a test set and what augmentation needs to know of them.

    mean, std: per-channel statistics of pixels scaled to 0..1; classes: C names in label order;
    flip: whether a mirrored image keeps its meaning (digits don't);
    pixel_scale: factor on RandAugment's magnitudes given in pixels, which were published for 32-pixel images;
    held_out: labelled images that are in neither set, None for none; the test set itself where there is no other;
    files: of one's own images, facts by which parts are known, see `files_key`.
    """

    train: Images | Files
    test: Images | Files
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    flip: bool = True
    pixel_scale: float = 1.0
    held_out: Images | Files | None = None
    files: dict[str, str] | None = None

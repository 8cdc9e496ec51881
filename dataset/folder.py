"""A user's own images: read and resized, or, where they are large, as files.

Shape legend: N training images (labelled, then unlabelled), 3 channels, S x S pixels, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dataset.feature_cache import files_key
from dataset.held_out import HELD_OUT_FILES, TEST_FILES, held_out
from dataset.image_files import read_images
from dataset.images import Dataset, Files, Images
from dataset.layouts import LAYOUT, UNKNOWN, Listed, list_images, refuse_untested
from dataset.long_tail import LongTailed
from models.weights import IMAGENET_LOOK
from utils.errors import UserError

LARGEST_IN_MEMORY = 64  # pixels a side: larger images take too much memory, and are decoded for each batch
# Of images in files, at a time: as of 500 in memory. A Wide ResNet's first activations have as many places.
SWEPT_PIXELS = 500 * LARGEST_IN_MEMORY**2


def load_folder(
    root: Path, size: int, include_labelled: bool, skip_corrupt: bool, holdout: float | None = None, seed: int = 0
) -> tuple[Dataset, LongTailed]:
    """The images that `list_images` finds, resized to size x size pixels, and which of them are labelled; above 64
    pixels they are files, of which nothing is decoded here.

    Where each unlabelled image has a label by its name, these serve to judge pseudo-labels, and for nothing else;
    otherwise all are -1. Without unlabelled images, the labelled ones are the unlabelled set. Normalisation: mean and
    standard deviation of all training images, or ImageNet's for files. include_labelled, skip_corrupt: see `split` and
    `read_images`; holdout, seed: see `held_out`, None: nothing is held out. What is held out is the test set, too,
    where there is none. Raises `UserError` for what `list_images` refuses, for damaged images, and without anything to
    test on.
    """
    listing = list_images(root, skip_corrupt)
    refuse_untested(listing, root, holdout)
    (labelled, paths), (unlabelled, _), (test, _) = (_images(part, size, skip_corrupt) for part in listing[1:])
    refuse_empty(labelled.labels, listing.labelled, listing.classes)
    held = None
    known_by = {TEST_FILES: files_key(root, listing.test.paths)} if listing.test.paths else {}
    if holdout is not None:
        chosen = held_out(labelled.labels, holdout, seed)
        labelled, held = labelled.some(~chosen), labelled.some(chosen)
        known_by[HELD_OUT_FILES] = files_key(root, [paths[i] for i in np.flatnonzero(chosen)])

    if (unlabelled.labels == UNKNOWN).any():
        unlabelled.labels[:] = UNKNOWN
    train = labelled.with_more(unlabelled)
    everything, n = np.arange(len(train.labels)), len(labelled.labels)
    members = everything if include_labelled or n == len(everything) else everything[n:]
    counts = np.bincount(labelled.labels, minlength=len(listing.classes))
    found = train.labels[members]
    known = None if UNKNOWN in found else np.bincount(found, minlength=len(listing.classes))
    tested = test if listing.test.paths else held
    look = IMAGENET_LOOK if isinstance(train, Files) else _statistics(train.pixels)
    dataset = Dataset(train, tested, *look, listing.classes, held_out=held, files=known_by)
    return dataset, LongTailed(everything[:n], members, counts, known)


def _images(part: Listed, size: int, skip_corrupt: bool) -> tuple[Any, list[Path]]:
    """`Images`, or above LARGEST_IN_MEMORY `Files`; and where they lie."""
    if size > LARGEST_IN_MEMORY:
        sweep = max(1, SWEPT_PIXELS // size**2)
        labels = np.array(part.labels, dtype=np.int64)
        return Files([*map(str, part.paths)], labels, upright=True, sweep=sweep), part.paths
    pixels, kept = read_images(part.paths, size, skip_corrupt)
    if part.paths and not kept:
        raise UserError(f"{part.place}: holds no readable image; {LAYOUT}")
    labels = np.array([part.labels[i] for i in kept], dtype=np.int64)
    return Images(pixels, labels), [part.paths[i] for i in kept]


def refuse_empty(labels: np.ndarray, part: Listed, classes: tuple[str, ...]) -> None:
    """Raise UserError if no labelled image of a class could be read. labels: of those that could, int64 (L,)."""
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise UserError(f"{part.place}: no image of class {classes[counts.argmin()]} can be read; replace some")


def _statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (3,) per channel of uint8 pixels (N, 3, S, S) scaled to 0 .. 1, from histograms."""
    values, counts = np.arange(256) / 255, np.zeros((3, 256))
    for images in np.array_split(pixels, -(-len(pixels) // 1000)):  # bincount works on a copy eight times as large
        counts += [np.bincount(images[:, c].ravel(), minlength=256) for c in range(3)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = [float(share @ values) for share in shares]
    std = [float(np.sqrt(share @ (values - m) ** 2)) for share, m in zip(shares, mean, strict=True)]
    return tuple(mean), tuple(max(s, 1e-3) for s in std)

"""A user's own images: class folders under `labelled/` and `test/`, anything under `unlabelled/`.

Shape legend: N training images (labelled, then unlabelled), 3 channels, S x S pixels, C classes.
"""

import re
import unicodedata
from pathlib import Path

import numpy as np

from dataset.image_files import foreign, image_files, read_images
from dataset.images import Dataset, Images
from dataset.long_tail import LongTailed
from utils.errors import UserError

UNKNOWN = -1
LAYOUT = "--data_root needs labelled/CLASS/*.jpg, unlabelled/ and test/CLASS/*.jpg (or .png, ...)"


def load_folder(root: Path, size: int, include_labelled: bool, skip_corrupt: bool) -> tuple[Dataset, LongTailed]:
    """The images below `root`, resized to size x size pixels, and which of them are labelled.

    Classes are the folders under labelled/, in alphabetical order. Images under unlabelled/ may lie in any folder, or
    loose; where each has a label by `_label`, these serve to judge pseudo-labels, and for nothing else; otherwise all
    are -1. Normalisation: mean and standard deviation of all training images. include_labelled, skip_corrupt: see
    `split` and `read_images`. Raises `UserError` for folders that are missing or empty, for images in labelled/ and
    test/ outside of class folders, for classes in test/ that labelled/ lacks, and for damaged images.
    """
    folders = [root / part for part in ("labelled", "unlabelled", "test")]
    paths = {folder: image_files(folder, skip_corrupt) if folder.is_dir() else [] for folder in folders}
    classes, tested = (_classes(folder, paths[folder]) for folder in folders[::2])
    if unknown := sorted(set(tested) - set(classes)):
        raise UserError(f"{root / 'test'}: holds classes that labelled/ lacks: {', '.join(unknown)}")
    labelled, unlabelled, test = (_read(*part, classes, size, skip_corrupt) for part in paths.items())

    pixels = np.concatenate([labelled.pixels, unlabelled.pixels])
    if (unlabelled.labels == UNKNOWN).any():
        unlabelled.labels[:] = UNKNOWN
    train = Images(pixels, np.concatenate([labelled.labels, unlabelled.labels]))
    counts = np.bincount(labelled.labels, minlength=len(classes))
    if not counts.all():
        raise UserError(f"{root / 'labelled' / classes[counts.argmin()]}: holds no readable image; {LAYOUT}")
    everything = np.arange(len(pixels))
    members = everything if include_labelled else everything[len(labelled.labels) :]
    found = train.labels[members]
    known = None if UNKNOWN in found else np.bincount(found, minlength=len(classes))
    dataset = Dataset(train, test, *_statistics(pixels), classes)
    return dataset, LongTailed(everything[: len(labelled.labels)], members, counts, known)


def _classes(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    """Names of the class folders, in which the images `paths` lie. Raises UserError if there are too few, one is empty,
    or images lie beside them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {LAYOUT}")
    names = sorted({_name(path.name) for path in folder.iterdir() if path.is_dir() and not foreign(path.name)})
    if len(names) < 1 + (folder.name == "labelled"):
        needed = "two or more" if folder.name == "labelled" else "some"
        raise UserError(f"{folder}: has {len(names)} class folders and needs {needed}; {LAYOUT}")
    for path in paths:
        if path.parent == folder:
            raise UserError(f"{path}: lies in no class folder; move it into one, or to unlabelled/")
    filled = {_name(path.relative_to(folder).parts[0]) for path in paths}
    if empty := [name for name in names if name not in filled]:
        raise UserError(f"{folder / empty[0]}: holds no image of its own; put some there, or remove the folder")
    return tuple(names)


def _name(text: str) -> str:
    """In one spelling: file systems and unpacking programs write é as one character or as two."""
    return unicodedata.normalize("NFC", text)


def _read(folder: Path, paths: list[Path], classes: tuple[str, ...], size: int, skip_corrupt: bool) -> Images:
    """The images `paths` below a folder, labelled by `_label`."""
    if not paths:
        raise UserError(f"{folder}: holds no image; {LAYOUT}")
    number = {name: c for c, name in enumerate(classes)}
    pixels, kept = read_images(paths, size, skip_corrupt)
    if not kept:
        raise UserError(f"{folder}: holds no readable image; {LAYOUT}")
    labels = [_label(paths[i].relative_to(folder), number) for i in kept]
    return Images(pixels, np.array(labels, dtype=np.int64))


def _label(path: Path, number: dict[str, int]) -> int:
    """The class (0 .. C-1) that the first folder on a path is called; or a loose file, up to one of its `_` or `.`, as
    in `cat_12.jpg`, where the longest counts; -1 for none.
    """
    first, *rest = map(_name, path.parts)
    names = [first] if rest else [first[: cut.start()] for cut in re.finditer("[_.]", first)]
    return next((number[name] for name in reversed(names) if name in number), UNKNOWN)


def _statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (3,) per channel of uint8 pixels (N, 3, S, S) scaled to 0 .. 1, from histograms."""
    values, counts = np.arange(256) / 255, np.zeros((3, 256))
    for images in np.array_split(pixels, -(-len(pixels) // 1000)):  # bincount works on a copy eight times as large
        counts += [np.bincount(images[:, c].ravel(), minlength=256) for c in range(3)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = [float(share @ values) for share in shares]
    std = [float(np.sqrt(share @ (values - m) ** 2)) for share, m in zip(shares, mean, strict=True)]
    return tuple(mean), tuple(max(s, 1e-3) for s in std)

"""Food-101 from the official archive: `images/CLASS/ID.jpg`, and lists of them in `meta/train.json`, `meta/test.json`.

Shape legend: N images (75,750 training, 25,250 test, JPEGs of up to 512 pixels), C = 101 classes.
"""

import json
from pathlib import Path
from typing import Protocol

import numpy as np

from dataset.data import Data
from dataset.download import await_download, downloading
from dataset.image_loader import ImageLoader
from dataset.images import Dataset, Files
from dataset.long_tail import ImbalanceFlags, long_tailed
from dataset.streams import Sampling, file_streams
from models.weights import IMAGENET_LOOK
from utils.errors import UserError

_HOME = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
FOLDER, PARTS = "food-101", ("images", "meta/train.json", "meta/test.json")
MEAN, STD = IMAGENET_LOOK
REMEDY = f"unpack food-101.tar.gz from {_HOME} anew"


class FoodFlags(ImbalanceFlags, Protocol):
    """The flags of the Food-101 recipes that say what is trained on."""

    data_root: Path
    unlabelled: str
    batch_size: int
    mu: int


def open_food101(args: FoodFlags, wanted: dict[str, tuple[str, ...]], loader: ImageLoader) -> Data:
    """The streams of a long-tailed Food-101; prints the class counts. wanted: the views of the SSL method.

    Raises UserError where files or flags are wrong.
    """
    images = load_food101(args.data_root)
    split = long_tailed(images, args, include_labelled=args.unlabelled == "included")
    data = file_streams(images, split, wanted, Sampling(args.batch_size, args.manualSeed, args.mu), loader)
    print(data.table())
    return data


def load_food101(root: Path) -> Dataset:
    """The files in `root`/food-101, downloaded into it if absent; `root` may also be that folder itself.

    Classes are numbered in the order of their names, images stand in the order of the lists. Normalisation: ImageNet's
    (published code). Nothing is decoded here. Raises `UserError` for a download that fails, for parts that are missing
    or damaged, for classes without images, and for classes in test that training lacks.
    """
    await_download(root)
    folder = root if (root / "meta").is_dir() else root / FOLDER
    if not folder.exists():
        _download(root)
    if missing := [part for part in PARTS if not (folder / part).exists()]:
        raise UserError(f"{folder / missing[0]}: missing from the archive; {REMEDY}")
    train, test = (_read_list(folder / part) for part in PARTS[1:])
    if unknown := sorted(set(test) - set(train)):
        raise UserError(f"{folder / PARTS[2]}: holds classes that {PARTS[1]} lacks: {', '.join(unknown)}; {REMEDY}")
    classes = tuple(sorted(train))
    if len(classes) < 2:
        raise UserError(f"{folder / PARTS[1]}: has {len(classes)} classes and needs two or more; {REMEDY}")
    _check_images(folder / "images", train, test)
    return Dataset(*(_files(folder / "images", part, classes) for part in (train, test)), MEAN, STD, classes)


def _download(root: Path) -> None:
    from torchvision.datasets import Food101

    with downloading("Food-101", "food-101.tar.gz, unpacked,", _HOME, root, root):
        Food101(root, download=True)


def _read_list(path: Path) -> dict[str, list[str]]:
    """class -> its images as CLASS/ID, of a file in `meta`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {label: [name.split("/") for name in images] for label, images in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a list of images by class ({error}); {REMEDY}") from None
    for label, images in names.items():
        if not images:
            raise UserError(f"{path}: class {label} has no images; {REMEDY}")
        if wrong := [name for name in images if len(name) != 2 or name[0] != label]:
            raise UserError(f"{path}: {'/'.join(wrong[0])} is no image of class {label}; {REMEDY}")
    return content


def _check_images(folder: Path, *parts: dict[str, list[str]]) -> None:
    """Raise UserError unless all listed images are there: a folder's names are read at once, not file by file."""
    for label in parts[0]:
        there = {path.name for path in (folder / label).iterdir()} if (folder / label).is_dir() else set()
        if not there:
            raise UserError(f"{folder / label}: holds no image; {REMEDY}")
        listed = [f"{name.split('/')[1]}.jpg" for part in parts for name in part.get(label, [])]
        if missing := [name for name in listed if name not in there]:
            more = f" (and {len(missing) - 1} more of that class)" if len(missing) > 1 else ""
            raise UserError(f"{folder / label / missing[0]}: missing{more}; {REMEDY}")


def _files(folder: Path, part: dict[str, list[str]], classes: tuple[str, ...]) -> Files:
    number = {name: c for c, name in enumerate(classes)}
    paths = [f"{folder}/{name}.jpg" for images in part.values() for name in images]
    labels = [number[label] for label, images in part.items() for _ in images]
    return Files(paths, np.array(labels, dtype=np.int64))

"""Downsampled ImageNet, made by prepare_small_imagenet_127.py: Small-ImageNet-127, with the 1000 classes joined to 127,
and ImageNet-1k-LT, with all of them.

Shape legend: N images (1,281,167 training, 50,000 test), 3 channels, S x S pixels, S = 32 or 64, C = 127 or 1000.
"""

import csv
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from dataset.data import Data
from dataset.images import Dataset, Images
from dataset.shares import labelled_share, profiled_share
from dataset.streams import Sampling, streams
from utils.errors import UserError
from utils.text import reason

NUM_CLASSES, SIZES = {"small_imagenet127": 127, "small_imagenet1k": 1000}, (32, 64)
# ImageNet-1k-LT: images of the largest class, and gamma. Source: published code of SimPro.
NUM_MAX, GAMMA = 1280, 256
# Mean and standard deviation. Source: published code.
SMALL_LOOK = (0.48109809, 0.45747185, 0.40785507), (0.26040889, 0.2532126, 0.26820634)
PARTS = ("train", "val")
PREPARE = "make it with python prepare_small_imagenet_127.py --source ARCHIVES --out"


def class_map(number: int = 127) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which class (0 to C - 1) each label of downsampled ImageNet (1 to 1000) belongs to, int64 (1001,) with -1 for
    label 0, and the names of the classes. Source: the published code's data, `small_imagenet127.csv` beside this file.
    number: C; of 1000 classes each is a label, and named by it.
    """
    if number == 1000:
        return np.arange(-1, 1000), tuple(map(str, range(1, 1001)))
    classes, names = np.full(1001, -1), []
    with (Path(__file__).parent / "small_imagenet127.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for span in row["labels"].split():
                first, _, last = span.partition("-")
                classes[int(first) : int(last or first) + 1] = int(row["class"])
            names.append(row["name"])
    return classes, tuple(names)


def file_names(part: str, size: int, classes: int) -> tuple[str, str]:
    """The prepared files of a part, `train` or `val`: uint8 pixels (N, 3, S, S), and int64 labels (N,). Both data sets
    have the same pixels.
    """
    return f"{part}_{size}_images.npy", f"{part}_{size}_labels{'' if classes == 127 else f'_{classes}'}.npy"


class SmallImagenetFlags(Protocol):
    """The flags of the recipes that say what is trained on."""

    dataset: str
    data_root: Path
    img_size: int
    labeled_percent: float
    unlabelled: str
    batch_size: int
    mu: int
    manualSeed: int


def open_small_imagenet(args: SmallImagenetFlags, wanted: dict[str, tuple[str, ...]], device: torch.device) -> Data:
    """The streams of the prepared set; prints the class counts. wanted: the views of the SSL method; classifier
    learning sees weak ones (published code). Raises UserError where files or flags are wrong.
    """
    images = load_small_imagenet(args.data_root, args.img_size, NUM_CLASSES[args.dataset])
    share, include_labelled = args.labeled_percent, args.unlabelled == "included"
    if args.dataset == "small_imagenet1k":
        split = profiled_share(images, NUM_MAX, GAMMA, share, include_labelled)
    else:
        split = labelled_share(images, share, args.manualSeed, include_labelled)
    data = streams(images, split, wanted, Sampling(args.batch_size, args.manualSeed, args.mu, "weak"), device)
    print(data.table())
    return data


def load_small_imagenet(root: Path, size: int, classes: int = 127) -> Dataset:
    """The prepared set in the folder `root`, its pixels memory-mapped: nothing is read before a batch asks for it.

    Normalisation: the published code's. Raises `UserError` for files that are missing, cut short or of other shapes.
    """
    train, test = (_part(root, part, size, classes) for part in PARTS)
    return Dataset(train, test, *SMALL_LOOK, class_map(classes)[1])


def _part(root: Path, part: str, size: int, classes: int) -> Images:
    paths = [root / name for name in file_names(part, size, classes)]
    remedy = f"{PREPARE} {root}{'' if classes == 127 else f' --classes {classes}'}"
    try:
        pixels, labels = (np.lib.format.open_memmap(path, mode="r") for path in paths)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; {remedy}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"--data_root {root}: {part} files damaged ({reason(error)}); make them anew: {remedy}"
        ) from None
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size) or labels.shape != pixels.shape[:1]:
        raise UserError(f"{paths[0]}: not uint8 images of {size} pixels with a label each; {remedy}")
    labels = np.array(labels, dtype=np.int64)
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{paths[1]}: not labels from 0 to {classes - 1}; {remedy}")
    return Images(pixels, labels)

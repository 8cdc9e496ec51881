"""Flags for what checkpoints of the published code don't tell: classes, their labelled images, the images' look.

Shape legend: C classes.
"""

import os
import unicodedata
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dataset import food101
from dataset.cifar import CIFAR10_LOOK, CIFAR100_LOOK
from dataset.crops import resized
from dataset.small_imagenet127 import SMALL_LOOK, class_map
from reporting.trained import Model
from utils.args import Parser
from utils.errors import UserError
from utils.flag_types import image_size, positive_int


class Prepared(NamedTuple):
    """How the published code prepares a data set's images. network, classes: by which its checkpoints are recognised;
    img_size: side, pixels, None where it is a choice; look: mean and standard deviation, (3,) each.
    """

    network: str
    classes: int
    img_size: int | None
    look: tuple[tuple[float, ...], tuple[float, ...]]


PREPARED = {
    "cifar10": Prepared("WideResNet", 10, 32, CIFAR10_LOOK),
    "cifar100": Prepared("WideResNet", 100, 32, CIFAR100_LOOK),
    "food101": Prepared("TorchvisionResNet", 101, 224, (food101.MEAN, food101.STD)),
    "small_imagenet127": Prepared("ResNet50", 127, None, SMALL_LOOK),
}
PUBLISHED_FLAGS = ("classes", "labelled_counts", "dataset", "img_size")  # flags


class PublishedFlags(Protocol):
    """Each None where it isn't given."""

    classes: list[str] | None
    labelled_counts: list[int] | None
    dataset: str | None
    img_size: int | None


def add_published_flags(parser: Parser) -> None:
    """Add them."""
    add = parser.add_argument
    published = "of a checkpoint of the published code, which doesn't tell: "
    about = "names of the classes, with commas between them, or a file with one a line"
    add("--classes", type=class_list, metavar="A,B,...", help=published + about)
    about = "labelled images of each class, likewise; without them, no class is called many, medium or few"
    add("--labelled_counts", type=count_list, metavar="N,N,...", help=published + about)
    about = "data set whose images it was trained on; unless given, the published one with such a network"
    add("--dataset", choices=PREPARED, help=published + about)
    about = "side of its images; unless given, the published one: 32, on Food-101 224 (small_imagenet127: 32 or 64)"
    add("--img_size", type=image_size, help=published + about)


def facts_of(model: Model, flags: PublishedFlags) -> dict[str, Any]:
    """`classes`, `labelled_counts` (or None), `dataset` (None in a checkpoint of ours), `img_size`, `mean`, `std`, on
    Food-101 `resize`: of a checkpoint that tells them, or by the flags. Raises UserError for a flag that is missing,
    wrong, or not needed.
    """
    if model.facts:
        if given := [name for name in PUBLISHED_FLAGS if getattr(flags, name) is not None]:
            raise UserError(f"--{given[0]}: {model.checkpoint} tells it itself; leave --{given[0]} out")
        return {"dataset": None} | model.facts
    dataset = flags.dataset or _dataset_of(model)
    if (size := flags.img_size or PREPARED[dataset].img_size) is None:
        raise UserError(f"--img_size: {model.checkpoint} doesn't tell whether its images had 32 or 64 pixels; give it")
    counts = flags.labelled_counts and one_each(flags.labelled_counts, "--labelled_counts", model)
    facts = {"dataset": dataset, "classes": _class_names(model, flags.classes, dataset), "labelled_counts": counts}
    mean, std = PREPARED[dataset].look
    facts |= {"img_size": size, "mean": mean, "std": std}
    return facts | ({"resize": resized(size)} if dataset == "food101" else {})


def _dataset_of(model: Model) -> str:
    """The only published data set of such networks."""
    for name, one in PREPARED.items():
        if (one.network, one.classes) == (type(model.predict).__name__, model.classes):
            return name
    problem = f"--dataset: {model.checkpoint} doesn't tell how its images were prepared"
    raise UserError(f"{problem}; give the one that they were prepared as: {', '.join(PREPARED)}")


def _class_names(model: Model, given: list[str] | None, dataset: str) -> list[str]:
    """Raises UserError where they aren't told, or are another number."""
    if given is not None:
        return one_each(given, "--classes", model)
    if dataset == "small_imagenet127" and model.classes == PREPARED[dataset].classes:
        return list(class_map()[1])
    how = f"{model.classes} names with commas between them, or a file with one a line"
    raise UserError(f"--classes: {model.checkpoint} doesn't name its classes; give --classes with {how}")


def one_each(given: list[Any], flag: str, model: Model) -> list[Any]:
    """What a flag lists, (C,). Raises UserError unless it is one entry for each class."""
    if len(given) != model.classes:
        problem = f"{len(given)} entries, and {model.checkpoint} tells {model.classes} classes apart"
        raise UserError(f"{flag}: {problem}; give one for each class, in the order of their numbers")
    return given


def class_list(text: str) -> list[str]:
    """A type for argparse: names of classes, see `_entries`."""
    names = _entries(text)
    seen = [unicodedata.normalize("NFC", name) for name in names]
    if twice := [name for name in seen if seen.count(name) > 1]:
        raise ArgumentTypeError(f"{twice[0]} stands there twice; give each class a name of its own")
    return names


def count_list(text: str) -> list[int]:
    """A type for argparse: numbers of images, see `_entries`."""
    return [int(positive_int(one)) for one in _entries(text)]


def _entries(text: str) -> list[str]:
    """What a flag lists: two or more entries with commas between, or a file of that name, one a line."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises for ~nobody
    found = text.split(",")
    if text and os.path.exists(path):  # noqa: PTH110 - Path's raises for names that are too long
        try:
            found = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except (OSError, UnicodeDecodeError):
            raise ArgumentTypeError(f"{path} is no readable text file; give one with an entry a line") from None
    elif len(found) == 1:
        raise ArgumentTypeError(f"{text!r} is no such file, and no list with commas")
    found = [one.strip() for one in found]
    if "" in found:
        raise ArgumentTypeError(f"entry {found.index('') + 1} is empty; give one for each class")
    return found

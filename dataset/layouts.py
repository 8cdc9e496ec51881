"""Which images a user has, and of which classes: in folders, or listed in a CSV.

Shape legend: N images, C classes.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dataset.image_csv import listed_images
from dataset.image_files import foreign, image_files
from dataset.parts import PART_NAMES, places_of, refuse_resembling
from utils.errors import UserError

UNKNOWN = -1
LAYOUT = "give labelled/CLASS/*.jpg and test/CLASS/*.jpg (or .png, ...), or CLASS/*.jpg, or a CSV"


class Listed(NamedTuple):
    """A part of the images. place: the folder or CSV that holds it; paths: N; labels: N, 0 .. C-1, -1 for none."""

    place: Path
    paths: list[Path]
    labels: list[int]

    def some(self, rows: Iterable[int]) -> "Listed":
        """Those with these numbers."""
        chosen = list(rows)
        return Listed(self.place, [self.paths[i] for i in chosen], [self.labels[i] for i in chosen])


class Listing(NamedTuple):
    """All images before they are read. classes: C names; unlabelled and test may be empty."""

    classes: tuple[str, ...]
    labelled: Listed
    unlabelled: Listed
    test: Listed

    @property
    def paths(self) -> list[Path]:
        """Of all images: labelled, unlabelled, test."""
        return [*self.labelled.paths, *self.unlabelled.paths, *self.test.paths]


def list_images(root: Path, skip_corrupt: bool) -> Listing:
    """The images below a folder, by the parts labelled/CLASS, unlabelled/ (any folders, or none) and test/CLASS, or, if
    it has no such part, in its class folders, which are labelled; or the images that a CSV lists, see `listed_images`.

    Classes are in alphabetical order. skip_corrupt: see `image_files`. Raises UserError where there are fewer than two,
    for folders that are missing or empty or whose names only resemble those of the parts, for images beside class
    folders, and for test images of other classes.
    """
    if root.is_file():
        return _in_csv(root, skip_corrupt)
    if not root.is_dir():
        seen = "" if root.is_absolute() else f", seen from {Path.cwd()}"
        raise UserError(f"{root}: no such folder or file{seen}; {LAYOUT}")
    refuse_resembling(root)
    places = places_of(root)
    paths = [image_files(place, skip_corrupt) if place.is_dir() else [] for place in places]
    classes = _classes(places[0], paths[0], 2)
    labelled, unlabelled, test = (_by_folder(*part, classes) for part in zip(places, paths, strict=True))
    if test.place.is_dir():
        _refuse_unknown(test.place, _classes(test.place, test.paths, 1), classes)
    return Listing(classes, labelled, unlabelled, test)


def refuse_untested(listing: Listing, root: Path, holdout: float | None) -> None:
    """Raise UserError if there is nothing to test on. holdout: see `held_out`, None: nothing is held out."""
    if not listing.test.paths and holdout is None:
        remedy = "add some, or give --holdout 0.2, which keeps a fifth of the labelled images for testing"
        raise UserError(f"--data_root {root}: has no test images; {remedy}")


def _in_csv(file: Path, skip_corrupt: bool) -> Listing:
    images = [one._replace(label=_name(one.label)) for one in listed_images(file, skip_corrupt)]
    labelled, unlabelled, test = (
        [one for one in images if one.test == tested and bool(one.label) == known]
        for tested, known in ((False, True), (False, False), (True, True))
    )
    classes = tuple(sorted({one.label for one in labelled}))
    if len(classes) < 2:
        raise UserError(f"{file}: has labelled images of {len(classes)} classes, and needs two or more")
    _refuse_unknown(file, {one.label for one in test}, classes)
    number = {name: c for c, name in enumerate(classes)} | {"": UNKNOWN}
    parts = (
        Listed(file, [i.path for i in some], [number[i.label] for i in some]) for some in (labelled, unlabelled, test)
    )
    return Listing(classes, *parts)


def _refuse_unknown(place: Path, tested: Iterable[str], classes: tuple[str, ...]) -> None:
    if unknown := sorted(set(tested) - set(classes)):
        problem = f"has test images of classes that no labelled image has: {', '.join(unknown)}"
        raise UserError(f"{place}: {problem}; label some of them, or remove these test images")


def _classes(folder: Path, paths: list[Path], needed: int) -> tuple[str, ...]:
    """Names of the class folders, in which the images `paths` lie. Raises UserError if there are too few, one is empty,
    or images lie beside them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {LAYOUT}")
    names = sorted({_name(path.name) for path in folder.iterdir() if path.is_dir() and not foreign(path.name)})
    if len(names) < needed:
        words = "two or more" if needed == 2 else "some"
        raise UserError(f"{folder}: has {len(names)} class folders and needs {words}; {LAYOUT}")
    for path in paths:
        if path.parent == folder:
            other = "" if folder.name not in PART_NAMES else ", or to unlabelled/"
            raise UserError(f"{path}: lies in no class folder; move it into one{other}")
    filled = {_name(path.relative_to(folder).parts[0]) for path in paths}
    if empty := [name for name in names if name not in filled]:
        raise UserError(f"{folder / empty[0]}: holds no image of its own; put some there, or remove the folder")
    return tuple(names)


def _by_folder(folder: Path, paths: list[Path], classes: tuple[str, ...]) -> Listed:
    """The images `paths` below a folder, labelled by `_label`."""
    number = {name: c for c, name in enumerate(classes)}
    return Listed(folder, paths, [_label(path.relative_to(folder), number) for path in paths])


def _label(path: Path, number: dict[str, int]) -> int:
    """The class (0 .. C-1) that the first folder on a path names; or a loose file, as `cat_12.jpg`, by what stands
    before a `_` or `.`, of several such names the longest; -1 for none.
    """
    first, *rest = map(_name, path.parts)
    names = [first] if rest else [first[: cut.start()] for cut in re.finditer("[_.]", first)]
    return next((number[name] for name in reversed(names) if name in number), UNKNOWN)


def _name(text: str) -> str:
    """In one spelling: file systems and unpacking programs write é as one character or as two."""
    return unicodedata.normalize("NFC", text)

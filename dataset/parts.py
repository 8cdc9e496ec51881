"""The parts of a folder of images: labelled/, unlabelled/ and test/, or class folders alone."""

from pathlib import Path

from utils.errors import UserError

PART_NAMES = ("labelled", "unlabelled", "test")
# What other programs mean by a name.
_CLASS_OR_PART = {"train": "labelled", "valid": "test"}  # classes, where they stand alone
_MEANT = {"labeled": "labelled", "unlabeled": "unlabelled", "val": "test", "validation": "test"} | _CLASS_OR_PART
_MEANT |= {part: part for part in PART_NAMES}


def places_of(root: Path) -> list[Path]:
    """Where labelled, unlabelled and test images lie; class folders alone are of labelled ones."""
    alone = not any((root / part).is_dir() for part in PART_NAMES)
    labelled, *others = (root / part for part in PART_NAMES)
    return [root if alone else labelled, *others]


def refuse_resembling(root: Path) -> None:
    """Raise UserError for folders that would be parts in another spelling or for another program. They would be taken
    for classes, or left out, without a word. And for a root that can't be read.
    """
    try:
        names = [entry.name for entry in root.iterdir()]
    except OSError as error:
        raise UserError(f"{root}: a folder that can't be read ({error.strerror}); make it readable") from error
    parts = {name: _MEANT[name.lower()] for name in names if name.lower() in _MEANT and (root / name).is_dir()}
    wrong = sorted(parts.keys() - PART_NAMES)
    if wrong and (len(parts) > 1 or wrong[0].lower() not in _CLASS_OR_PART):
        problem = f"such folders are called {', '.join(PART_NAMES)} here"
        raise UserError(f"{root / wrong[0]}: {problem}; rename it to {parts[wrong[0]]}, or move it elsewhere")


def refuse_among_images(root: Path, out: Path) -> None:
    """Raise UserError if results would lie in a folder of images, and count as a class or as images later on."""
    if root.is_dir() and any(out.resolve().is_relative_to(place.resolve()) for place in places_of(root)):
        raise UserError(f"--out {out}: lies among the images in {root}; take a folder elsewhere")

"""Files that stand beside a run's summary: diagnostics.npz and shifted.json.

Shape legend: E epochs, C classes, R ratios of shifted test sets.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from training.faults import fault
from utils.files import read_json

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile)


class Worst(TypedDict):
    ratio: int
    top1: float


class Shifted(TypedDict):
    """What the report reads of shifted.json; (R,) each list."""

    epoch: int
    dataset: str
    ratios: list[int]
    images: list[int]
    top1: list[float]
    low: list[float]
    high: list[float]
    worst: Worst
    area: float


def read_diagnostics(path: Path, classes: int, problems: list[str]) -> dict[str, np.ndarray] | None:
    """Its arrays: epoch (E,), figures per class (E, C), confusion (C, C); None without. Appends to `problems` if the
    file isn't whole.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        shape = len(found["epoch"]), classes
    except _UNREADABLE:
        problems.append(f"{path.name} is not readable")
        return None
    shapes = dict.fromkeys(found, shape) | {"epoch": shape[:1], "confusion": (classes, classes)}
    if wrong := [name for name, array in found.items() if array.shape != shapes[name]]:
        problems.append(f"{path.name}: {', '.join(wrong)} not in the shape of the run's epochs and classes")
        return None
    return found


def read_shifted(path: Path, epoch: int | None, dataset: str | None, problems: list[str]) -> dict[str, Any] | None:
    """See `Shifted`; None without. Appends to `problems` if it isn't whole, or of another model or data set than the
    run's last one; epoch, dataset: of that, None where not known.
    """
    if not path.exists():
        return None
    try:
        found = read_json(path)
        if wrong := fault(found, Shifted, "content"):
            raise ValueError(wrong)
        sizes = {len(found[name]) for name in ("ratios", "images", "top1", "low", "high")}
        if len(sizes) > 1 or 0 in found["ratios"]:
            raise ValueError("its lists don't fit each other")
    except ValueError as error:
        problems.append(f"{path.name} can't be used: {error}")
        return None
    for name, expected in (("epoch", epoch), ("dataset", dataset)):
        if expected is not None and found[name] != expected:
            problems.append(f"{path.name} is of {name} {found[name]}, not {expected}; left out, evaluate the run again")
            return None
    return found

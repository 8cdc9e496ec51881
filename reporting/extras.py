"""Files that other programs may have left in the folder of a run: diagnostics.npz and shifted.json.

Shape legend: E epochs, C classes, R ratios of shifted test sets.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    AttributeError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
)
PER_CLASS = (
    "guessed",
    "selected",
    "present",
    "right",
    "right_selected",
    "precision",
    "recall",
    "mask_rate",
    "test_recall",
)


def read_diagnostics(folder: Path, classes: int, problems: list[str]) -> dict[str, np.ndarray] | None:
    """Arrays of diagnostics.npz: epoch (E,), figures per class (E, C), confusion (C, C); None without. Appends to
    `problems` if the file isn't whole."""
    path = folder / "diagnostics.npz"
    if not path.exists():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        epochs = len(found["epoch"])
        shapes = {name: (epochs, classes) for name in PER_CLASS} | {"confusion": (classes, classes)}
        fits = lambda array, shape: array.shape == shape and array.dtype.kind in "iuf"
        wrong = [name for name, shape in shapes.items() if name in found and not fits(found[name], shape)]
    except UNREADABLE:
        problems.append("diagnostics.npz is not readable")
        return None
    if wrong:
        problems.append(f"diagnostics.npz: {', '.join(wrong)} not numbers in the shape of the run's epochs and classes")
        return None
    return found


def read_shifted(folder: Path, epoch: int | None, dataset: str | None, problems: list[str]) -> dict[str, Any] | None:
    """shifted.json: ratios, top1, low, high (R,) and so on; None without. Appends to `problems` if it isn't whole, or
    of another model or data set than the run's last one; epoch, dataset: of that, None where not known.
    """
    path = folder / "shifted.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        length = len(found["ratios"])
        for name in ("ratios", "top1", "low", "high"):
            if len([float(value) for value in found[name]]) != length:
                raise ValueError(name)
        found["ratios"] = [int(ratio) for ratio in found["ratios"]]
        if not all(0 < abs(ratio) < 10**9 for ratio in found["ratios"]):
            raise ValueError("ratios")
        float(found["area"]), float(found["worst"]["top1"]), int(found["worst"]["ratio"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        problems.append("shifted.json is not readable")
        return None
    for name, own in (("epoch", epoch), ("dataset", dataset)):
        if own is not None and found.get(name) != own:
            problems.append(f"shifted.json is of {name} {found.get(name)}, not {own}; left out, evaluate the run again")
            return None
    return found

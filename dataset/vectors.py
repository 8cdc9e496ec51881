"""Vectors of images out of a file, .npy: features that `write_features` wrote, or of any origin.

Shape legend: N images, in the order of `list_images`: labelled, unlabelled, test; D numbers of each.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dataset.held_out import other_facts
from utils.errors import UserError
from utils.files import read_json
from utils.text import reason


def read_vectors(file: Path, n: int, files: str = "", skip_corrupt: bool = False) -> np.ndarray:
    """Vectors of n images, floating (n, D), mapped. files: what `files_key` says of these, empty where they are none;
    skip_corrupt: rows that are all NaN, of images that couldn't be read, are taken.

    Raises UserError for what is no whole file of n vectors of numbers, or was written of other files.
    """
    name, remedy = f"--features {file}", f"give a .npy file, floating, of {n} rows"
    try:
        if not file.is_file():
            raise OSError("no such file")
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        problem = reason(error) if isinstance(error, OSError) else "no whole .npy file"
        raise UserError(f"{name}: can't be read ({problem}); {remedy}") from None
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.ndim != 2 or not rows.size:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        raise UserError(f"{name}: holds {found}; {remedy} (images) and 1 column or more")
    if len(rows) != n:
        raise UserError(f"{name}: has {len(rows)} rows for {n} images (labelled, unlabelled, test); {remedy}")
    beside = file.with_suffix(".json")
    if beside.is_file():
        _check_beside(name, beside, n, files)
    for start in range(0, n, 4096):
        with np.errstate(over="ignore"):
            some = rows[start : start + 4096].astype(np.float32)
        fine = np.isfinite(some).all(axis=1) | (skip_corrupt & np.isnan(some).all(axis=1))
        if not fine.all():
            mend = "mend them; --skip_corrupt leaves out rows of NaN"
            row = start + int(np.argmin(fine))
            raise UserError(f"{name}: row {row} (from 0) has values that are no numbers in float32; {mend}")
    return rows


def refuse_seen(file: Path, learned: dict[str, Any]) -> None:
    """Raise UserError if the network of these features may have been trained on images that are held out now, by the
    file beside them. One that shares no class with these images is accepted. learned: see `learned_from`, of now.
    """
    try:
        then = read_json(file.with_suffix(".json"))["learned"]
        shared = {*then["classes"]} & {*learned["classes"]}
        other = other_facts(then, learned)
    except (ValueError, TypeError, LookupError, AttributeError):
        return
    if other and shared:
        problem = f"of a network that may have learned from images held out now ({', '.join(other)} differ)"
        raise UserError(f"--features {file}: {problem}; give those of its training, or test images")


def _check_beside(name: str, beside: Path, n: int, files: str) -> None:
    """Raises UserError where the file beside the vectors, if it is of `write_features`, says that they don't fit."""
    try:
        about = read_json(beside)
        done, then = about["rows"], about["files"]
    except (ValueError, TypeError, LookupError):
        return
    if then != files:
        raise UserError(f"{name}: of other images than --data_root holds now; run cache_features.py on these")
    if done != n:
        raise UserError(f"{name}: has {done} of {n} rows so far; give the command of cache_features.py once more")

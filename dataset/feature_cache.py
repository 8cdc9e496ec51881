"""Features of images in one file, .npy, written once, in parts.

Beside FILE.npy written here lies FILE.json: of which network, transform and files it is (its key), and how many rows
are done.
Shape legend: N images, in the order of `list_images`: labelled, unlabelled, test; D features, S x S pixels.
"""

import hashlib
import os.path
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.crops import evaluated_shape
from dataset.image_files import DAMAGED, Shape, read_image
from utils.errors import UserError
from utils.files import atomic_write_text, is_file, read_json, to_json
from utils.text import printable, reason

PART = 32  # at a time, always: a part of another size might round otherwise


def files_key(root: Path, paths: Sequence[Path]) -> str:
    """SHA-256 of the paths and sizes of files. Paths below `root`, or its folder if a CSV, are relative."""
    base, digest = (root if root.is_dir() else root.parent).absolute(), hashlib.sha256()
    for path in map(Path.absolute, paths):
        size = path.stat().st_size if is_file(path) else -1
        name = path.relative_to(base) if path.is_relative_to(base) else path  # a CSV may move without its images
        digest.update(os.fsencode(os.path.normpath(name)) + f"\0{size}\0".encode())
    return digest.hexdigest()


def weights_key(network: nn.Module) -> str:
    """SHA-256 of a network's weights, by their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + b"\0" + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def write_features(
    out: Path,
    paths: Sequence[Path],
    features: Callable[[Tensor], Tensor],
    key: dict[str, Any],
    overwrite: bool,
    skip_corrupt: bool = False,
) -> int:
    """Write the features of images, float16 (N, D), from where a killed call with the same key left off; returns at
    which row it began. What is held in memory doesn't depend on N.

    features: pixels, uint8 (PART or fewer, 3, S, S) -> (PART or fewer, D); key: plain values that tell the network, the
    transform (`img_size`: S; `resize`: see `evaluated_shape`) and the files; skip_corrupt: rows of damaged images are
    NaN, and these are named; otherwise they raise UserError. It is raised, too, where `out` holds something else, and
    where there is no space.
    """
    beside, key = out.with_suffix(".json"), key | {"images": len(paths)}
    done = _rows_done(out, beside, key, overwrite)
    size, shape = key["img_size"], evaluated_shape(key["resize"])
    read = partial(_read, size=size, shape=shape, skip_corrupt=skip_corrupt)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = pool.map(read, paths[done : done + PART])
        for start in range(done, len(paths), PART):
            images, stop = list(ahead), min(start + PART, len(paths))
            ahead = pool.map(read, paths[stop : stop + PART])  # while the network is busy
            rows, damaged = _rows_of(images, size, features)
            if not np.isfinite(rows[~damaged]).all():
                raise UserError(f"{out}: features of rows {start} to {stop - 1} aren't numbers in float16")
            if start == 0:  # first the key: without it the other file would count as another program's
                atomic_write_text(beside, to_json(key | {"rows": 0}))
            _write_rows(out, rows, start, len(paths))
            atomic_write_text(beside, to_json(key | {"rows": stop}))
            if stop % (100 * PART) == 0 or stop == len(paths):
                print(f"{stop} of {len(paths)} images", flush=True)
    return done


def _rows_of(
    images: Sequence[np.ndarray | None], size: int, features: Callable[[Tensor], Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Features of images, float16 (B, D), NaN of those that are None; and which these are, bool (B,)."""
    blank = np.zeros((3, size, size), np.uint8)
    pixels = np.stack([blank if image is None else image for image in images])
    rows, damaged = features(torch.from_numpy(pixels)).half().cpu().numpy(), np.array([one is None for one in images])
    rows[damaged] = np.nan
    return rows, damaged


def _write_rows(out: Path, rows: np.ndarray, start: int, n: int) -> None:
    """Rows from `start` on, of n, to the disk; the first ones into a new file. Raises UserError where that fails."""
    try:
        if start == 0:
            np.lib.format.open_memmap(out, "w+", rows.dtype, (n, rows.shape[1]))
        # Not into a mapping: a store to a full disk would kill the process.
        with out.open("r+b") as file:
            file.seek((start - n) * rows[0].nbytes, os.SEEK_END)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = "see to it, then give the same command once more"
        raise UserError(f"--out {out}: can't be written ({reason(error)}); {remedy}") from error


def _rows_done(out: Path, beside: Path, key: dict[str, Any], overwrite: bool) -> int:
    """Raises UserError where the files are another program's, or of another key and not to be overwritten."""
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: not a file; take another name")
    if beside.exists():
        try:
            then = read_json(beside)
            done, _ = then.pop("rows"), then["images"]
            different = [name for name in {**key, **then} if key.get(name) != then.get(name)]
        except (ValueError, AttributeError, LookupError, TypeError):
            problem = f"{beside.name} beside it was not written by cache_features.py"
            raise UserError(f"--out {out}: {problem}; take another name") from None
        problem = f"of another key ({', '.join(different)} differ)" if different else ""
    else:
        done, problem = 0, "not written by cache_features.py" if out.exists() else ""
    if overwrite:
        return 0
    if problem:
        raise UserError(f"--out {out}: {problem}; take another file, or --overwrite")
    try:
        there = np.load(out, mmap_mode="r")
        whole = there.dtype == np.float16 and len(there) == key["images"]
    except (ValueError, OSError, EOFError):
        whole = False
    return done if whole else 0


def _read(path: Path, size: int, shape: Shape, skip_corrupt: bool) -> np.ndarray | None:
    """None for a damaged one that is skipped."""
    try:
        return read_image(path, size, shape)
    except DAMAGED as error:
        problem = f"not a readable image ({reason(error)})"
        if not skip_corrupt:
            raise UserError(f"{path}: {problem}; mend it and begin anew, or give --skip_corrupt") from error
        print(f"skipped {printable(path)}: {problem}", file=sys.stderr)
        return None

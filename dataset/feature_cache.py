"""Vectors of images in one file, .npy: features of a network, written once in parts, or of any origin.

Beside FILE.npy written here lies FILE.json: of which network, transform and files it is (its key), and how many rows
are done.
Shape legend: N images, in the order of `list_images`: labelled, unlabelled, test; D features, S x S pixels.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.crops import centre_crop
from dataset.image_files import DAMAGED, Shape, read_image, square
from utils.errors import UserError
from utils.files import atomic_write_text, read_json, to_json
from utils.text import reason

PART = 32  # at a time, always: a part of another size might round otherwise


def files_key(root: Path, paths: Sequence[Path]) -> str:
    """SHA-256 of a list of files: their paths from the folder (or that of the CSV) `root`, and their sizes."""
    base, digest = root if root.is_dir() else root.parent, hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.exists() else -1
        digest.update(os.fsencode(os.path.relpath(path, base)) + f"\0{size}\0".encode())
    return digest.hexdigest()


def weights_key(network: nn.Module) -> str:
    """SHA-256 of a network's weights, by their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + b"\0" + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def write_features(
    out: Path, paths: Sequence[Path], features: Callable[[Tensor], Tensor], key: dict[str, Any], overwrite: bool
) -> int:
    """Write the features of images, float16 (N, D), from where a killed call with the same key left off; returns at
    which row it began. What is held in memory doesn't depend on N.

    features: pixels, uint8 (PART or fewer, 3, S, S) -> (PART or fewer, D); key: plain values that tell the network, the
    transform (`img_size`: S; `resize`: see `centre_crop`, None for `square`) and the files. Raises UserError where
    `out` holds something else, and for damaged images.
    """
    beside, key = out.with_suffix(".json"), key | {"images": len(paths)}
    done = 0 if overwrite else _rows_done(out, beside, key)
    resize, size = key["resize"], key["img_size"]
    read = partial(_read, size=size, shape=square if resize is None else partial(centre_crop, resize=resize))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = pool.map(read, paths[done : done + PART])
        for start in range(done, len(paths), PART):
            pixels, stop = torch.from_numpy(np.stack(list(ahead))), min(start + PART, len(paths))
            ahead = pool.map(read, paths[stop : stop + PART])  # while the network is busy
            rows = features(pixels).half().cpu().numpy()
            if not np.isfinite(rows).all():
                raise UserError(f"{out}: features of rows {start} to {stop - 1} aren't numbers in float16")
            if start == 0:  # first the key: without it the other file would count as another program's
                atomic_write_text(beside, to_json(key | {"rows": 0}))
            how: dict[str, Any] = {"mode": "r+"} if start else {"mode": "w+", "dtype": np.float16}
            # Opened for each part: pages of one that stays open would fill the memory.
            file = np.lib.format.open_memmap(out, **how, shape=None if start else (len(paths), rows.shape[1]))
            file[start:stop] = rows
            file.flush()
            atomic_write_text(beside, to_json(key | {"rows": stop}))
            if stop % (100 * PART) == 0 or stop == len(paths):
                print(f"{stop} of {len(paths)} images", flush=True)
    return done


def _rows_done(out: Path, beside: Path, key: dict[str, Any]) -> int:
    """Raises UserError where the file is of another key, or has none."""
    if not (out.exists() or beside.exists()):
        return 0
    try:
        then = read_json(beside)
        done = then.pop("rows")
        different = [name for name in {**key, **then} if key.get(name) != then.get(name)]
    except (ValueError, AttributeError, LookupError, TypeError):
        raise UserError(f"--out {out}: not written by cache_features.py; take another file, or --overwrite") from None
    if different:
        problem = f"of another key ({', '.join(different)} differ)"
        raise UserError(f"--out {out}: {problem}; take another file, or --overwrite")
    try:
        whole = len(np.load(out, mmap_mode="r")) == key["images"]
    except (ValueError, OSError, EOFError):
        whole = False
    return done if whole else 0


def _read(path: Path, size: int, shape: Shape) -> np.ndarray:
    try:
        return read_image(path, size, shape)
    except DAMAGED as error:
        problem = f"not a readable image ({reason(error)})"
        raise UserError(f"{path}: {problem}; mend or remove it: there is no --skip_corrupt here") from error


def read_vectors(file: Path, n: int, files: str = "") -> np.ndarray:
    """Vectors of n images, floating (n, D), mapped. files: what `files_key` says of these, empty where they are none.

    Raises UserError for what is no whole file of n vectors of numbers, or was written of other files.
    """
    name, remedy = f"--features {file}", f"give a .npy file, floating, of {n} rows"
    try:
        if not file.is_file():
            raise ValueError("no such file")
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise UserError(f"{name}: can't be read ({reason(error)}); {remedy}") from None
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
            numbers = np.isfinite(rows[start : start + 4096].astype(np.float32))
        if not numbers.all():
            row = start + int(np.argmin(numbers.all(axis=1)))
            raise UserError(f"{name}: row {row} (from 0) has values that are no numbers in float32; mend them")
    return rows


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

"""What a floor learns from and is tested on: the images of a recipe, as pixels or as vectors out of a file.

Shape legend: N images, at places 0 .. N-1: of a folder in the order of `list_images` (labelled, unlabelled, test), of
another data set its training set, then its test set, in file order. D numbers of each image, C classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataset import load
from dataset.feature_cache import files_key
from dataset.folder import LARGEST_IN_MEMORY, refuse_empty
from dataset.held_out import HELD_OUT, HELD_OUT_FILES, TEST, held_out, learned_from
from dataset.image_files import read_images
from dataset.layouts import list_images, refuse_untested
from dataset.long_tail import ImbalanceFlags, long_tailed
from dataset.orders import refuse_order
from dataset.parts import refuse_among_images
from dataset.vectors import read_vectors, refuse_seen
from utils.errors import UserError

LARGEST_SIDE = 32  # pixels, at most: a logistic regression on more takes hours


class FloorFlags(ImbalanceFlags, Protocol):
    """features: a file of vectors, None for pixels; unlabelled: `included` where the unlabelled images are the labelled
    ones, too; img_size, skip_corrupt and holdout: of a folder.
    """

    dataset: str
    data_root: Path
    out: Path
    features: Path | None
    unlabelled: str
    img_size: int
    skip_corrupt: bool
    holdout: float | None


class FloorData(NamedTuple):
    """read: places (B,) -> vectors, float32 (B, D); labels: int64 (N,), -1 for none; labelled, unlabelled, tested:
    places (L,), (U,), (T,); facts: what the summary of a floor says of its data.
    """

    read: Callable[[np.ndarray], Tensor]
    labels: np.ndarray
    labelled: np.ndarray
    unlabelled: np.ndarray
    tested: np.ndarray
    facts: dict[str, Any]


def floor_data(args: FloorFlags) -> FloorData:
    """Raises UserError where files or flags are wrong."""
    if args.dataset == "folder":
        return _of_folder(args)
    if args.holdout is not None:
        raise UserError(f"--holdout: only of --dataset folder; {args.dataset} has a test set, leave it out")
    dataset = load(args.dataset, args.data_root)
    split, n = long_tailed(dataset, args, args.unlabelled == "included"), len(dataset.train.labels)
    pixels, labels = (np.concatenate(pair) for pair in zip(dataset.train, dataset.test, strict=True))
    rows = pixels if args.features is None else read_vectors(args.features, len(labels))
    everything = np.arange(len(labels))
    return _assembled(rows, everything, labels, (split.labelled, split.unlabelled, everything[n:]), dataset.classes)


def _of_folder(args: FloorFlags) -> FloorData:
    """Above LARGEST_IN_MEMORY pixels damaged images count, as in training, which holds out before it reads."""
    refuse_order(args.order, "--dataset folder")
    refuse_among_images(args.data_root, args.out)
    listing = list_images(args.data_root, args.skip_corrupt)
    refuse_untested(listing, args.data_root, args.holdout)
    part = np.repeat(range(3), [len(some.paths) for some in listing[1:]])
    paths, labels = ([one for some in listing[1:] for one in getattr(some, name)] for name in ("paths", "labels"))
    labels = np.array(labels, dtype=np.int64)
    rows, rows_of, readable = _rows(args, paths, part)
    counting = readable | (args.img_size > LARGEST_IN_MEMORY)
    (labelled, unlabelled, tested), held = (np.flatnonzero(counting & (part == n)) for n in range(3)), {}
    if args.holdout is not None:
        chosen = held_out(labels[labelled], args.holdout, args.manualSeed)
        counts = np.bincount(labels[labelled[chosen]], minlength=len(listing.classes)).tolist()
        held = {"held_out_counts": counts, "evaluated_on": TEST if listing.test.paths else HELD_OUT}
        held |= {HELD_OUT_FILES: files_key(args.data_root, [paths[i] for i in labelled[chosen]])}
        labelled, tested = labelled[~chosen], tested if listing.test.paths else labelled[chosen]
    if args.unlabelled == "included":
        unlabelled = np.concatenate([labelled, unlabelled])
    data = _assembled(rows, rows_of, labels, (labelled, unlabelled, tested), listing.classes)
    if args.features is not None and held.get("evaluated_on") == HELD_OUT:
        refuse_seen(args.features, learned_from(data.facts | held, vars(args)))
    labelled, unlabelled, tested = (places[readable[places]] for places in (labelled, unlabelled, tested))
    refuse_empty(labels[labelled], listing.labelled, listing.classes)
    if not len(tested):
        raise UserError(f"--data_root {args.data_root}: none of its test images can be read; replace some")
    return data._replace(labelled=labelled, unlabelled=unlabelled, tested=tested, facts=data.facts | held)


def _rows(args: FloorFlags, paths: list[Path], part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels or vectors; of which images they are, rising (K,); and which images are not damaged, bool (N,). Unlabelled
    ones aren't read for their pixels, which no floor uses.
    """
    if args.features is not None:
        rows = read_vectors(args.features, len(paths), files_key(args.data_root, paths), args.skip_corrupt)
        return rows, np.arange(len(paths)), ~np.isnan(rows[:, 0])
    wanted = np.flatnonzero(part != 1)
    rows, found = read_images([paths[i] for i in wanted], min(args.img_size, LARGEST_SIDE), args.skip_corrupt)
    readable = part == 1
    readable[wanted[found]] = True
    return rows, wanted[found], readable


def _assembled(
    rows: np.ndarray, kept: np.ndarray, labels: np.ndarray, parts: tuple[np.ndarray, ...], classes: tuple[str, ...]
) -> FloorData:
    """rows: uint8 pixels (K, 3, S, S) or vectors (K, D) of the images at the places `kept`, rising (K,)."""
    if rows.dtype == np.uint8 and (rows == rows[:, :1]).all():
        rows = rows[:, :1]  # of grey images one channel, which says all

    def read(places: np.ndarray) -> Tensor:
        found = rows[np.searchsorted(kept, places)]
        return torch.from_numpy(found.reshape(len(found), -1).astype(np.float32))

    labelled, unlabelled, _ = parts
    known = labels[unlabelled]
    facts = {
        "classes": list(classes),
        "labelled_counts": np.bincount(labels[labelled], minlength=len(classes)).tolist(),
        "unlabelled_counts": None if (known < 0).any() else np.bincount(known, minlength=len(classes)).tolist(),
        "unlabelled": len(unlabelled),
        "img_size": rows.shape[-1] if rows.ndim == 4 else 0,
        "mean": [],
        "std": [],
    }
    return FloorData(read, labels, *parts, facts)

"""Batch t on demand: which images, which views of them, as a pure function of (seed, name of the stream, t).

Shape legend: N images (N, 3, S, S), B images a batch, C classes.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import load
from dataset.augment import views
from dataset.images import Images
from dataset.long_tail import describe, long_tailed
from utils.errors import UserError
from utils.seeding import generator


class Batch(NamedTuple):
    """views: one float (B, 3, S, S) for each view asked for, normalised; labels: int64 (B,)."""

    views: list[Tensor]
    labels: Tensor


class Pixels:
    """A set of images on the device, uint8 (N, 3, S, S) with int64 labels (N,), that streams share."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.pixels, self.labels = (torch.from_numpy(array).to(device) for array in images)
        self.host_labels = images.labels


class Stream:
    """Batches of those images of a set that `members` lists.

    Unless `balanced`, passes over the set follow one another, each in an order of its own, and what doesn't fill a
    batch at the end of a pass is dropped. `balanced` draws a class, then one of its images, with replacement.
    look: the facts of the data set that the views need (mean, std, flip, pixel_scale).
    Raises UserError if the set is smaller than a batch.
    """

    def __init__(
        self, name: str, images: Pixels, members: np.ndarray, wanted: tuple[str, ...],
        batch_size: int, seed: int, look: dict, balanced: bool = False,
    ) -> None:  # fmt: skip
        if len(members) < batch_size:
            raise UserError(
                f"--batch-size {batch_size}: the {name} set has only {len(members)} images; "
                "lower --batch-size or raise --num_max"
            )
        self.name, self.images, self.members, self.wanted = name, images, members, wanted
        self.batch_size, self.seed, self.look = batch_size, seed, look
        self._rows = _balanced(images.host_labels[members]) if balanced else _passes(len(members), seed, name)

    def at(self, t: int) -> Batch:
        """The batch of step t (0, 1, ...)."""
        rng = generator(self.seed, self.name, t)
        return self._batch(self._rows(rng, t, self.batch_size), rng, self.wanted)

    def sweep(self, wanted: tuple[str, ...] | None = None, batch_size: int = 500) -> Iterator[Batch]:
        """Every image once, in the order of `members`; in the views that are wanted here, or those of the batches."""
        for i, start in enumerate(range(0, len(self.members), batch_size)):
            rows = np.arange(start, min(start + batch_size, len(self.members)))
            yield self._batch(rows, generator(self.seed, f"{self.name} sweep", i), wanted or self.wanted)

    def _batch(self, rows: np.ndarray, rng: np.random.Generator, wanted: tuple[str, ...]) -> Batch:
        index = torch.from_numpy(self.members[rows]).to(self.images.pixels.device, non_blocking=True)
        pixels, labels = (array.index_select(0, index) for array in (self.images.pixels, self.images.labels))
        return Batch(views(pixels, wanted, rng, **self.look), labels)


def _passes(n: int, seed: int, name: str):
    order = lru_cache(maxsize=2)(lambda k: generator(seed, f"{name} order", k).permutation(n))

    def rows(rng: np.random.Generator, t: int, size: int) -> np.ndarray:
        number, place = divmod(t, n // size)
        return order(number)[place * size : (place + 1) * size]

    return rows


def _balanced(labels: np.ndarray):
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts, present = np.cumsum(counts) - counts, np.flatnonzero(counts)

    def rows(rng: np.random.Generator, t: int, size: int) -> np.ndarray:
        classes = rng.choice(present, size)
        return by_class[starts[classes] + rng.integers(0, counts[classes])]

    return rows


class Data(NamedTuple):
    """Everything a recipe trains and tests on.

    labelled, unlabelled: with the views the SSL method wants; for the classifier learner `balanced` (labelled images,
    classes equally likely) and `partners` (labelled + unlabelled images), one strong view each (published code, on
    CIFAR). test: each call goes through the test set once, in (images, labels). counts, unlabelled_counts: (C,).
    """

    labelled: Stream
    unlabelled: Stream
    balanced: Stream
    partners: Stream
    test: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    counts: np.ndarray
    unlabelled_counts: np.ndarray
    classes: tuple[str, ...]

    def facts(self) -> dict[str, list]:
        """What the summary of a run says of its data."""
        return {
            "classes": list(self.classes),
            "labelled_counts": self.counts.tolist(),
            "unlabelled_counts": self.unlabelled_counts.tolist(),
        }


def open_data(
    args: Namespace, wanted: dict[str, tuple[str, ...]], include_labelled: bool, device: torch.device
) -> Data:
    """Load the data set that the flags name, split it, and put it on the device; print the class counts.

    wanted: the views of the SSL method; include_labelled: whether the unlabelled set holds the labelled images, too.
    Raises UserError where files or flags are wrong.
    """
    dataset = load(args.dataset, args.data_root)
    split = long_tailed(
        dataset, args.num_max, args.ratio, args.imb_ratio_l, args.imb_ratio_u, args.manualSeed, include_labelled
    )
    train, test = (Pixels(images, device) for images in (dataset.train, dataset.test))
    look = {"mean": dataset.mean, "std": dataset.std, "flip": dataset.flip, "pixel_scale": dataset.pixel_scale}
    stream = partial(Stream, batch_size=args.batch_size, seed=args.manualSeed, look=look)
    everything = np.concatenate([split.labelled, split.unlabelled])
    test_stream = Stream("test", test, np.arange(len(dataset.test.labels)), ("plain",), 1, 0, look)
    print(describe(split.counts, split.unlabelled_counts))
    return Data(
        labelled=stream("labelled", train, split.labelled, wanted["labelled"]),
        unlabelled=stream("unlabelled", train, split.unlabelled, wanted["unlabelled"]),
        balanced=stream("balanced", train, split.labelled, ("strong",), balanced=True),
        partners=stream("partners", train, everything, ("strong",)),
        test=lambda: ((views[0], labels) for views, labels in test_stream.sweep()),
        counts=split.counts,
        unlabelled_counts=split.unlabelled_counts,
        classes=dataset.classes,
    )

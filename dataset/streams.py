"""Batch t on demand: which images, which views of them, as a pure function of (seed, name of the stream, t).

Shape legend: N images (N, 3, S, S), B images a batch, C classes.
"""

from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.augment import views
from dataset.images import Dataset, Images
from utils.errors import UserError
from utils.seeding import generator


class Batch(NamedTuple):
    """views: one float (B, 3, S, S) for each view asked for, normalised; labels: int64 (B,)."""

    views: list[Tensor]
    labels: Tensor


class Stream:
    """Batches of a set of images that lies on the device as uint8.

    Unless `balanced`, passes over the set follow one another, each in an order of its own, and what doesn't fill a
    batch at the end of a pass is dropped. `balanced` draws a class, then one of its images, with replacement.
    look: the facts of the data set that the views need (mean, std, flip, pixel_scale).
    Raises UserError if the set is smaller than a batch.
    """

    def __init__(
        self, name: str, images: Images, wanted: tuple[str, ...], batch_size: int, seed: int,
        device: torch.device, look: dict, balanced: bool = False,
    ) -> None:  # fmt: skip
        if len(images.labels) < batch_size:
            raise UserError(
                f"--batch-size {batch_size}: the {name} set has only {len(images.labels)} images; "
                "lower --batch-size or raise --num_max"
            )
        self.name, self.wanted, self.batch_size, self.seed, self.look = name, wanted, batch_size, seed, look
        self.pixels = torch.from_numpy(images.pixels).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self._rows = _balanced(images.labels) if balanced else _passes(len(images.labels), seed, name)

    def at(self, t: int) -> Batch:
        """The batch of step t (0, 1, ...)."""
        rng = generator(self.seed, self.name, t)
        return self._batch(self._rows(rng, t, self.batch_size), rng)

    def sweep(self, batch_size: int = 500) -> Iterator[Batch]:
        """Every image once, in the order of the set."""
        for i, rows in enumerate(np.split(np.arange(len(self.labels)), range(batch_size, len(self.labels), batch_size))):
            yield self._batch(rows, generator(self.seed, f"{self.name} sweep", i))

    def _batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        index = torch.from_numpy(rows).to(self.pixels.device, non_blocking=True)
        return Batch(views(self.pixels[index], self.wanted, rng, **self.look), self.labels[index])


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


def training_streams(
    data, dataset: Dataset, wanted: dict[str, tuple[str, ...]], batch_size: int, seed: int, device: torch.device
) -> SimpleNamespace:
    """The streams of both stages: `labelled` and `unlabelled` with the views a method wants; for the classifier
    learner, `balanced` (labelled images, classes equally likely) and `partners` (labelled + unlabelled), both strong.

    data: a `LongTailed` split. Views of classifier learning: published code, on CIFAR.
    """
    both = Images(*(np.concatenate(parts) for parts in zip(data.labelled, data.unlabelled, strict=True)))
    common = (batch_size, seed, device, look(dataset))
    return SimpleNamespace(
        labelled=Stream("labelled", data.labelled, wanted["labelled"], *common),
        unlabelled=Stream("unlabelled", data.unlabelled, wanted["unlabelled"], *common),
        balanced=Stream("balanced", data.labelled, ("strong",), *common, balanced=True),
        partners=Stream("partners", both, ("strong",), *common),
    )


def look(dataset: Dataset) -> dict:
    """The facts of a data set that augmentation needs, as keywords of `dataset.augment.views`."""
    return {"mean": dataset.mean, "std": dataset.std, "flip": dataset.flip, "pixel_scale": dataset.pixel_scale}

"""Which images a batch has, as a pure function of (seed, name of the stream, step).

Shape legend: N images, of which a stream has M members, B images a batch.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from dataset.batches import Minibatch
from utils.errors import UserError
from utils.ranks import my_rows, world_size
from utils.seeding import generator

# (generator of the step, step, B) -> places of the batch's images among the members, (B,)
Order = Callable[[np.random.Generator, int, int], np.ndarray]


class Stream:
    """Which of the images that `members` (M,) lists come when, and in which views.

    images: `dataset.pixels.Pixels` or `dataset.files.ImageFiles`, which makes the views. Unless `balanced`, passes over
    the set follow one another, each in an order of its own, and what doesn't fill a batch at the end of a pass is
    dropped. `balanced` draws a class, then one of its images, with replacement.
    Draws are made for whole batches and then cut, so that they don't depend on the number of ranks. `sweep` isn't cut.
    known: whether all of the images have a label.
    Raises UserError if the set is smaller than a batch.
    """

    def __init__(
        self,
        name: str,
        images: Any,
        members: np.ndarray,
        wanted: tuple[str, ...],
        batch_size: int,
        seed: int,
        balanced: bool = False,
    ) -> None:
        if len(members) < batch_size:
            raise UserError(
                f"--batch-size {batch_size}: the {name} set has only {len(members)} images; "
                "lower --batch-size, or take more images"
            )
        self.name, self.images, self.members, self.wanted = name, images, members, wanted
        self.batch_size, self.seed, self.balanced = batch_size, seed, balanced
        labels = images.labels[members]
        self.known = bool((labels >= 0).all())
        self._order = balanced_rows(labels) if balanced else passes(len(members), seed, name)

    @property
    def rows(self) -> int:
        """How many images of a batch are this rank's."""
        return len(range(self.batch_size)[my_rows(self.batch_size)])

    def renamed(self, name: str, batch_size: int | None = None) -> "Stream":
        """The same images and views in batches of their own, drawn under another name; of this many images, or as many
        as the set has and the ranks can share.
        """
        size = min(batch_size or self.batch_size, len(self.members)) // world_size() * world_size()
        return Stream(name, self.images, self.members, self.wanted, size, self.seed, self.balanced)

    def order(self, t: int) -> tuple[np.random.Generator, np.ndarray]:
        """Places of the images of the whole batch of step t (0, 1, ...) among the members, (B,); and the generator that
        goes on from there.
        """
        rng = generator(self.seed, self.name, t)
        return rng, self._order(rng, t, self.batch_size)

    def sweep(self, wanted: tuple[str, ...] | None = None, batch_size: int | None = None) -> Iterator[Minibatch]:
        """Every image once, in the order of `members`; in the views that are wanted here, or those of the batches.

        Files that can't be read are left out. Raises UserError if that leaves none.
        """
        return self.images.sweep(self, wanted or self.wanted, batch_size or self.images.sweep_size)


def passes(n: int, seed: int, name: str) -> Order:
    """Pass after pass over n images, each in an order of its own."""

    @lru_cache(maxsize=2)
    def permutation(number: int) -> np.ndarray:
        return generator(seed, f"{name} order", number).permutation(n)

    def rows(rng: np.random.Generator, t: int, size: int) -> np.ndarray:
        number, place = divmod(t, n // size)
        return permutation(number)[place * size : (place + 1) * size]

    return rows


def balanced_rows(labels: np.ndarray) -> Order:
    """A class is drawn, then one of its images, with replacement."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts, present = np.cumsum(counts) - counts, np.flatnonzero(counts)

    def rows(rng: np.random.Generator, t: int, size: int) -> np.ndarray:
        classes = rng.choice(present, size)
        return by_class[starts[classes] + rng.integers(0, counts[classes])]

    return rows

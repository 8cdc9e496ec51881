"""Which images a batch has, and which views of them, as a pure function of (seed, name of the stream, step).

Shape legend: N images (N, 3, S, S), B images a batch, C classes.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import load
from dataset.augment import on_device
from dataset.batches import Batches, Draw, Minibatch
from dataset.folder import load_folder
from dataset.images import Dataset, Images
from dataset.long_tail import LongTailed, describe, long_tailed
from dataset.render import render
from dataset.rows import draw_rows
from utils.errors import UserError
from utils.ranks import my_rows
from utils.seeding import generator


class Pixels:
    """A set of images, uint8 (N, 3, S, S) with int64 labels (N,) on the host, that streams share.

    mean, std: per channel, of pixels scaled to 0 .. 1. Memory-mapped pixels stay on disk, and only those that a batch
    asks for are read; others lie on the device.
    """

    def __init__(self, images: Images, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self.labels, self.size, self.device = images.labels, images.pixels.shape[3], device
        self.mapped = images.pixels if isinstance(images.pixels, np.memmap) else None
        self.pixels = None if self.mapped is not None else torch.from_numpy(images.pixels).to(device)
        self.look = torch.tensor([*mean, *std]).to(device)

    def render(self, rows: Tensor, on_host: np.ndarray | None, pixels: Tensor | None) -> Tensor:
        """The views that rows (R, W) ask for, see `dataset.render`. pixels: those of a batch, where all lie on disk."""
        return render(self.pixels if pixels is None else pixels, rows, self.look, on_host)


class Stream:
    """Which of the images that `members` lists come when, and in which views.

    Unless `balanced`, passes over the set follow one another, each in an order of its own, and what doesn't fill a
    batch at the end of a pass is dropped. `balanced` draws a class, then one of its images, with replacement.
    options: the facts of the data set that `draw_rows` needs (flip, pixel_scale).
    Draws are made for whole batches and then cut, so that they don't depend on the number of ranks. `sweep` isn't cut.
    known: whether all of the images have a label.
    Raises UserError if the set is smaller than a batch.
    """

    def __init__(
        self,
        name: str,
        images: Pixels,
        members: np.ndarray,
        wanted: tuple[str, ...],
        batch_size: int,
        seed: int,
        options: dict,
        balanced: bool = False,
    ) -> None:
        check_size(name, members, batch_size)
        self.name, self.images, self.members, self.wanted = name, images, members, wanted
        self.batch_size, self.seed, self.options, self.balanced = batch_size, seed, options, balanced
        labels = images.labels[members]
        self.known = bool((labels >= 0).all())
        self._order = balanced_rows(labels) if balanced else passes(len(members), seed, name)

    batched = Batches  # what makes batches of such streams

    @property
    def rows(self) -> int:
        """How many images of a batch are this rank's."""
        return len(range(self.batch_size)[my_rows(self.batch_size)])

    def renamed(self, name: str) -> "Stream":
        """The same images and views in batches of their own, drawn under another name."""
        parts = (self.images, self.members, self.wanted, self.batch_size, self.seed, self.options, self.balanced)
        return Stream(name, *parts)

    def draw(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the batch of step t (0, 1, ...), under torchrun this rank's part of it: the numbers of its images (B,),
        and a row for each view of them, int32 (V, B, W).
        """
        rng = generator(self.seed, self.name, t)
        image = self.members[self._order(rng, t, self.batch_size)]
        rows = draw_rows(rng, image, self.wanted, self.images.size, **self.options)
        mine = my_rows(self.batch_size)
        return image[mine], rows[:, mine]

    def sweep(self, wanted: tuple[str, ...] | None = None, batch_size: int = 500) -> Iterator[Minibatch]:
        """Every image once, in the order of `members`; in the views that are wanted here, or those of the batches."""
        wanted = wanted or self.wanted
        for i, start in enumerate(range(0, len(self.members), batch_size)):
            image = self.members[start : start + batch_size]
            rng = generator(self.seed, f"{self.name} sweep", i)
            rows = draw_rows(rng, image, wanted, self.images.size, **self.options).reshape(len(wanted) * len(image), -1)
            pixels = None
            if self.images.mapped is not None:
                rows[:, 0] = np.tile(np.arange(len(image)), len(wanted))
                pixels = on_device(self.images.mapped[image], self.images.device)
            views = self.images.render(on_device(rows, self.images.device), rows, pixels).split(len(image))
            labels = on_device(self.images.labels[image], self.images.device)
            yield Minibatch(list(views), labels if self.known else None)


def check_size(name: str, members: np.ndarray, batch_size: int) -> None:
    """Raise UserError if the set of a stream is smaller than a batch."""
    if len(members) < batch_size:
        raise UserError(
            f"--batch-size {batch_size}: the {name} set has only {len(members)} images; "
            "lower --batch-size, or take more images"
        )


def passes(n: int, seed: int, name: str):
    """(generator, step, batch size) -> which of n images: pass after pass, each in an order of its own."""
    order = lru_cache(maxsize=2)(lambda k: generator(seed, f"{name} order", k).permutation(n))

    def rows(rng: np.random.Generator, t: int, size: int) -> np.ndarray:
        number, place = divmod(t, n // size)
        return order(number)[place * size : (place + 1) * size]

    return rows


def balanced_rows(labels: np.ndarray):
    """The same, but a class is drawn, then one of its images, with replacement."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts, present = np.cumsum(counts) - counts, np.flatnonzero(counts)

    def rows(rng: np.random.Generator, t: int, size: int) -> np.ndarray:
        classes = rng.choice(present, size)
        return by_class[starts[classes] + rng.integers(0, counts[classes])]

    return rows


PRETRAINING = ("labelled", "unlabelled")  # the streams of a step of the first stage
CO_LEARNING = (*PRETRAINING, "balanced", "partners")


class Data(NamedTuple):
    """Everything a recipe trains and tests on.

    labelled, unlabelled: with the views the SSL method wants; for the classifier learner `balanced` (labelled images,
    classes equally likely) and `partners` (labelled + unlabelled images), one view each. test: each call goes through
    the test set once, in (images, labels). counts: (C,); unlabelled_counts: (C,), None if not known. size: of the
    images, pixels; mean, std: of their normalisation.
    """

    labelled: Stream
    unlabelled: Stream
    balanced: Stream
    partners: Stream
    test: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    counts: np.ndarray
    unlabelled_counts: np.ndarray | None
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def batches(self, streams: tuple[str, ...], *draws: Draw, name: str = "step") -> Batches:
        """Batches of these streams, with what method and learner draw. name: another one than "step" gives batches,
        and numbers, of their own.
        """
        chosen = {stream: getattr(self, stream) for stream in streams}
        if name != "step":
            chosen = {key: stream.renamed(f"{stream.name} {name}") for key, stream in chosen.items()}
        return self.labelled.batched(chosen, draws, self.labelled.seed, name)

    def facts(self) -> dict[str, Any]:
        """What the checkpoints and the summary of a run say of its data."""
        known = self.unlabelled_counts is not None
        return {
            "classes": list(self.classes),
            "labelled_counts": self.counts.tolist(),
            "unlabelled_counts": self.unlabelled_counts.tolist() if known else None,
            "unlabelled": len(self.unlabelled.members),
            "img_size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def open_data(
    args: Namespace, wanted: dict[str, tuple[str, ...]], include_labelled: bool, device: torch.device
) -> Data:
    """The streams of the data set that the CIFAR recipes' flags name: a long-tailed one, or the user's own folder.

    wanted: the views of the SSL method; include_labelled: whether the unlabelled set holds the labelled images, too.
    Raises UserError where files or flags are wrong.
    """
    if args.dataset == "folder":
        dataset, split = load_folder(args.data_root, args.img_size, include_labelled, args.skip_corrupt)
    else:
        dataset = load(args.dataset, args.data_root)
        split = long_tailed(
            dataset, args.num_max, args.ratio, args.imb_ratio_l, args.imb_ratio_u, args.manualSeed, include_labelled
        )
    return streams(dataset, split, wanted, args.batch_size, args.manualSeed, device)


def streams(
    dataset: Dataset,
    split: LongTailed,
    wanted: dict[str, tuple[str, ...]],
    batch_size: int,
    seed: int,
    device: torch.device,
    *,
    mu: int = 1,
    learner_view: str = "strong",
) -> Data:
    """The streams of a data set, and its class counts on the terminal.

    wanted: the views of the SSL method; batch_size: labelled images per step; mu: unlabelled images per labelled one;
    learner_view: what classifier learning sees (published code: strong, on Small-ImageNet-127 weak).
    Raises UserError if a set is smaller than a batch, or the ranks can't share a batch equally.
    """
    my_rows(batch_size)
    train, test = (Pixels(images, dataset.mean, dataset.std, device) for images in (dataset.train, dataset.test))
    options = {"flip": dataset.flip, "pixel_scale": dataset.pixel_scale}
    stream = partial(Stream, seed=seed, options=options)
    everything = np.concatenate([split.labelled, split.unlabelled])
    test_stream = Stream("test", test, np.arange(len(dataset.test.labels)), ("plain",), 1, 0, options)
    print(describe(split.counts, split.unlabelled_counts, len(split.unlabelled)))
    learner = (learner_view,)
    return Data(
        labelled=stream("labelled", train, split.labelled, wanted["labelled"], batch_size),
        unlabelled=stream("unlabelled", train, split.unlabelled, wanted["unlabelled"], mu * batch_size),
        balanced=stream("balanced", train, split.labelled, learner, batch_size, balanced=True),
        partners=stream("partners", train, everything, learner, batch_size),
        test=lambda: ((views[0], labels) for views, labels in test_stream.sweep()),
        counts=split.counts,
        unlabelled_counts=split.unlabelled_counts,
        classes=dataset.classes,
        size=dataset.train.pixels.shape[3],
        mean=dataset.mean,
        std=dataset.std,
    )

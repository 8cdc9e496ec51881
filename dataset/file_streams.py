"""Streams of images that lie in files of any size: like those of `dataset.streams`, but decoded ahead by workers.

Shape legend: B images (B, 3, S, S) a batch, V views of each, C classes.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from dataset.augment import on_device
from dataset.batches import Batch, Draw, Minibatch, draw_numbers
from dataset.crop_views import CropViews, apply_crop_views, draw_crop_views
from dataset.crops import Done, Job
from dataset.feeder import Feeder
from dataset.images import Dataset, Files
from dataset.long_tail import LongTailed, describe
from dataset.streams import Data, balanced_rows, check_size, passes
from utils.errors import UserError
from utils.ranks import my_rows
from utils.seeding import generator

ROWS = 32  # images of a job: several workers share a batch, and little lies in shared memory


class Crops(NamedTuple):
    """parts: uint8 (V, R, 3, S, S) each, on the host; kept: which of all their images were read, int64 (B,); views:
    what was drawn for these; labels: int64 (B,).
    """

    parts: list[Tensor]
    kept: np.ndarray
    views: CropViews
    labels: np.ndarray


class FileBatches:
    """As `dataset.batches.Batches`, for streams of files: crops come from the workers, and aren't packed."""

    def __init__(self, streams: dict[str, "FileStream"], draws: Sequence[Draw], seed: int, name: str = "step") -> None:
        self.streams, self.draws, self.seed, self.name = streams, draws, seed, name
        self.device = next(iter(streams.values())).device

    def draw(self, t: int) -> tuple[dict[str, Crops], dict[str, np.ndarray]]:
        """The crops of step t, and its numbers."""
        crops = {name: stream.draw(t) for name, stream in self.streams.items()}
        rows = len(next(iter(crops.values())).labels)
        return crops, draw_numbers(self.draws, self.seed, self.name, t, rows)

    def at(self, t: int) -> Batch:
        """The batch of step t. A single number stays on the host, where an optimiser can read it."""
        crops, drawn = self.draw(t)
        made = {name: self.streams[name].make(part) for name, part in crops.items()}
        numbers = {name: torch.from_numpy(array) for name, array in drawn.items()}
        moved = {name: n.to(self.device, non_blocking=True) for name, n in numbers.items() if n.ndim}
        return Batch(**made, numbers=numbers | moved)


class FileStream:
    """Batches of those files that `members` lists, with the interface and the order of `dataset.streams.Stream`.

    Its crops are a function of (seed, name, t, row in the batch), everything else that is drawn of (seed, name, t).
    ahead: the streams whose batches are made ahead together, in the order in which a step asks for them.
    """

    def __init__(
        self,
        name: str,
        files: Files,
        members: np.ndarray,
        wanted: tuple[str, ...],
        batch_size: int,
        feeder: Feeder,
        device: torch.device,
        seed: int,
        look: dict,
        balanced: bool = False,
    ) -> None:
        check_size(name, members, batch_size)
        self.name, self.files, self.members, self.wanted, self.batch_size = name, files, members, wanted, batch_size
        self.feeder, self.device, self.seed, self.look, self.balanced = feeder, device, seed, look, balanced
        self.ahead = [self]
        self._labels = files.labels[members]
        self._key = feeder.add([files.paths[i] for i in members.tolist()])
        self._rows = balanced_rows(self._labels) if balanced else passes(len(members), seed, name)

    batched = FileBatches  # what makes batches of such streams

    def renamed(self, name: str) -> "FileStream":
        """The same images and views in batches of their own, drawn under another name."""
        parts = (self.files, self.members, self.wanted, self.batch_size, self.feeder, self.device, self.seed, self.look)
        return FileStream(name, *parts, self.balanced)

    def jobs(self, t: int) -> list[Job]:
        """What the workers have to do for batch t; under torchrun, for this rank's rows of it."""
        places, mine = self._rows(generator(self.seed, self.name, t), t, self.batch_size), my_rows(self.batch_size)
        return self._cut(self.name, t, places[mine], len(self.wanted), mine.start)

    def draw(self, t: int) -> Crops:
        """The crops of step t (0, 1, ...), and what is drawn for their views; under torchrun, this rank's rows. Raises
        UserError for a file that can't be read, see `Feeder`.
        """
        whole = self.batch_size
        crops = self._crops(self.feeder.batch(self, t), f"{self.name} views", t, self.wanted, whole, my_rows(whole))
        return crops or self._refuse()

    def sweep(self, wanted: tuple[str, ...] | None = None, batch_size: int = 256) -> Iterator[Minibatch]:
        """Every image once, in the order of `members`; in the views that are wanted here, or those of the batches.

        Those that can't be read are left out, see `Feeder`. Raises UserError if that leaves none.
        """
        wanted, name, found = wanted or self.wanted, f"{self.name} sweep", False
        crops = 0 if wanted == ("plain",) else len(wanted)
        places = np.split(np.arange(len(self.members)), range(batch_size, len(self.members), batch_size))
        batches = [self._cut(name, i, part, crops) for i, part in enumerate(places)]
        self.feeder.start(job for jobs in batches for job in jobs)
        for i, jobs in enumerate(batches):
            if crops := self._crops([self.feeder.next() for _ in jobs], name, i, wanted, len(places[i])):
                found = True
                yield self.make(crops)
        if not found:
            self._refuse()

    def _refuse(self) -> NoReturn:
        first = self.files.paths[self.members[0]]
        raise UserError(f"{first}: not a readable image, nor is any other of the {self.name} set; replace them")

    def _cut(self, name: str, t: int, places: np.ndarray, crops: int, row: int = 0) -> list[Job]:
        starts = range(0, len(places), ROWS)
        return [Job(name, t, row + first, self._key, places[first : first + ROWS], crops) for first in starts]

    def _crops(
        self, parts: list[Done], name: str, t: int, wanted: tuple[str, ...], whole: int, rows: slice = slice(None)
    ) -> Crops | None:
        """What the workers made, without the images that they could not read; None if there is no other.

        These are `rows` of a batch of `whole` images.
        """
        used = torch.cat([part.used for part in parts]).numpy()
        kept = np.flatnonzero(used >= 0)
        if not len(kept):
            return None
        size = self.feeder.cropper.size
        views = draw_crop_views(generator(self.seed, name, t), wanted, whole, size).of_rows(rows).of_rows(kept)
        return Crops([part.pixels for part in parts], kept, views, self._labels[used[kept]])

    def make(self, crops: Crops) -> Minibatch:
        """The views, on the device."""
        pixels = torch.cat([part.to(self.device, non_blocking=True) for part in crops.parts], dim=1)
        if len(crops.kept) < pixels.shape[1]:
            pixels = pixels.index_select(1, on_device(crops.kept, self.device))
        views = apply_crop_views(pixels, crops.views, **self.look)
        return Minibatch(views, on_device(crops.labels, self.device))


def file_streams(
    dataset: Dataset,
    split: LongTailed,
    wanted: dict[str, tuple[str, ...]],
    batch_size: int,
    seed: int,
    device: torch.device,
    *,
    mu: int,
    feeder: Feeder,
    ahead: tuple[str, ...],
) -> Data:
    """The streams of a data set of files, and its class counts on the terminal.

    wanted: the views of the SSL method; batch_size: labelled images per step; mu: unlabelled images per labelled one;
    ahead: which of Data's streams a step asks for, in that order. Classifier learning sees strong views (published).
    Raises UserError if a set is smaller than a batch, or the ranks can't share a batch equally.
    """
    my_rows(batch_size)
    look = {"mean": dataset.mean, "std": dataset.std}
    stream = partial(FileStream, files=dataset.train, feeder=feeder, device=device, seed=seed, look=look)
    test = FileStream("test", dataset.test, np.arange(len(dataset.test.labels)), ("plain",), 1, feeder, device, 0, look)
    everything = np.concatenate([split.labelled, split.unlabelled])
    data = Data(
        labelled=stream("labelled", members=split.labelled, wanted=wanted["labelled"], batch_size=batch_size),
        unlabelled=stream(
            "unlabelled", members=split.unlabelled, wanted=wanted["unlabelled"], batch_size=mu * batch_size
        ),
        balanced=stream("balanced", members=split.labelled, wanted=("strong",), batch_size=batch_size, balanced=True),
        partners=stream("partners", members=everything, wanted=("strong",), batch_size=batch_size),
        test=lambda: ((views[0], labels) for views, labels in test.sweep()),
        counts=split.counts,
        unlabelled_counts=split.unlabelled_counts,
        classes=dataset.classes,
        size=feeder.cropper.size,
        mean=dataset.mean,
        std=dataset.std,
    )
    group = [getattr(data, name) for name in ahead]
    for member in group:
        member.ahead = group
    print(describe(split.counts, split.unlabelled_counts, len(split.unlabelled)))
    return data

"""Streams of images that lie in files of any size: like those of `dataset.streams`, but decoded ahead by workers.

Shape legend: B images (B, 3, S, S) a batch, V views of each, C classes.
"""

from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import numpy as np
import torch

from dataset.crop_views import apply_crop_views, draw_crop_views
from dataset.crops import Done, Job
from dataset.feeder import Feeder
from dataset.images import Dataset, Files
from dataset.long_tail import LongTailed, describe
from dataset.streams import Batch, Data, balanced_rows, check_size, passes
from utils.errors import UserError
from utils.ranks import my_rows
from utils.seeding import generator

ROWS = 32  # images of a job: several workers share a batch, and little lies in shared memory


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

    def again(self, name: str) -> "FileStream":
        """The same images and views in batches of their own, drawn under another name."""
        parts = (self.files, self.members, self.wanted, self.batch_size, self.feeder, self.device, self.seed, self.look)
        return FileStream(name, *parts, self.balanced)

    def jobs(self, t: int) -> list[Job]:
        """What the workers have to do for batch t; under torchrun, for this rank's rows of it."""
        places, mine = self._rows(generator(self.seed, self.name, t), t, self.batch_size), my_rows(self.batch_size)
        return self._cut(self.name, t, places[mine], len(self.wanted), mine.start)

    def at(self, t: int) -> Batch:
        """The batch of step t (0, 1, ...); under torchrun, this rank's rows of it. Raises UserError for a file that
        can't be read, see `Feeder`.
        """
        whole = self.batch_size
        batch = self._batch(self.feeder.batch(self, t), f"{self.name} views", t, self.wanted, whole, my_rows(whole))
        return batch or self._refuse()

    def sweep(self, wanted: tuple[str, ...] | None = None, batch_size: int = 256) -> Iterator[Batch]:
        """Every image once, in the order of `members`; in the views that are wanted here, or those of the batches.

        Those that can't be read are left out, see `Feeder`. Raises UserError if that leaves none.
        """
        wanted, name, found = wanted or self.wanted, f"{self.name} sweep", False
        crops = 0 if wanted == ("plain",) else len(wanted)
        places = np.split(np.arange(len(self.members)), range(batch_size, len(self.members), batch_size))
        batches = [self._cut(name, i, part, crops) for i, part in enumerate(places)]
        self.feeder.start(job for jobs in batches for job in jobs)
        for i, jobs in enumerate(batches):
            if batch := self._batch([self.feeder.next() for _ in jobs], name, i, wanted, len(places[i])):
                found = True
                yield batch
        if not found:
            self._refuse()

    def _refuse(self) -> NoReturn:
        first = self.files.paths[self.members[0]]
        raise UserError(f"{first}: not a readable image, nor is any other of the {self.name} set; replace them")

    def _cut(self, name: str, t: int, places: np.ndarray, crops: int, row: int = 0) -> list[Job]:
        starts = range(0, len(places), ROWS)
        return [Job(name, t, row + first, self._key, places[first : first + ROWS], crops) for first in starts]

    def _batch(
        self, parts: list[Done], name: str, t: int, wanted: tuple[str, ...], whole: int, rows: slice = slice(None)
    ) -> Batch | None:
        """The views of what the workers made, but for images that they could not read; None if there is no other.

        These are `rows` of a batch of `whole` images.
        """
        used = torch.cat([part.used for part in parts]).numpy()
        kept = np.flatnonzero(used >= 0)
        if not len(kept):
            return None
        crops = torch.cat([part.pixels.to(self.device, non_blocking=True) for part in parts], dim=1)
        if len(kept) < len(used):
            crops = crops.index_select(1, torch.from_numpy(kept).to(self.device, non_blocking=True))
        draw = draw_crop_views(generator(self.seed, name, t), wanted, whole, crops.shape[4]).of_rows(rows).of_rows(kept)
        labels = torch.from_numpy(self._labels[used[kept]]).to(self.device, non_blocking=True)
        return Batch(apply_crop_views(crops, draw, **self.look), labels)


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

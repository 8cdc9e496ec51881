"""The streams of a data set: everything that a recipe trains and tests on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataset import load
from dataset.batches import Batches, DrawNumbers
from dataset.class_table import describe
from dataset.folder import load_folder
from dataset.images import Dataset, Views
from dataset.long_tail import ImbalanceFlags, LongTailed, long_tailed
from dataset.pixels import Pixels
from dataset.self_training import Joined, with_joined
from dataset.stream import Stream
from utils.ranks import my_rows


class Data(NamedTuple):
    """Everything a recipe trains and tests on.

    labelled, unlabelled: with the views the SSL method wants; for the classifier learner `balanced` (labelled images,
    classes equally likely) and `partners` (labelled + unlabelled images), one view each. counts: (C,);
    unlabelled_counts: (C,), None if not known. mean, std: of the images' normalisation.
    """

    labelled: Stream
    unlabelled: Stream
    balanced: Stream
    partners: Stream
    held_out: Stream
    counts: np.ndarray
    unlabelled_counts: np.ndarray | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set once, in (images, labels)."""
        for views, labels in self.held_out.sweep():
            yield views[0], labels

    def batches(
        self, streams: tuple[str, ...], *draws: DrawNumbers, name: str = "step", batch_size: int | None = None
    ) -> Batches:
        """Batches of these streams, with what method and learner draw. name: another one than "step" gives batches,
        and numbers, of their own; batch_size: of these, where it is another one, see `Stream.renamed`.
        """
        chosen = {stream: getattr(self, stream) for stream in streams}
        if name != "step":
            chosen = {key: stream.renamed(f"{stream.name} {name}", batch_size) for key, stream in chosen.items()}
        return self.labelled.images.batched(chosen, draws, self.labelled.seed, name)

    def table(self) -> str:
        """The class counts, for printing."""
        members = self.unlabelled.members
        again = int(np.isin(self.labelled.members, members).sum())
        return describe(self.counts, self.unlabelled_counts, len(members), self.classes, again)

    def machine(self) -> dict[str, float]:
        """Figures of how the epoch that ends here went on this machine."""
        return self.labelled.images.machine()

    def facts(self) -> dict[str, Any]:
        """What the checkpoints and the summary of a run say of its data."""
        known = self.unlabelled_counts is not None
        return {
            "classes": list(self.classes),
            "labelled_counts": self.counts.tolist(),
            "unlabelled_counts": self.unlabelled_counts.tolist() if known else None,
            "unlabelled": len(self.unlabelled.members),
            "mean": list(self.mean),
            "std": list(self.std),
            **self.labelled.images.facts(),
        }


class Sampling(NamedTuple):
    """What all streams of a data set share. batch_size: labelled images per step; mu: unlabelled images per labelled
    one; learner_view: what classifier learning sees (published code: strong, on Small-ImageNet-127 weak).
    """

    batch_size: int
    seed: int
    mu: int = 1
    learner_view: str = "strong"


class DataFlags(ImbalanceFlags, Protocol):
    """The flags of the CIFAR recipes that say what is trained on; img_size and skip_corrupt: of a folder."""

    dataset: str
    data_root: Path
    img_size: int
    skip_corrupt: bool
    batch_size: int


def open_data(
    args: DataFlags, wanted: Views, include_labelled: bool, device: torch.device, joined: Joined | None = None
) -> Data:
    """The streams of the data set that flags name, long-tailed or the user's own folder; prints the class counts.

    wanted: the views of the SSL method; include_labelled: whether the unlabelled set holds the labelled images, too;
    joined: what a generation of self-training adds to the labelled ones.
    Raises UserError where files or flags are wrong.
    """
    if args.dataset == "folder":
        dataset, split = load_folder(args.data_root, args.img_size, include_labelled, args.skip_corrupt)
    else:
        dataset = load(args.dataset, args.data_root)
        split = long_tailed(dataset, args, include_labelled)
    dataset, split = (dataset, split) if joined is None else with_joined(dataset, split, joined)
    sampling = Sampling(args.batch_size, args.manualSeed if joined is None else joined.seed)
    data = streams(dataset, split, wanted, sampling, device)
    print(data.table())
    return data


def streams(dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, device: torch.device) -> Data:
    """The streams of a data set whose pixels lie in memory, or are mapped. wanted: the views of the SSL method.

    Raises UserError if a set is smaller than a batch, or the ranks can't share a batch equally.
    """
    look = dataset.mean, dataset.std, device, dataset.flip, dataset.pixel_scale
    train, test = (Pixels(images, *look) for images in (dataset.train, dataset.test))
    return assembled(dataset, split, wanted, sampling, train, test)


def assembled(dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, train: Any, test: Any) -> Data:
    """The same out of the sets of images that make the views: `Pixels`, or `dataset.files.ImageFiles`."""
    (batch_size, seed, mu, view), everything = sampling, np.concatenate([split.labelled, split.unlabelled])
    my_rows(batch_size)
    return Data(
        Stream("labelled", train, split.labelled, wanted["labelled"], batch_size, seed),
        Stream("unlabelled", train, split.unlabelled, wanted["unlabelled"], mu * batch_size, seed),
        Stream("balanced", train, split.labelled, (view,), batch_size, seed, balanced=True),
        Stream("partners", train, everything, (view,), batch_size, seed),
        Stream("test", test, np.arange(len(test.labels)), ("plain",), 1, 0),
        split.counts,
        split.unlabelled_counts,
        dataset.classes,
        dataset.mean,
        dataset.std,
    )

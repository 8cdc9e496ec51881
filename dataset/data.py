"""What a recipe trains and tests on, and what is told of it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dataset.batches import Batches, DrawNumbers
from dataset.class_table import describe
from dataset.files import ImageFiles
from dataset.held_out import HELD_OUT, TEST
from dataset.stream import Stream


class Data(NamedTuple):
    """Everything a recipe trains and tests on.

    labelled, unlabelled: with the views the SSL method wants; for the classifier learner `balanced` (labelled images,
    classes equally likely) and `partners` (labelled + unlabelled images), one view each. tested: the test set;
    held_out: the held-out part, None without one; the same as `tested` where there is no test set. counts: (C,);
    unlabelled_counts: (C,), None if not known. mean, std: of the images' normalisation. files: see `Dataset`.
    """

    labelled: Stream
    unlabelled: Stream
    balanced: Stream
    partners: Stream
    tested: Stream
    held_out: Stream | None
    counts: np.ndarray
    unlabelled_counts: np.ndarray | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: dict[str, str]

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set once, in (images, labels)."""
        return _once(self.tested)

    def tested_batches(self) -> float | None:
        """How many times as many images as in a batch of `test` are evaluated after an epoch; None for images in files,
        which workers decode.
        """
        if isinstance(self.tested.images, ImageFiles):
            return None
        parts = [self.tested, *([self.held_out] if self.held_out not in (None, self.tested) else [])]
        size = min(len(self.tested.members), self.tested.images.sweep_size)
        return sum(len(part.members) for part in parts) / size

    def evaluated(self) -> dict[str, Iterator[tuple[Tensor, Tensor]]]:
        """What is evaluated after an epoch: `test`, and `held_out` where that is another part; each as by `test`."""
        parts = {"test": self.test()}
        if self.held_out is not None and self.held_out is not self.tested:
            parts["held_out"] = _once(self.held_out)
        return parts

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

    @property
    def labelled_again(self) -> int:
        """How many of the unlabelled images are the labelled ones."""
        return int(np.isin(self.labelled.members, self.unlabelled.members).sum())

    def table(self) -> str:
        """The class counts, for printing."""
        members = self.unlabelled.members
        return describe(self.counts, self.unlabelled_counts, len(members), self.classes, self.labelled_again)

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
            "labelled_again": self.labelled_again,
            "mean": list(self.mean),
            "std": list(self.std),
            **({} if self.held_out is None else self._held_out(self.held_out)),
            **self.files,
            **self.labelled.images.facts(),
        }

    def _held_out(self, part: Stream) -> dict[str, Any]:
        return {
            "held_out_counts": np.bincount(part.images.labels, minlength=len(self.counts)).tolist(),
            "evaluated_on": HELD_OUT if part is self.tested else TEST,
        }


def _once(part: Stream) -> Iterator[tuple[Tensor, Tensor]]:
    for views, labels in part.sweep():
        yield views[0], labels

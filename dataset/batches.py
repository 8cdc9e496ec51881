"""Everything that a training step gets: drawn on the host as one buffer of numbers, made on the device.

`draw(t)` is a pure function of the seed and t. `make` has shapes that don't depend on t, and never waits.

Shape legend: B images (B, 3, S, S) a minibatch, V views of each.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.ranks import of_rank
from utils.seeding import fold_in

# (step t, labelled images B of this rank) -> what a method or a learner draws, arrays of 4- or 8-byte numbers
DrawNumbers = Callable[[int, int], dict[str, np.ndarray]]


class Minibatch(NamedTuple):
    """views: one float (B, 3, S, S) for each view asked for, normalised; labels: int64 (B,), None if not all of the
    set's images have one.
    """

    views: list[Tensor]
    labels: Tensor | None


class Batch(NamedTuple):
    """What a step gets. numbers: what method and learner have drawn, by name. labelled, unlabelled: for the SSL method;
    balanced, partners: for the classifier learner, one view each; None where a step has no use for them.
    """

    numbers: dict[str, Tensor]
    labelled: Minibatch | None = None
    unlabelled: Minibatch | None = None
    balanced: Minibatch | None = None
    partners: Minibatch | None = None


def draw_numbers(draws: Sequence[DrawNumbers], seed: int, name: str, t: int, rows: int) -> dict[str, np.ndarray]:
    """What `draws` give for step t, with torch's generator for the CPU seeded from (seed, name, t) and the rank."""
    torch.default_generator.manual_seed(fold_in(seed, of_rank(name), t))
    return {key: array for draw in draws for key, array in draw(t, rows).items()}


class Packed:
    """Named arrays as one buffer of 4-byte words, and back. Those of 8-byte numbers come first, which keeps them
    aligned.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
        self.layout = {name: (arrays[name].dtype, arrays[name].shape) for name in order}

    def pack(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """int32 (K,). Raises ValueError unless the arrays are of the same names, types and shapes as ever."""
        if {name: (array.dtype, array.shape) for name, array in arrays.items()} != self.layout:
            raise ValueError("a step drew numbers of other names, types or shapes than the first one")
        return np.concatenate([np.ascontiguousarray(arrays[name]).reshape(-1).view(np.int32) for name in self.layout])

    def unpack(self, words: Tensor) -> dict[str, Tensor]:
        """Views of a buffer (K,)."""
        sizes = [int(np.prod(shape)) * dtype.itemsize // 4 for dtype, shape in self.layout.values()]
        kinds = [(torch.from_numpy(np.empty(0, dtype)).dtype, shape) for dtype, shape in self.layout.values()]
        parts = zip(self.layout, words.split(sizes), kinds, strict=True)
        return {name: part.view(dtype).view(shape) for name, part, (dtype, shape) in parts}


class Batches:
    """The batches of a run whose images lie in memory, or in one memory-mapped file. streams: those that a step asks
    for, by their names in `Batch`, all of one set of images; draws: what method and learner draw besides.

    name: of the steps; those of another name get other numbers.
    """

    def __init__(self, streams: dict[str, Any], draws: Sequence[DrawNumbers], seed: int, name: str = "step") -> None:
        self.streams, self.draws, self.seed, self.name = streams, draws, seed, name
        self.images = next(iter(streams.values())).images
        self.device = self.images.device
        self.packed = Packed(self._arrays(0))

    def draw(self, t: int) -> np.ndarray:
        """All random numbers of step t, int32 (K,), its images' labels, and their pixels where these lie on disk."""
        return self.packed.pack(self._arrays(t))

    def make(self, words: Tensor, on_host: np.ndarray | None = None) -> Batch:
        """The batch that `draw` has drawn. words: its numbers on the device; on_host: the same on the host, None where
        a kernel makes the views, see `render.has_kernel`.
        """
        arrays = self.packed.unpack(words)
        rows, labels, pixels = (arrays.pop(name, None) for name in ("rows", "labels", "pixels"))
        host = None if on_host is None else self.packed.unpack(torch.from_numpy(on_host))["rows"].numpy()
        views = self.images.render(rows, host, pixels).split([s.rows * len(s.wanted) for s in self.streams.values()])
        labels = labels.long().split([s.rows for s in self.streams.values()])
        made = {
            name: Minibatch(list(view.split(s.rows)) if s.wanted else [], y if s.known else None)
            for (name, s), view, y in zip(self.streams.items(), views, labels, strict=True)
        }
        return Batch(**made, numbers=arrays)

    def at(self, t: int) -> Batch:
        """The batch of step t."""
        words = self.draw(t)
        host = torch.from_numpy(words)
        host = host.pin_memory() if self.device.type == "cuda" else host
        return self.make(host.to(self.device, non_blocking=True), words)

    def _arrays(self, t: int) -> dict[str, np.ndarray]:
        drawn = [self.images.draw(stream, t) for stream in self.streams.values()]
        index = np.concatenate([image for image, _ in drawn])
        rows = np.concatenate([rows.reshape(-1, rows.shape[2]) for _, rows in drawn])
        arrays = {"rows": rows, "labels": self.images.labels[index].astype(np.int32)}
        if (pixels := self.images.read(index, rows)) is not None:
            arrays["pixels"] = pixels
        rows_of_rank = next(iter(self.streams.values())).rows
        return arrays | draw_numbers(self.draws, self.seed, self.name, t, rows_of_rank)

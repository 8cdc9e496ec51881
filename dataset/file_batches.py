"""Batches of images that lie in files: what `dataset.batches` is for others.

Shape legend: B images (B, 3, S, S) a batch, R of them a chunk, V views of each.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.batches import Batch, DrawNumbers, draw_numbers
from dataset.crop_views import CropViews
from dataset.crops import Chunk
from dataset.stream import Stream


class Crops(NamedTuple):
    """parts: uint8 (V, R, 3, S, S) each, on the host; views: what was drawn for them; labels: int64 (B,), None
    if not all of the set's images have one.
    """

    parts: list[Tensor]
    views: CropViews
    labels: np.ndarray | None


class FileBatches:
    """As `dataset.batches.Batches`, for streams of files: crops come from the workers, and aren't packed."""

    def __init__(self, streams: dict[str, Stream], draws: Sequence[DrawNumbers], seed: int, name: str = "step") -> None:
        self.streams, self.draws, self.seed, self.name = streams, draws, seed, name
        self.images = next(iter(streams.values())).images
        self.device = self.images.device

    def chunks(self, t: int) -> list[Chunk]:
        """What the workers make for step t."""
        return [chunk for stream in self.streams.values() for chunk in self.images.chunks(stream, t)]

    def draw(self, t: int) -> tuple[dict[str, Crops], dict[str, np.ndarray]]:
        """The crops of step t, and its numbers. Raises UserError for a file that can't be read, see `ImageLoader`."""
        began, loader = time.monotonic(), self.images.loader
        decoded = loader.read(self.chunks, t)
        loader.waited += time.monotonic() - began
        crops = {
            name: self.images.draw(stream, t, [part for part in decoded if part.chunk.name == stream.name])
            for name, stream in self.streams.items()
        }
        rows = next(iter(self.streams.values())).rows
        return crops, draw_numbers(self.draws, self.seed, self.name, t, rows)

    def at(self, t: int) -> Batch:
        """The batch of step t. A single number stays on the host, where an optimiser can read it."""
        crops, drawn = self.draw(t)
        made = {name: self.images.make(part) for name, part in crops.items()}
        numbers = {name: torch.from_numpy(array) for name, array in drawn.items()}
        moved = {name: n.to(self.device, non_blocking=True) for name, n in numbers.items() if n.ndim}
        return Batch(**made, numbers=numbers | moved)

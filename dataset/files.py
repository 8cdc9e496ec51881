"""Images that lie in files of any size, decoded by workers: what `dataset.pixels` is for others.

Shape legend: B images (B, 3, S, S) a batch, R of them a chunk, V views of each.
"""

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from dataset.augment import on_device
from dataset.batches import Minibatch
from dataset.crop_views import apply_crop_views, draw_crop_views
from dataset.crops import Chunk, Decoded, resized
from dataset.file_batches import Crops, FileBatches
from dataset.image_loader import ImageLoader
from dataset.images import Files
from dataset.stream import Stream
from utils.errors import UserError
from utils.ranks import my_rows
from utils.seeding import generator

CHUNK = 32  # images of a chunk: several workers share a batch, and little lies in shared memory


class ImageFiles:
    """A set of image files with int64 labels (N,), that streams share. mean, std: of their normalisation.

    Crops are a function of (seed, name of the stream, t, row in the batch), all else that is drawn of (seed, name, t).
    """

    batched = FileBatches

    def __init__(self, files: Files, mean: tuple[float, ...], std: tuple[float, ...], loader: ImageLoader) -> None:
        self.paths, self.labels, self.upright, self.sweep_size = files
        self.loader, self.size, self.device = loader, loader.cropper.size, loader.device
        self.look = {"mean": mean, "std": std}

    def facts(self) -> dict[str, int]:
        """resize: of the shorter side in evaluation, before the crop."""
        return {"img_size": self.size, "resize": resized(self.size)}

    def machine(self) -> dict[str, float]:
        return self.loader.figures()

    def chunks(self, stream: Stream, t: int) -> list[Chunk]:
        """What the workers make for batch t of a stream; under torchrun, for this rank's rows of it."""
        (_, places), mine = stream.order(t), my_rows(stream.batch_size)
        return self._cut(stream.name, t, stream.members[places[mine]], len(stream.wanted), mine.start)

    def draw(self, stream: Stream, t: int, decoded: list[Decoded]) -> Crops:
        """What has become of `chunks`, and what is drawn for the views.

        A file that can't be read gives way to the next one of the stream that can. Raises UserError if there is none.
        """
        (_, places), mine = stream.order(t), my_rows(stream.batch_size)
        image = stream.members[places[mine]]
        for part in decoded:
            for row in (~part.read).nonzero().flatten().tolist():
                place = part.chunk.first + row
                image[place - mine.start], part.pixels[:, row] = self._next(stream, places[place], part.chunk, row)
        rng = generator(stream.seed, f"{stream.name} views", t)
        views = draw_crop_views(rng, stream.wanted, stream.batch_size, self.size).of_rows(mine)
        return Crops([part.pixels for part in decoded], views, self.labels[image] if stream.known else None)

    def make(self, crops: Crops) -> Minibatch:
        """The views, on the device."""
        pixels = torch.cat([part.to(self.device, non_blocking=True) for part in crops.parts], dim=1)
        labels = None if crops.labels is None else on_device(crops.labels, self.device)
        return Minibatch(apply_crop_views(pixels, crops.views, **self.look), labels)

    def sweep(self, stream: Stream, wanted: tuple[str, ...], batch_size: int) -> Iterator[Minibatch]:
        """Every image of a stream once, see `Stream.sweep`."""
        name, crops, empty = f"{stream.name} sweep", 0 if wanted == ("plain",) else len(wanted), True
        batches = np.split(stream.members, range(batch_size, len(stream.members), batch_size))

        def chunks(i: int) -> list[Chunk]:
            return self._cut(name, i, batches[i], crops) if i < len(batches) else []

        for i, image in enumerate(batches):
            decoded = self.loader.read(chunks, i)
            kept = torch.cat([part.read for part in decoded]).nonzero().flatten().numpy()
            if len(kept):
                views = draw_crop_views(generator(stream.seed, name, i), wanted, len(image), self.size).of_rows(kept)
                parts = [part.pixels if part.read.all() else part.pixels[:, part.read] for part in decoded]
                yield self.make(Crops(parts, views, self.labels[image[kept]] if stream.known else None))
                empty = False
        if empty:
            self._refuse(stream)

    def _cut(self, name: str, t: int, image: np.ndarray, crops: int, first: int = 0) -> list[Chunk]:
        paths = [self.paths[i] for i in image.tolist()]
        return [
            Chunk(name, t, first + i, paths[i : i + CHUNK], crops, self.upright) for i in range(0, len(paths), CHUNK)
        ]

    def _next(self, stream: Stream, place: int, chunk: Chunk, row: int) -> tuple[int, Tensor]:
        """Number of the image that can be read next after a place of a stream, its crops for a row (V, 3, S, S)."""
        for image in np.roll(stream.members, -place)[1:].tolist():
            one = self.loader.decode(chunk._replace(first=chunk.first + row, paths=[self.paths[image]]))
            if one.read.all():
                return image, one.pixels[:, 0]
        self._refuse(stream)

    def _refuse(self, stream: Stream) -> NoReturn:
        first = self.paths[stream.members[0]]
        raise UserError(f"{first}: not a readable image, nor is any other of the {stream.name} set; replace them")

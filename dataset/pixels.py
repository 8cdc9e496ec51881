"""Images that lie in memory, or in one memory-mapped file: what streams draw of them, and the views that come of it.

Shape legend: N images (N, 3, S, S), B images a batch, V views of each, rows of W numbers: see `dataset.rows`.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dataset.augment import on_device
from dataset.batches import Batches, Minibatch
from dataset.images import Images
from dataset.render import render
from dataset.rows import draw_rows
from dataset.stream import Stream
from utils.ranks import my_rows
from utils.seeding import generator


class Pixels:
    """A set of images, uint8 (N, 3, S, S) with int64 labels (N,) on the host, that streams share.

    mean, std: per channel, of pixels scaled to 0 .. 1; flip, pixel_scale: see `draw_rows`. Memory-mapped pixels stay on
    disk, and only those that a batch asks for are read; others lie on the device.
    """

    batched, sweep_size = Batches, 500

    def __init__(
        self,
        images: Images,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        flip: bool = True,
        pixel_scale: float = 1.0,
    ) -> None:
        self.labels, self.size, self.device = images.labels, images.pixels.shape[3], device
        self.mapped = images.pixels if isinstance(images.pixels, np.memmap) else None
        self.pixels = None if self.mapped is not None else torch.from_numpy(images.pixels).to(device)
        self.look = torch.tensor([*mean, *std]).to(device)
        self.options = {"flip": flip, "pixel_scale": pixel_scale}

    def facts(self) -> dict[str, int]:
        return {"img_size": self.size}

    def machine(self) -> dict[str, float]:
        """Of how an epoch went on this machine there is nothing to say."""
        return {}

    def draw(self, stream: Stream, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the batch of step t (0, 1, ...), under torchrun this rank's part of it: the numbers of its images (B,),
        and a row for each view of them, int32 (V, B, W).
        """
        rng, places = stream.order(t)
        image, mine = stream.members[places], my_rows(stream.batch_size)
        return image[mine], draw_rows(rng, image, stream.wanted, self.size, **self.options)[:, mine]

    def read(self, image: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        """Where all pixels lie on disk, those of the images numbered `image` (B,): uint8 (B, 3, S, S). Rows (R, W) of
        these are changed in place: they name images by their place in there from then on.
        """
        if self.mapped is None:
            return None
        order = np.argsort(image, kind="stable")
        rows[:, 0] = order[np.searchsorted(image, rows[:, 0], sorter=order)]
        return self.mapped[image]

    def render(self, rows: Tensor, on_host: np.ndarray | None, pixels: Tensor | None) -> Tensor:
        """The views that rows (R, W) ask for, see `dataset.render`. pixels: what `read` gave for them."""
        return render(self.pixels if pixels is None else pixels, rows, self.look, on_host)

    def sweep(self, stream: Stream, wanted: tuple[str, ...], batch_size: int) -> Iterator[Minibatch]:
        """Every image of a stream once, see `Stream.sweep`."""
        for i, start in enumerate(range(0, len(stream.members), batch_size)):
            image, rng = stream.members[start : start + batch_size], generator(stream.seed, f"{stream.name} sweep", i)
            rows = draw_rows(rng, image, wanted, self.size, **self.options).reshape(len(wanted) * len(image), -1)
            pixels = self.read(image, rows)
            on_disk = None if pixels is None else on_device(pixels, self.device)
            views = self.render(on_device(rows, self.device), rows, on_disk).split(len(image))
            yield Minibatch(list(views), on_device(self.labels[image], self.device) if stream.known else None)

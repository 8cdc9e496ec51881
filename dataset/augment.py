"""Views of a batch of images: weak (crop, flip), strong (RandAugment, crop, flip, hole) and plain.

`draw_*` takes a few random numbers per image from a generator on the host; `apply_*` is a pure function of images and
draw. So a batch is the same on every device, and nothing in here waits for one.

Shape legend: B images (B, 3, S, S) of S x S pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.pillow_ops import fetch
from dataset.randaugment import RandAugmentDraw, apply_randaugment, draw_randaugment30


class CropFlip(NamedTuple):
    """int64 (B,) each. top, left: corner of the crop in the padded image, pixels; flip: 1 mirrors left and right."""

    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray


class Hole(NamedTuple):
    """int64 (B,) each: the pixel (y, x) around which the hole lies."""

    y: np.ndarray
    x: np.ndarray


class Views(NamedTuple):
    """The draws of a batch's views. randaugment: the rows of all strong views; crop_flips, holes: view by view, None
    where a view has none.
    """

    randaugment: RandAugmentDraw
    crop_flips: list[CropFlip | None]
    holes: list[Hole | None]

    def of_rows(self, rows: slice, n_images: int) -> "Views":
        """The draws of some rows of the n_images images, for all views."""

        def cut(draw: tuple | None) -> tuple | None:
            if draw is None:
                return None
            parts = (array.reshape(-1, n_images, *array.shape[1:])[:, rows] for array in draw)
            return type(draw)(*(part.reshape(-1, *part.shape[2:]) for part in parts))

        return Views(cut(self.randaugment), [cut(d) for d in self.crop_flips], [cut(d) for d in self.holes])


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    """A copy on the device that the host doesn't wait for."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def draw_crop_flip(rng: np.random.Generator, n_images: int, size: int, flip: bool = True) -> CropFlip:
    """Crops uniform over all places in an image padded by size // 8 pixels a side, mirrored with p = 0.5 if `flip`."""
    top, left = rng.integers(0, 2 * (size // 8) + 1, size=(2, n_images))
    mirrored = rng.integers(0, 2, n_images)
    return CropFlip(top, left, mirrored if flip else np.zeros_like(mirrored))


def apply_crop_flip(images: Tensor, draw: CropFlip) -> Tensor:
    """Pad uint8 images (B, 3, S, S) with S // 8 black pixels a side, crop back to S x S, mirror.

    Source: FixMatch's weak augmentation; sizes: published code, not in the paper.
    """
    size = images.shape[3]
    top, left, flip = _on(images.device, np.stack(draw))[:, :, None]
    place = torch.arange(size, device=images.device)
    y = place + (top - size // 8)
    x = torch.where(flip > 0, size - 1 - place, place) + (left - size // 8)
    return fetch(images, y[:, :, None], x[:, None, :])


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, 3, S, S) -> PyTorch's default floating type: scaled to 0 .. 1, then (image - mean) / std per channel,
    like torchvision's bits.

    255 is made a tensor because CUDA divides by a plain number through its reciprocal, which rounds otherwise.
    """
    mean, std = torch.tensor([mean, std]).to(images.device, non_blocking=True)[:, :, None, None]
    images = images.to(mean.dtype)
    return images.div_(images.new_full((), 255)).sub_(mean).div_(std)


def draw_hole(rng: np.random.Generator, n_images: int, size: int) -> Hole:
    """The centre of a hole, uniform over the size x size pixels of an image."""
    return Hole(*rng.integers(0, size, size=(2, n_images)))


def apply_hole(images: Tensor, draw: Hole) -> Tensor:
    """Set a square of side S // 2, clipped at the rim, to zero in normalised images (B, 3, S, S), in place.

    Source: FixMatch's Cutout; published code, not in the paper.
    """
    size = images.shape[3]
    half = size // 2 // 2
    centre = _on(images.device, np.stack(draw))[:, :, None]
    place = torch.arange(size, device=images.device)
    rows, columns = ((centre - half <= place) & (place < centre + half)).to(images.dtype)
    return images.mul_(1 - rows[:, None, :, None] * columns[:, None, None, :])


def draw_views(
    rng: np.random.Generator,
    names: tuple[str, ...],
    n_images: int,
    size: int,
    *,
    flip: bool = True,
    n: int = 3,
    m: float = 4,
    pixel_scale: float = 1.0,
) -> Views:
    """All random numbers for the views called `names` of n_images images of size x size pixels.

    Raises ValueError for a name other than weak, strong and plain.
    """
    if not set(names) <= {"weak", "strong", "plain"}:
        raise ValueError(f"views are weak, strong or plain, not {names}")
    randaugment = draw_randaugment30(rng, names.count("strong") * n_images, size, n, m, pixel_scale)
    strong, weak = ([i for i, name in enumerate(names) if name == kind] for kind in ("strong", "weak"))
    crop_flip = draw_crop_flip(rng, len(strong + weak) * n_images, size, flip)
    crop_flips = dict(zip(strong + weak, _by_view(crop_flip, n_images), strict=True))
    holes = dict(zip(strong, _by_view(draw_hole(rng, len(strong) * n_images, size), n_images), strict=True))
    return Views(randaugment, [crop_flips.get(i) for i in range(len(names))], [holes.get(i) for i in range(len(names))])


def _by_view(draw: CropFlip | Hole, n_images: int) -> list[CropFlip] | list[Hole]:
    """Cut a draw for several views into one draw a view."""
    return [type(draw)(*rows) for rows in zip(*(array.reshape(-1, n_images) for array in draw), strict=True)]


def apply_views(
    pixels: Tensor, names: tuple[str, ...], draw: Views, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[Tensor]:
    """Make the views called `names` of uint8 pixels (B, 3, S, S): floating, of the same shape, in their order."""
    strong = iter(())
    if "strong" in names:  # RandAugment is many small operations: all strong views share them as one batch
        copies = pixels.repeat(names.count("strong"), 1, 1, 1)
        strong = iter(apply_randaugment(copies, draw.randaugment).split(len(pixels)))
    views = []
    for name, crop_flip, hole in zip(names, draw.crop_flips, draw.holes, strict=True):
        images = next(strong) if name == "strong" else pixels
        images = images if crop_flip is None else apply_crop_flip(images, crop_flip)
        images = normalise(images, mean, std)
        views.append(images if hole is None else apply_hole(images, hole))
    return views


def views(
    pixels: Tensor,
    names: tuple[str, ...],
    rng: np.random.Generator,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    flip: bool = True,
    n: int = 3,
    m: float = 4,
    pixel_scale: float = 1.0,
    batch_size: int | None = None,
    rows: slice = slice(None),
) -> list[Tensor]:
    """Views of uint8 pixels (B, 3, S, S): floating (B, 3, S, S) each, on their device, in the order of `names`.

    names: "weak" = crop, flip, normalise; "strong" = n operations of RandAugment at magnitude m of 30, crop, flip,
    normalise, a hole of zeros; "plain" = normalise. mean, std: per channel, of pixels scaled to 0 .. 1.
    flip: whether images may be mirrored. pixel_scale: factor on RandAugment's magnitudes in pixels.
    batch_size, rows: where the pixels are not a whole batch but these rows of it, which then look as in the whole one.
    The same state of rng gives the same bits. Source: FixMatch's weak and strong augmentation, which the paper takes
    over; their order and sizes: published code, not in the paper.
    """
    whole = batch_size or len(pixels)
    draw = draw_views(rng, names, whole, pixels.shape[3], flip=flip, n=n, m=m, pixel_scale=pixel_scale)
    draw = draw if whole == len(pixels) else draw.of_rows(rows, whole)
    return apply_views(pixels, names, draw, mean, std)

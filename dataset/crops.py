"""Image files -> uint8 crops, one image at a time: what the worker processes of the file-backed streams do.

Shape legend: R images of a chunk, V crops of each, S x S pixels.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dataset.image_files import DAMAGED, Shape, open_image, square
from dataset.image_modes import as_rgb, silent_pillow
from utils.seeding import fold_in
from utils.text import reason

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


class Chunk(NamedTuple):
    """Some of the images of a batch: rows first .. first + R - 1 of batch t of the stream called `name`.

    paths: their R files; crops: random ones of each image (V), or 0 for the one of evaluation;
    upright: see `dataset.images.Files`.
    """

    name: str
    t: int
    first: int
    paths: list[str]
    crops: int
    upright: bool = False


class Decoded(NamedTuple):
    """A chunk, and what has become of it. pixels: uint8 (V, R, 3, S, S); read: bool (R,), False where the file could
    not be read, which leaves zeros; damaged: (file, what is wrong with it) of these.
    """

    chunk: Chunk
    pixels: Tensor
    read: Tensor
    damaged: list[tuple[str, str]]


def read_rgb(path: str, upright: bool = False) -> Image.Image:
    """As torchvision's Food101 does with what JPEGs hold; upright: turned as Exif says, as by `read_image`. Raises one
    of DAMAGED for a file that isn't an image.
    """
    with silent_pillow(), open_image(path) as image:
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        return as_rgb(image)


def random_crop(image: Image.Image, size: int) -> Image.Image:
    """torchvision's RandomResizedCrop, drawn from torch's generator: 8 to 100 % of the area, sides 3 : 4 to 4 : 3."""
    from torchvision.transforms import (  # here, for it takes seconds, and most runs don't need it
        InterpolationMode,
        RandomResizedCrop,
    )
    from torchvision.transforms.functional import resized_crop

    top, left, height, width = RandomResizedCrop.get_params(image, SCALE, RATIO)
    return resized_crop(image, top, left, height, width, [size, size], InterpolationMode.BILINEAR)


def centre_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The shorter side resized to `resize` pixels, then size x size pixels cut from the centre."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop
    from torchvision.transforms.functional import resize as resize_shorter

    return center_crop(resize_shorter(image, resize, InterpolationMode.BILINEAR), [size, size])


def resized(size: int) -> int:
    """The shorter side in evaluation before a centre crop of `size` pixels: 256 for 224 (published code)."""
    return size * 256 // 224


def evaluated_shape(resize: int | None) -> Shape:
    """How images are cut in evaluation. resize: see `centre_crop`, None for `square`."""
    return square if resize is None else partial(centre_crop, resize=resize)


class Cropper(torch.utils.data.Dataset):
    """chunk -> its crops. A row's random numbers are a function of (seed, stream, t, row), whichever chunk it is in."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __getitem__(self, chunk: Chunk) -> Decoded:
        pixels = np.zeros((max(chunk.crops, 1), len(chunk.paths), self.size, self.size, 3), np.uint8)
        read, damaged = torch.ones(len(chunk.paths), dtype=torch.bool), []
        with torch.random.fork_rng(devices=[]):  # without workers, this runs between the steps of training
            for row, path in enumerate(chunk.paths):
                try:
                    image = read_rgb(path, chunk.upright)
                except DAMAGED as error:
                    read[row] = False
                    damaged.append((path, reason(error)))
                    continue
                torch.default_generator.manual_seed(
                    fold_in(self.seed, f"{chunk.name} row {chunk.first + row}", chunk.t)
                )
                for view in range(chunk.crops):
                    pixels[view, row] = random_crop(image, self.size)
                if not chunk.crops:
                    pixels[0, row] = centre_crop(image, self.size, resized(self.size))
        channels_first = np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3))
        return Decoded(chunk, torch.from_numpy(channels_first), read, damaged)

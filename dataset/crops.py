"""Image files -> uint8 crops, one image at a time: what the worker processes of the file-backed streams do.

Shape legend: R images of a job, V crops of each, S x S pixels.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from dataset.image_files import DAMAGED, open_image, reason
from utils.seeding import fold_in

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


class Job(NamedTuple):
    """Some of the images of a batch: rows first .. first + R - 1 of batch t of the stream called `name`.

    members: which set of images, by its place in `Cropper.members`; places: int64 (R,), which of its members;
    crops: random ones of each image (V), or 0 for the one of evaluation.
    """

    name: str
    t: int
    first: int
    members: int
    places: np.ndarray
    crops: int


class Done(NamedTuple):
    """pixels: uint8 (V, R, 3, S, S); used: int64 (R,), the places whose images these are, -1 where none could be read;
    damaged: (file, what is wrong with it) of every file that could not.
    """

    pixels: Tensor
    used: Tensor
    damaged: list[tuple[str, str]]


def read_rgb(path: str) -> Image.Image:
    """As torchvision's Food101 does. Raises one of DAMAGED for a file that isn't an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of files that it reads nevertheless, and doesn't name
        return open_image(path).convert("RGB")


def random_crop(image: Image.Image, size: int) -> Image.Image:
    """torchvision's RandomResizedCrop, drawn from torch's generator: 8 to 100 % of the area, sides 3 : 4 to 4 : 3."""
    top, left, height, width = RandomResizedCrop.get_params(image, SCALE, RATIO)
    return TF.resized_crop(image, top, left, height, width, [size, size], InterpolationMode.BILINEAR)


def centre_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The shorter side resized to `resize` pixels, then size x size pixels cut from the centre."""
    return TF.center_crop(TF.resize(image, resize, InterpolationMode.BILINEAR), [size, size])


def resized(size: int) -> int:
    """The shorter side in evaluation before a centre crop of `size` pixels: 256 for 224 (published code)."""
    return size * 256 // 224


class Cropper(torch.utils.data.Dataset):
    """job -> its crops. A row's random numbers are a function of (seed, stream, t, row), whichever job it comes in.

    members: sets of files, each in order. replace: a file that can't be read gives way to the next
    one of its set that can (in evaluation: to none); otherwise its row is left empty, and the file is named.
    """

    def __init__(self, size: int, seed: int, replace: bool) -> None:
        self.size, self.seed, self.replace = size, seed, replace
        self.members: list[list[str]] = []

    def __getitem__(self, job: Job) -> Done:
        pixels = np.zeros((max(job.crops, 1), len(job.places), self.size, self.size, 3), np.uint8)
        used, damaged = np.full(len(job.places), -1), []
        with torch.random.fork_rng(devices=[]):  # without workers, this runs between the steps of training
            for row, place in enumerate(job.places.tolist()):
                image, used[row] = self._read(job, place, damaged)
                if image is not None:
                    seed = fold_in(self.seed, f"{job.name} row {job.first + row}", job.t)
                    torch.default_generator.manual_seed(seed)
                    for view in range(job.crops):
                        pixels[view, row] = random_crop(image, self.size)
                    if not job.crops:
                        pixels[0, row] = centre_crop(image, self.size, resized(self.size))
        channels_first = np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3))
        return Done(torch.from_numpy(channels_first), torch.from_numpy(used), damaged)

    def _read(self, job: Job, place: int, damaged: list[tuple[str, str]]) -> tuple[Image.Image | None, int]:
        """The image at a place, or what replaces it, and the place that is from; (None, -1) for none."""
        files = self.members[job.members]
        tries = len(files) if self.replace and job.crops else 1
        for other in range(place, place + tries):
            path = files[other % len(files)]
            try:
                return read_rgb(path), other % len(files)
            except DAMAGED as error:
                damaged.append((path, reason(error)))
        return None, -1

"""The views of `dataset.rows` and `dataset.render` once more, image by image with Pillow and torchvision, as such
pipelines are usually written. From the same generator it draws the same numbers, as what they mean to Pillow.

Shape legend: B images uint8 (B, 3, S, S), L operations one after another on each image.
"""

from itertools import count
from typing import NamedTuple

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from dataset.randaugment import OPERATION_NAMES, POOL10, POOL30, pool10_values, pool30_values


class RandAugmentDraw(NamedTuple):
    """operation: int64 (B, L), places in `OPERATION_NAMES`; value: float64 (B, L), what the operation takes, signed
    (degrees, bits, level, factor, shear, pixels); position: float64 (B, L, 2), centre (x, y) of a cutout, pixels.
    """

    operation: np.ndarray
    value: np.ndarray
    position: np.ndarray


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


def _pick(rng: np.random.Generator, pool: dict, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each operation to draw: its place in the pool, its place in `OPERATION_NAMES`, its sign; all (B, L)."""
    place = rng.integers(len(pool), size=shape)
    signed = np.array([sign for *_, sign in pool.values()])[place]
    sign = np.where(signed & (rng.random(shape) < 0.5), -1.0, 1.0)
    return place, np.array([OPERATION_NAMES.index(name) for name in pool])[place], sign


def draw_randaugment30(
    rng: np.random.Generator, n_images: int, size: int, n: int = 3, m: float = 4, pixel_scale: float = 1.0
) -> RandAugmentDraw:
    """n operations at magnitude m of 30 for each image, with replacement; geometric ones change sign with p = 0.5.

    size: side of the images, pixels. pixel_scale: factor on the shifts and sides, published for 32 and 64 pixels.
    Positions as numpy.random.uniform(size) draws them: from (1, size].
    Source: FixMatch's published pool; n = 3, m = 4 and the positions: published code, not in the paper.
    """
    place, operation, sign = _pick(rng, POOL30, (n_images, n))
    value = np.array([*pool30_values(m, pixel_scale).values()])[place] * sign
    return RandAugmentDraw(operation, value, size + (1 - size) * rng.random((n_images, n, 2)))


def draw_randaugment10(rng: np.random.Generator, n_images: int, size: int, n: int = 2, m: int = 10) -> RandAugmentDraw:
    """n operations, each applied with p = 0.5 at a magnitude 1 .. m - 1 of 10, then a grey square of side size // 2.

    size: side of the images, pixels. Source: FixMatch's published pool; published code for Food-101, not in the paper.
    """
    place, operation, sign = _pick(rng, POOL10, (n_images, n))
    table = np.array([[*pool10_values(v, size).values()] for v in range(m)])
    value = table[rng.integers(1, m, place.shape), place] * sign
    operation = np.where(rng.random(place.shape) < 0.5, operation, OPERATION_NAMES.index("Identity"))
    last = np.full((n_images, 1), OPERATION_NAMES.index("Cutout"))
    return RandAugmentDraw(
        np.hstack([operation, last]),
        np.hstack([value, np.full(last.shape, size // 2)]),
        rng.uniform(0, size, (n_images, n + 1, 2)),
    )


def draw_crop_flip(rng: np.random.Generator, n_images: int, size: int, flip: bool = True) -> CropFlip:
    """Crops uniform over all places in an image padded by size // 8 pixels a side, mirrored with p = 0.5 if `flip`."""
    top, left = rng.integers(0, 2 * (size // 8) + 1, size=(2, n_images))
    mirrored = rng.integers(0, 2, n_images)
    return CropFlip(top, left, mirrored if flip else np.zeros_like(mirrored))


def draw_hole(rng: np.random.Generator, n_images: int, size: int) -> Hole:
    """The centre of a hole, uniform over the size x size pixels of an image."""
    return Hole(*rng.integers(0, size, size=(2, n_images)))


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
    """All random numbers for the views called `names` of n_images images of size x size pixels."""
    randaugment = draw_randaugment30(rng, names.count("strong") * n_images, size, n, m, pixel_scale)
    strong, weak = ([i for i, name in enumerate(names) if name == kind] for kind in ("strong", "weak"))
    crop_flip = draw_crop_flip(rng, len(strong + weak) * n_images, size, flip)
    crop_flips = dict(zip(strong + weak, _by_view(crop_flip, n_images), strict=True))
    holes = dict(zip(strong, _by_view(draw_hole(rng, len(strong) * n_images, size), n_images), strict=True))
    return Views(randaugment, [crop_flips.get(i) for i in range(len(names))], [holes.get(i) for i in range(len(names))])


def _by_view(draw: CropFlip | Hole, n_images: int) -> list[CropFlip] | list[Hole]:
    """Cut a draw for several views into one draw a view."""
    return [type(draw)(*rows) for rows in zip(*(array.reshape(-1, n_images) for array in draw), strict=True)]


def solarize_add(image: Image.Image, addition: float) -> Image.Image:
    """SolarizeAdd of the published pools, which Pillow lacks."""
    added = np.clip(np.asarray(image).astype(int) + addition, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(added), 128)


def cutout(image: Image.Image, side: float, position: np.ndarray, fill: tuple[int, int, int]) -> Image.Image:
    """A filled rectangle around position (x, y) in pixels, clipped at the rim."""
    image, (width, height) = image.copy(), image.size
    x, y = (int(max(0, centre - side / 2)) for centre in position)
    ImageDraw.Draw(image).rectangle((x, y, min(width, x + side), min(height, y + side)), fill)
    return image


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Nearest neighbour, black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


# name -> (image, value, position of a cutout) -> image
PILLOW = {
    "Identity": lambda i, v, xy: i,
    "AutoContrast": lambda i, v, xy: ImageOps.autocontrast(i),
    "Equalize": lambda i, v, xy: ImageOps.equalize(i),
    "Invert": lambda i, v, xy: ImageOps.invert(i),
    "Posterize": lambda i, v, xy: ImageOps.posterize(i, max(1, int(v))),
    "Solarize": lambda i, v, xy: ImageOps.solarize(i, v),
    "SolarizeAdd": lambda i, v, xy: solarize_add(i, v),
    "Brightness": lambda i, v, xy: ImageEnhance.Brightness(i).enhance(v),
    "Contrast": lambda i, v, xy: ImageEnhance.Contrast(i).enhance(v),
    "Color": lambda i, v, xy: ImageEnhance.Color(i).enhance(v),
    "Sharpness": lambda i, v, xy: ImageEnhance.Sharpness(i).enhance(v),
    "Rotate": lambda i, v, xy: i.rotate(v),
    "ShearX": lambda i, v, xy: affine(i, 1, v, 0, 0, 1, 0),
    "ShearY": lambda i, v, xy: affine(i, 1, 0, 0, v, 1, 0),
    "TranslateX": lambda i, v, xy: affine(i, 1, 0, v, 0, 1, 0),
    "TranslateY": lambda i, v, xy: affine(i, 1, 0, 0, 0, 1, v),
    "CutoutAbs": lambda i, v, xy: cutout(i, v, xy, (125, 123, 114)),
    "Cutout": lambda i, v, xy: cutout(i, v, xy, (127, 127, 127)),
}


def pillow_randaugment(image: Image.Image, draw, row: int) -> Image.Image:
    """The operations that row `row` of a `RandAugmentDraw` asks for, one after another."""
    for operation, value, position in zip(draw.operation[row], draw.value[row], draw.position[row], strict=True):
        image = PILLOW[OPERATION_NAMES[operation]](image, value, position)
    return image


def pillow_view(image: Image.Image, crop_flip, hole, row: int, mean: tuple, std: tuple) -> Tensor:
    """What follows RandAugment, for one image: row `row` of the draws, None for a step that the view doesn't have."""
    size = image.size[0]
    if crop_flip is not None:
        image = TF.crop(TF.pad(image, size // 8), crop_flip.top[row], crop_flip.left[row], size, size)
        image = TF.hflip(image) if crop_flip.flip[row] else image
    view = TF.normalize(TF.to_tensor(image), mean, std)
    if hole is not None:
        y, x, half = hole.y[row], hole.x[row], size // 2 // 2
        view[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return view


def pillow_views(pixels: np.ndarray, names: tuple[str, ...], draw: Views, mean: tuple, std: tuple) -> list[Tensor]:
    """The views called `names`, float (B, 3, S, S) each. pixels: uint8 (B, S, S, 3)."""
    strong, result = count(), []
    for name, crop_flip, hole in zip(names, draw.crop_flips, draw.holes, strict=True):
        view = []
        for row, image in enumerate(map(Image.fromarray, pixels)):
            if name == "strong":
                image = pillow_randaugment(image, draw.randaugment, next(strong))
            view.append(pillow_view(image, crop_flip, hole, row, mean, std))
        result.append(torch.stack(view))
    return result

"""RandAugment on batches of uint8 images: the pools of operations, and `apply_layers`, which runs what was drawn.

Both published pools: 30 magnitudes (CIFAR, Small-ImageNet) and 10 (Food-101). Results equal Pillow's bit for bit.

Shape legend: B images (B, 3, H, W), L operations one after another on each image.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dataset import pillow_ops as ops

# name -> (value at magnitude 0, at magnitude 30, does the sign flip)
POOL30 = {
    "AutoContrast": (0, 1, False),
    "Equalize": (0, 1, False),
    "Invert": (0, 1, False),
    "Rotate": (0, 30, True),
    "Posterize": (0, 4, False),
    "Solarize": (0, 256, False),
    "SolarizeAdd": (0, 110, False),
    "Color": (0.1, 1.9, False),
    "Contrast": (0.1, 1.9, False),
    "Brightness": (0.1, 1.9, False),
    "Sharpness": (0.1, 1.9, False),
    "ShearX": (0, 0.3, True),
    "ShearY": (0, 0.3, True),
    "CutoutAbs": (0, 40, False),
    "TranslateX": (0, 100, True),
    "TranslateY": (0, 100, True),
}
IN_PIXELS = ("CutoutAbs", "TranslateX", "TranslateY")

# name -> (value at magnitude v = 0 .. 10 in an image of s x s pixels, does the sign flip)
POOL10 = {
    "AutoContrast": (lambda v, s: 0, False),
    "Brightness": (lambda v, s: v * 1.8 / 10 + 0.1, False),
    "Color": (lambda v, s: v * 1.8 / 10 + 0.1, False),
    "Contrast": (lambda v, s: v * 1.8 / 10 + 0.1, False),
    "Cutout": (lambda v, s: int(v * 0.2 / 10 * s), False),
    "Equalize": (lambda v, s: 0, False),
    "Invert": (lambda v, s: 0, False),
    "Posterize": (lambda v, s: int(v * 4 / 10) + 4, False),
    "Rotate": (lambda v, s: int(v * 30 / 10), True),
    "Sharpness": (lambda v, s: v * 1.8 / 10 + 0.1, False),
    "ShearX": (lambda v, s: v * 0.3 / 10, True),
    "ShearY": (lambda v, s: v * 0.3 / 10, True),
    "Solarize": (lambda v, s: 256 - int(v * 256 / 10), False),
    "SolarizeAdd": (lambda v, s: int(v * 110 / 10), True),
    "TranslateX": (lambda v, s: int(v * 0.45 / 10 * s), True),
    "TranslateY": (lambda v, s: int(v * 0.45 / 10 * s), True),
}


def pool30_values(m: float, pixel_scale: float = 1.0) -> dict[str, float]:
    """What each operation of the pool takes at magnitude m of 30; those in pixels are multiplied by pixel_scale."""
    values = {name: m / 30 * (high - low) + low for name, (low, high, _) in POOL30.items()}
    return {name: v * pixel_scale if name in IN_PIXELS else v for name, v in values.items()}


def pool10_values(v: int, size: int) -> dict[str, float]:
    """What each operation of the pool takes at magnitude v of 10, on images of size x size pixels."""
    return {name: value(v, size) for name, (value, _) in POOL10.items()}


def _fixed_point(*matrix: float) -> tuple[int, ...]:
    """Pillow's 16.16 fixed point of an affine matrix (a, b, c, d, e, f), taken at the centres of pixels."""
    a, b, c, d, e, f = matrix
    matrix = a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5
    return tuple(math.floor(entry * 65536 + 0.5) for entry in matrix)


def _rotation(degrees: float, h: int, w: int) -> tuple[int, ...]:
    """Image.rotate: about the centre, the matrix rounded to 15 decimals."""
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = w / 2, h / 2
    return _fixed_point(cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)


def _whole_shift(pixels: float) -> int:
    """A translation is cut to whole pixels before fixed point is: Pillow has a path of its own for it."""
    return math.floor(pixels + 0.5)


def _float_bits(v: float) -> int:
    """A float32 that travels among whole numbers."""
    return int(np.float32(v).view(np.int32))


# name -> (batched operation, its numbers given v, h, w); the zeros of a cutout are edges, filled in by `dataset.rows`.
OPERATIONS = {
    "Identity": (lambda images, p: images, lambda v, h, w: ()),
    "AutoContrast": (ops.autocontrast, lambda v, h, w: ()),
    "Equalize": (ops.equalize, lambda v, h, w: ()),
    "Invert": (ops.point, lambda v, h, w: (0, 0, 255)),
    "Posterize": (ops.point, lambda v, h, w: (0, 256, 256 - 2 ** (8 - max(1, int(v))))),
    "Solarize": (ops.point, lambda v, h, w: (0, math.ceil(v), 255)),
    "SolarizeAdd": (ops.point, lambda v, h, w: (math.floor(v), 128, 255)),
    "Brightness": (ops.enhance, lambda v, h, w: (_float_bits(v), 0, 0)),
    "Contrast": (ops.enhance, lambda v, h, w: (_float_bits(v), 1, 0)),
    "Color": (ops.enhance, lambda v, h, w: (_float_bits(v), 0, 1)),
    "Sharpness": (ops.sharpness, lambda v, h, w: (_float_bits(v),)),
    "Rotate": (ops.affine, _rotation),
    "ShearX": (ops.affine, lambda v, h, w: _fixed_point(1, v, 0, 0, 1, 0)),
    "ShearY": (ops.affine, lambda v, h, w: _fixed_point(1, 0, 0, v, 1, 0)),
    "TranslateX": (ops.affine, lambda v, h, w: _fixed_point(1, 0, _whole_shift(v), 0, 1, 0)),
    "TranslateY": (ops.affine, lambda v, h, w: _fixed_point(1, 0, 0, 0, 1, _whole_shift(v))),
    "CutoutAbs": (ops.cutout, lambda v, h, w: (0, 0, 0, 0, 125, 123, 114)),
    "Cutout": (ops.cutout, lambda v, h, w: (0, 0, 0, 0, 127, 127, 127)),
}
OPERATION_NAMES = tuple(OPERATIONS)
FUNCTIONS = tuple(dict.fromkeys(function for function, _ in OPERATIONS.values()))
FUNCTION_OF = np.array([FUNCTIONS.index(function) for function, _ in OPERATIONS.values()])


@lru_cache(maxsize=4096)
def numbers_of(operation: int, value: float, height: int, width: int) -> tuple[int, ...]:
    """What a batched operation reads: seven whole numbers. operation: place in `OPERATION_NAMES`; value: what it takes,
    sign included (degrees, bits, level, factor, shear, pixels); of a cutout the four edges are zeros.
    """
    numbers = OPERATIONS[OPERATION_NAMES[operation]][1](value, height, width)
    return (*numbers, *[0] * (7 - len(numbers)))


def apply_layers(images: Tensor, layers: np.ndarray) -> Tensor:
    """Run layers, int32 (B, L, 8), on uint8 images (B, 3, H, W), on the device they are on. B > 0.

    A layer is a place in `FUNCTIONS`, and the seven numbers that this reads. Before each layer the images are sorted
    by function, which then works on one slice, known to the host.
    """
    functions = layers[:, :, 0].T  # (L, B)
    order = np.argsort(functions, axis=1, kind="stable")  # which image stands where in a layer
    unmoved = np.arange(len(images))[None]
    before, after = np.vstack([unmoved, np.argsort(order, axis=1)]), np.vstack([order, unmoved])
    moves = torch.from_numpy(np.take_along_axis(before, after, 1)).to(images.device, non_blocking=True)
    numbers = np.take_along_axis(layers[:, :, 1:].transpose(1, 0, 2), order[..., None], axis=1)
    numbers = torch.from_numpy(numbers[..., None, None, None]).to(images.device, non_blocking=True)
    for layer, of_row in enumerate(functions):
        counts = np.bincount(of_row, minlength=len(FUNCTIONS)).tolist()
        parts = images.index_select(0, moves[layer]).split(counts)
        runs = zip(FUNCTIONS, parts, numbers[layer].split(counts), strict=True)
        images = torch.cat([function(part, p) for function, part, p in runs if len(part)])
    return images.index_select(0, moves[-1])

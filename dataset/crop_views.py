"""Views of crops: mirrored, RandAugment of Food-101 where a view is strong, normalised; batched on the device.

Shape legend: B images, V views of each, crops uint8 (V, B, 3, S, S) of S x S pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.augment import normalise
from dataset.randaugment import RandAugmentDraw, apply_randaugment, draw_randaugment10


class CropViews(NamedTuple):
    """flip: bool (V, B), True mirrors left and right; randaugment: for each view, None where it isn't strong."""

    flip: np.ndarray
    randaugment: list[RandAugmentDraw | None]

    def of_rows(self, rows: slice | np.ndarray) -> "CropViews":
        """The draws of some of the images."""
        cut = lambda draw: draw and RandAugmentDraw(*(array[rows] for array in draw))
        return CropViews(self.flip[:, rows], [cut(draw) for draw in self.randaugment])


def draw_crop_views(rng: np.random.Generator, names: tuple[str, ...], n_images: int, size: int) -> CropViews:
    """All random numbers for the views called `names` (weak, strong, plain) of n_images images, but for their crops."""
    flip = rng.integers(0, 2, (len(names), n_images)).astype(bool)
    flip[[name == "plain" for name in names]] = False
    return CropViews(flip, [draw_randaugment10(rng, n_images, size) if name == "strong" else None for name in names])


def apply_crop_views(crops: Tensor, draw: CropViews, mean: tuple[float, ...], std: tuple[float, ...]) -> list[Tensor]:
    """The V views of uint8 crops (V, B, 3, S, S), floating (B, 3, S, S) each, on their device.

    Source: published code for Food-101, not in the paper; RandAugment's last operation is a grey square.
    """
    flip = torch.from_numpy(draw.flip).to(crops.device, non_blocking=True)
    mirrored = torch.where(flip[:, :, None, None, None], crops.flip(4), crops)
    views = zip(mirrored, draw.randaugment, strict=True)
    images = (view if operations is None else apply_randaugment(view, operations) for view, operations in views)
    return [normalise(view, mean, std) for view in images]

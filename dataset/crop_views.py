"""Views of crops: mirrored, RandAugment of Food-101 where a view is strong, normalised; batched on the device.

Shape legend: B images, V views of each, crops uint8 (V, B, 3, S, S) of S x S pixels, L layers of RandAugment.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.augment import normalise, on_device
from dataset.randaugment import apply_layers
from dataset.rows import draw_layers10


class CropViews(NamedTuple):
    """flip: bool (V, B), True mirrors left and right; layers: int32 (B, L, 8) for each view, None where it isn't
    strong.
    """

    flip: np.ndarray
    layers: list[np.ndarray | None]

    def of_rows(self, rows: slice | np.ndarray) -> "CropViews":
        """The draws of some of the images."""
        return CropViews(self.flip[:, rows], [None if layers is None else layers[rows] for layers in self.layers])


def draw_crop_views(rng: np.random.Generator, names: tuple[str, ...], n_images: int, size: int) -> CropViews:
    """All random numbers for the views called `names` (weak, strong, plain) of n_images images, but for their crops."""
    flip = rng.integers(0, 2, (len(names), n_images)).astype(bool)
    flip[[name == "plain" for name in names]] = False
    return CropViews(flip, [draw_layers10(rng, n_images, size) if name == "strong" else None for name in names])


def apply_crop_views(crops: Tensor, draw: CropViews, mean: tuple[float, ...], std: tuple[float, ...]) -> list[Tensor]:
    """The V views of uint8 crops (V, B, 3, S, S), floating (B, 3, S, S) each, on their device.

    Source: published code for Food-101, not in the paper; RandAugment's last operation is a grey square.
    """
    look = torch.tensor([mean, std]).to(crops.device, non_blocking=True)
    flip = on_device(draw.flip, crops.device)
    mirrored = torch.where(flip[:, :, None, None, None], crops.flip(4), crops)
    views = zip(mirrored, draw.layers, strict=True)
    images = (view if layers is None else apply_layers(view, layers) for view, layers in views)
    return [normalise(view, *look) for view in images]

"""What views are made of besides RandAugment, on batches of images: crop and flip, normalise, hole.

Each is a function of images and of numbers that were drawn on the host. So a batch is the same on every device, and
nothing in here waits for one.

Shape legend: B images (B, 3, S, S) of S x S pixels.
"""

import numpy as np
import torch
from torch import Tensor

from dataset.pillow_ops import fetch


def apply_crop_flip(images: Tensor, draw: np.ndarray) -> Tensor:
    """Pad uint8 images (B, 3, S, S) with S // 8 black pixels a side, crop back to S x S, mirror.

    draw: whole numbers (3, B): top and left of the crop in the padded image, and 1 to mirror left and right.
    Source: FixMatch's weak augmentation; sizes: published code, not in the paper.
    """
    size = images.shape[3]
    top, left, flip = on_device(draw, images.device).long()[:, :, None]
    place = torch.arange(size, device=images.device)
    y = place + (top - size // 8)
    x = torch.where(flip > 0, size - 1 - place, place) + (left - size // 8)
    return fetch(images, y[:, :, None], x[:, None, :])


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> the type of mean (3,): scaled to 0 .. 1, then (image - mean) / std per channel, like
    torchvision's bits.

    255 is made a tensor because CUDA divides by a plain number through its reciprocal, which rounds otherwise.
    """
    images = images.to(mean.dtype)
    return images.div_(images.new_full((), 255)).sub_(mean[:, None, None]).div_(std[:, None, None])


def apply_hole(images: Tensor, draw: np.ndarray) -> Tensor:
    """Set a square of side S // 2, clipped at the rim, to zero in normalised images (B, 3, S, S), in place.

    draw: whole numbers (2, B), the pixel (y, x) around which the square lies.
    Source: FixMatch's Cutout; published code, not in the paper.
    """
    size = images.shape[3]
    half = size // 2 // 2
    centre = on_device(draw, images.device)[:, :, None]
    place = torch.arange(size, device=images.device)
    rows, columns = ((centre - half <= place) & (place < centre + half)).to(images.dtype)
    return images.mul_(1 - rows[:, None, :, None] * columns[:, None, None, :])


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of an array that the host doesn't wait for; on a CPU the array itself, where it is contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

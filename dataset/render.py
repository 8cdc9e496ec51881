"""Views out of pixels and rows: RandAugment, crop, flip, normalise, hole; the same bits on every device.

On a GPU one kernel makes all views of a step (`render.cu`). Elsewhere batched functions do: those of `dataset.augment`
and `dataset.randaugment`.

Shape legend: N images (N, 3, S, S), R rows of W numbers, see `dataset.rows`.
"""

import numpy as np
import torch
from torch import Tensor

from dataset.augment import apply_crop_flip, apply_hole, normalise, on_device
from dataset.kernel import fits, render_kernel
from dataset.randaugment import apply_layers
from dataset.rows import HEAD, LAYER


@torch.library.custom_op("cossl::render_views", mutates_args=(), device_types="cuda")
def render_views(pixels: Tensor, rows: Tensor, look: Tensor) -> Tensor:
    """One kernel: uint8 (N, 3, S, S), int32 (R, W), float32 (6,) mean and std -> float32 (R, 3, S, S)."""
    out = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.float32, device=pixels.device)
    render_kernel()(pixels, rows, look, out)
    return out


@render_views.register_fake
def _(pixels: Tensor, rows: Tensor, look: Tensor) -> Tensor:
    return torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.float32, device=pixels.device)


def has_kernel(device: torch.device, size: int = 8) -> bool:
    """Whether views of size x size pixels are made by the kernel there: it writes float32, and images must fit into a
    block's shared memory. On `meta`, which counts, as on a GPU.
    """
    if torch.get_default_dtype() != torch.float32:
        return False
    return device.type == "meta" or (device.type == "cuda" and render_kernel() is not None and fits(size, device))


def render(pixels: Tensor, rows: Tensor, look: Tensor, on_host: np.ndarray | None) -> Tensor:
    """Floating (R, 3, S, S): the views that `rows` ask for, on the device of pixels (N, 3, S, S) uint8.

    rows: int32 (R, W) on that device; look: (6,), mean and std per channel of pixels scaled to 0 .. 1; on_host: the
    rows once more, which the batched functions sort by, None where `has_kernel`. Never waits for the device.
    """
    if has_kernel(pixels.device, pixels.shape[3]):
        return render_views(pixels, rows, look)
    return render_in_batches(pixels, on_host, look)


def render_in_batches(pixels: Tensor, rows: np.ndarray, look: Tensor) -> Tensor:
    """The same by batched functions."""
    images = pixels.index_select(0, on_device(rows[:, 0], pixels.device))
    layers = rows[:, HEAD:].reshape(len(rows), -1, LAYER)
    strong = np.flatnonzero(layers[:, :, 0].any(1))
    if len(strong):
        place = on_device(strong, pixels.device)
        images.index_copy_(0, place, apply_layers(images.index_select(0, place), layers[strong]))
    images = apply_crop_flip(images, rows[:, 1:4].T)
    mean, std = look.split(3)
    return apply_hole(normalise(images, mean, std), rows[:, 4:6].T)

"""Pillow's image operations on whole batches, equal to Pillow bit for bit, on any device.

Every function is `(images, p) -> images`: the images go in and come out as uint8, and row i is treated with the numbers
p[i]. Those are computed from the random draws on the host (`dataset.randaugment`), so nothing here waits for the device.
Float arithmetic repeats Pillow's own order and precision; where Pillow's result provably doesn't depend on rounding,
integers do.

Shape legend: B images (B, 3, H, W), RGB; p float64 (B, 8), of which an operation reads the first few columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _whole(levels: Tensor) -> Tensor:
    """Float levels within 0 .. 255, cut to uint8; on a CPU the way round by int32 is three times as fast."""
    return levels.to(torch.int32).to(torch.uint8)


# --- Levels: what a pixel becomes depends on its own value and at most the histogram of its channel. ---


def point(images: Tensor, p: Tensor) -> Tensor:
    """Invert, Posterize, Solarize, SolarizeAdd in one: add p0, clip, invert from level p1 on, keep the bits of mask p2."""
    add, threshold, mask = p[:, :3, None, None, None].to(torch.int16).unbind(1)
    levels = images.to(torch.int16).add_(add).clamp_(0, 255)
    inverted = (threshold - 1 - levels) >> 15  # all bits set from the threshold on, else none: a select is far slower
    return levels.bitwise_xor_(inverted).bitwise_and_(mask).to(torch.uint8)


def autocontrast(images: Tensor, p: Tensor) -> Tensor:
    """ImageOps.autocontrast: stretch the levels of each channel to 0 .. 255; a constant channel stays."""
    low = images.amin((2, 3), keepdim=True).double()
    span = images.amax((2, 3), keepdim=True).double() - low
    scale = span.new_full((), 255) / span  # a tensor, for torch divides a plain number through the reciprocal
    scale, low = torch.where(span > 0, scale, 1), torch.where(span > 0, low, 0)
    stretched = images.double().mul_(scale).sub_(low * scale)  # float64 and this order, like Pillow's Python floats
    return _whole(stretched)


def equalize(images: Tensor, p: Tensor) -> Tensor:
    """ImageOps.equalize: flatten the histogram of each channel; images of too few pixels or levels stay."""
    pixels = images.flatten(2).long()
    ones = torch.ones((), dtype=torch.int32, device=images.device).expand(pixels.shape)
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    histogram = ones.new_zeros(*pixels.shape[:2], 256).scatter_add_(2, pixels, ones)
    brightest = histogram.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest).div(255, rounding_mode="floor")
    below = histogram.cumsum(2, dtype=torch.int32) - histogram
    table = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    table = torch.where(step > 0, table, levels).to(torch.uint8)
    return table.gather(2, pixels).view_as(images)


# --- Blends: ImageEnhance mixes the image with a degenerate version of itself, factor p0 on the image. ---


def _blend(degenerate: Tensor | float, images: Tensor, p: Tensor) -> Tensor:
    """Image.blend: float32, cut to whole levels, clipped when the factor lies outside 0 .. 1."""
    factor = p[:, 0, None, None, None].to(torch.float32)
    return _whole((images - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255))


def _grey(images: Tensor) -> Tensor:
    """Image.convert("L"): luma in 16-bit fixed point, int32 (B, 1, H, W)."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def brightness(images: Tensor, p: Tensor) -> Tensor:
    """ImageEnhance.Brightness: blend with black."""
    return _blend(0.0, images.float(), p)


def contrast(images: Tensor, p: Tensor) -> Tensor:
    """ImageEnhance.Contrast: blend with the mean of the grey image, rounded to a whole level."""
    grey = _grey(images)
    n = grey[0].numel()
    mean = (2 * grey.sum((2, 3), keepdim=True) + n).div(2 * n, rounding_mode="floor")
    return _blend(mean.float(), images.float(), p)


def color(images: Tensor, p: Tensor) -> Tensor:
    """ImageEnhance.Color: blend with the grey image."""
    return _blend(_grey(images).float(), images.float(), p)


def sharpness(images: Tensor, p: Tensor) -> Tensor:
    """ImageEnhance.Sharpness: blend with ImageFilter.SMOOTH, a 3 x 3 mean of 13 parts, 5 in the centre; the rim stays.

    A thirteenth plus a half is never within 1/26 of a whole number, so float32 rounds like any other arithmetic.
    """
    image = images.float()
    rows = image[:, :, :-2] + image[:, :, 1:-1] + image[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = box.add_(image[:, :, 1:-1, 1:-1], alpha=4).div_(13).add_(0.5).floor_()
    return _blend(smooth, image, p)


# --- Geometry: every pixel is fetched from one place of the source, black from outside of it. ---


def fetch(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """out[b, :, i, j] = images[b, :, y[b, i, j], x[b, i, j]]; black where that lies outside the image.

    y, x: int32, anything that broadcasts to (B, H, W): the smaller (B, H, 1) and (B, 1, W) do for shifts and mirrors.
    """
    height, width = images.shape[2:]
    framed = F.pad(images, (1, 1, 1, 1))  # a black frame to send everything from outside to: no mask needed
    index = y.clamp(-1, height).add_(1).mul_(width + 2) + x.clamp(-1, width).add_(1)
    index = index.long().flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return framed.flatten(2).gather(2, index).view_as(images)


def affine(images: Tensor, p: Tensor) -> Tensor:
    """Image.transform(AFFINE), nearest neighbour: source x = p0 x + p1 y + p2, y = p3 x + p4 y + p5, in 1/65536 pixel."""
    a, b, c, d, e, f = p[:, :6, None, None].to(torch.int32).unbind(1)
    x = torch.arange(images.shape[3], dtype=torch.int32, device=images.device)
    y = torch.arange(images.shape[2], dtype=torch.int32, device=images.device)[:, None]
    return fetch(images, ((d * x + f) + e * y) >> 16, ((a * x + c) + b * y) >> 16)


def cutout(images: Tensor, p: Tensor) -> Tensor:
    """A rectangle of side p0 in the colour (p1, p2, p3) around the point x = p6, y = p7 (pixels), clipped at the rim.

    Drawn like ImageDraw.rectangle, whose last row and column are included.
    """
    x = _between(p[:, 6], p[:, 0], images.shape[3])
    y = _between(p[:, 7], p[:, 0], images.shape[2])
    inside = y[:, None, :, None] * x[:, None, None, :]
    fill = p[:, 1:4, None, None].to(torch.uint8)
    return images + inside * (fill - images)  # uint8 wraps around and back


def _between(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """Which of `size` pixels a rectangle covers along one axis: uint8 (B, size), 0 or 1."""
    first = (centre - side / 2).clamp(min=0).trunc()
    last = (first + side).clamp(max=size).trunc()
    pixel = torch.arange(size, dtype=centre.dtype, device=centre.device)
    return ((first[:, None] <= pixel) & (pixel <= last[:, None])).to(torch.uint8)

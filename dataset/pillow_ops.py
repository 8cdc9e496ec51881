"""Pillow's image operations on whole batches, equal to Pillow bit for bit, on any device.

Every operation is `(images, p) -> images`. Images are uint8; row i is treated with the numbers p[i], which the host
works out from the random draws (`dataset.randaugment`): nothing in here waits for a device.
Float arithmetic repeats Pillow's order and precision wherever rounding can change the result.

Shape legend: B images (B, 3, H, W), RGB; p int32 (B, 7, 1, 1, 1), of which an operation reads the first few:
p[:, k], one number per image, is shaped to meet the whole images. In docstrings it is called pk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _whole(levels: Tensor) -> Tensor:
    """Float levels within 0 .. 255, cut to uint8; on a CPU the way round by int32 is three times as fast."""
    return levels.to(torch.int32).to(torch.uint8)


# --- Levels: what a pixel becomes depends on its own level and the histogram of its channel. ---


def point(images: Tensor, p: Tensor) -> Tensor:
    """Invert, Posterize, Solarize, SolarizeAdd in one: add p0, clip, invert from level p1 on, keep the bits in p2."""
    add, threshold, mask = p[:, :3].to(torch.int16).unbind(1)
    levels = images.to(torch.int16).add_(add).clamp_(0, 255)
    inverted = (threshold - 1 - levels).bitwise_right_shift_(15)  # every bit set from the threshold on, else none
    return levels.bitwise_xor_(inverted).bitwise_and_(mask).to(torch.uint8)


def autocontrast(images: Tensor, p: Tensor) -> Tensor:
    """ImageOps.autocontrast: stretch the levels of each channel to 0 .. 255; a constant channel stays."""
    low = images.amin((2, 3), keepdim=True).double()
    span = images.amax((2, 3), keepdim=True).double() - low
    scale = span.new_full((), 255) / span  # a tensor: torch divides a plain number by way of the reciprocal
    scale, low = torch.where(span > 0, scale, 1), torch.where(span > 0, low, 0)
    return _whole(images.double().mul_(scale).sub_(low * scale))  # float64, like Pillow's Python floats


def equalize(images: Tensor, p: Tensor) -> Tensor:
    """ImageOps.equalize: flatten the histogram of each channel; a channel of too few pixels or levels stays."""
    pixels = images.flatten(2).long()
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    histogram = levels.new_zeros(*pixels.shape[:2], 256)
    histogram.scatter_add_(2, pixels, levels.new_ones(()).expand(pixels.shape))
    brightest = histogram.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest).div(255, rounding_mode="floor")
    below = histogram.cumsum(2, dtype=torch.int32) - histogram
    table = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    table = torch.where(step > 0, table, levels).to(torch.uint8)
    return table.gather(2, pixels).view_as(images)


# --- Blends: ImageEnhance mixes the image with a degenerate version of itself. p0: the image's share, float32 bits. ---


def enhance(images: Tensor, p: Tensor) -> Tensor:
    """ImageEnhance's Brightness, Contrast and Color in one: blend with black (p1 = p2 = 0), with the mean of the grey
    image, rounded to a whole level (p1 = 1), or with the grey image (p2 = 1).
    """
    image = images.float()
    grey = _grey(image)
    mean = grey.mean((2, 3), keepdim=True, dtype=torch.float64).add_(0.5).floor_().float()
    return _blend((grey * p[:, 2]).add_(mean * p[:, 1]), image, p)


def sharpness(images: Tensor, p: Tensor) -> Tensor:
    """ImageEnhance.Sharpness: blend with ImageFilter.SMOOTH, a 3 x 3 mean of 13 parts, 5 in the centre; the rim stays.

    Some thirteenths plus a half are never within 1/26 of a whole number: how they were rounded can't be seen.
    """
    image = images.float()
    rows = image[:, :, :-2] + image[:, :, 1:-1] + image[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = box.add_(image[:, :, 1:-1, 1:-1], alpha=4).div_(13).add_(0.5).floor_()
    return _blend(smooth, image, p)


def _grey(image: Tensor) -> Tensor:
    """Image.convert("L") of float32 images: (B, 1, H, W). Exact: Pillow's 16-bit fixed point stays below 2^24."""
    red, green, blue = image.split(1, dim=1)
    luma = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return luma.add_(0x8000).mul_(2**-16).floor_()


def _blend(degenerate: Tensor, image: Tensor, p: Tensor) -> Tensor:
    """Image.blend of float32 images: cut to whole levels, clipped where the share lies outside 0 .. 1."""
    share = p[:, 0].view(torch.float32)
    return _whole((image - degenerate).mul_(share).add_(degenerate).clamp_(0, 255))


# --- Geometry: every pixel is fetched from one place of the source, black from outside of it. ---


def fetch(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """out[b, :, i, j] = images[b, :, y[b, i, j], x[b, i, j]]; black where that lies outside the image.

    y, x: integers, anything that broadcasts to (B, H, W): for shifts and mirrors (B, H, 1) and (B, 1, W) do.
    """
    height, width = images.shape[2:]
    framed = F.pad(images, (1, 1, 1, 1))  # a black frame to send everything from outside to: no mask needed
    index = torch.add(x.clamp(-1, width) + (width + 3), y.clamp(-1, height), alpha=width + 2)
    index = index.long().flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return framed.flatten(2).gather(2, index).view_as(images)


def affine(images: Tensor, p: Tensor) -> Tensor:
    """Image.transform(AFFINE), nearest neighbour: (x, y) comes from (p0 x + p1 y + p2, p3 x + p4 y + p5) / 2^16."""
    by_x, by_y, shift = p[:, :6].view(-1, 2, 3, 1, 1).transpose(0, 2)  # each (2, B, 1, 1)
    x = torch.arange(images.shape[3], dtype=torch.int32, device=images.device)
    y = torch.arange(images.shape[2], dtype=torch.int32, device=images.device)[:, None]
    source = (by_x * x + shift) + by_y * y
    x, y = source.bitwise_right_shift_(16)
    return fetch(images, y, x)


def cutout(images: Tensor, p: Tensor) -> Tensor:
    """ImageDraw.rectangle: columns p0 .. p1 and rows p2 .. p3, both ends included, in the colour (p4, p5, p6)."""
    height, width = images.shape[2:]
    place = torch.arange(max(height, width), dtype=torch.int32, device=images.device)
    first, last = p[:, :4].view(-1, 2, 2, 1).unbind(2)  # each (B, 2, 1): of columns and of rows
    columns, rows = ((first <= place) & (place <= last)).to(torch.uint8).unbind(1)
    inside = rows[:, None, :height, None] * columns[:, None, None, :width]
    fill = p[:, 4:7].view(-1, 3, 1, 1).to(torch.uint8)
    return images + inside * (fill - images)  # uint8 wraps round and back again

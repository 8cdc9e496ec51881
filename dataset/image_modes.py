"""Pixels of any mode of Pillow -> RGB of 8 bits, without clipping and without showing what is transparent."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

BITS, PHOTOMETRIC, WHITE_IS_0 = 258, 262, 0  # tags of TIFF, by which Pillow leaves grey values of 12 and 16 bits alone


def as_rgb(image: Image.Image) -> Image.Image:
    """The decoded image with 8 bits a channel. Grey values of 16 (or 12) bits are scaled by 255 / 65535 (or 4095) and
    rounded; transparent pixels are composed on white. Raises ValueError for values whose range isn't known: floats, and
    integers that are signed or of 32 bits.
    """
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # at most 16 bits there
        return _scaled(image).convert("RGB")
    if image.mode[0] in "IF":
        kind = "floats" if image.mode[0] == "F" else "signed or 32-bit integers"
        raise ValueError(f"its pixels are {kind}, of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def silent_pillow() -> Iterator[None]:
    """Pillow's warnings, of files that it reads nevertheless, don't name the file: none is shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _scaled(image: Image.Image) -> Image.Image:
    """16 bits of grey as 8."""
    tags, values = getattr(image, "tag_v2", {}), np.asarray(image)  # a TIFF's
    grey = np.rint(values * (255 / (2 ** tags.get(BITS, (16,))[0] - 1)))
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray((255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_0 else grey).astype(np.uint8))

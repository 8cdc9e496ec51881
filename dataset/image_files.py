"""Image files of any format and size -> uint8 arrays of one size.

Shape legend: N images, 3 channels, S x S pixels.
"""

import os
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.errors import UserError

# What Pillow raises for files that are cut short, are no images, or unpack to absurd sizes.
DAMAGED = (OSError, SyntaxError, ValueError, MemoryError, EOFError, struct.error, Image.DecompressionBombError)
# What is read, whatever a file is called: for other formats, as PostScript, Pillow starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
BITS, PHOTOMETRIC, WHITE_IS_0 = 258, 262, 0  # tags of TIFF, by which Pillow leaves grey values of 12 and 16 bits alone


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and the folders below it, by their endings, sorted. Links are followed, but not back
    to a folder that they lie in; what is hidden (other programs' thumbnails and notes) is left out.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # here, for it takes seconds, and most runs don't need it

    found = (Path(base, name) for base, names in _walk(folder) for name in names)
    shown = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in shown if path.suffix.lower() in IMG_EXTENSIONS)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of a folder and those below it."""
    for base, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = [name for name in folders if not f"{real}/".startswith(f"{os.path.realpath(f'{base}/{name}')}/")]
        yield base, names


Shape = Callable[[Image.Image, int], Image.Image]


def square(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size` pixels, and what the longer side has more cut off evenly."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def read_image(path: Path, size: int, shape: Shape = square) -> np.ndarray:
    """An image as RGB, uint8 (3, size, size): turned upright, then shaped. Raises one of DAMAGED for a file that isn't
    an image.
    """
    with open_image(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(shape(as_rgb(image), size)).transpose(2, 0, 1)


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


def _scaled(image: Image.Image) -> Image.Image:
    """16 bits of grey as 8."""
    tags, values = getattr(image, "tag_v2", {}), np.asarray(image)  # a TIFF's
    grey = np.rint(values * (255 / (2 ** tags.get(BITS, (16,))[0] - 1)))
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray((255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_0 else grey).astype(np.uint8))


def open_image(path: str | Path) -> Image.Image:
    """An image, which is decoded when its pixels are asked for. Raises one of DAMAGED for a file of no format in
    FORMATS, and for what is no file: opening a pipe would wait for ever.
    """
    if not Path(path).is_file():
        raise OSError("not a file")
    return Image.open(path, formats=FORMATS)


def read_images(
    paths: Sequence[Path], size: int, skip_corrupt: bool, shape: Shape = square
) -> tuple[np.ndarray, list[int]]:
    """The images in `paths`, uint8 (N, 3, size, size), and which of the paths they are, N indices.

    shape: (RGB image, size) -> one of size x size pixels; skip_corrupt: leave out damaged files, and say how many and
    which; otherwise they raise UserError.
    """
    kept, skipped = [], []
    try:
        pixels = np.empty((len(paths), 3, size, size), np.uint8)
    except MemoryError:
        needed = len(paths) * 3 * size**2 / 1e9
        problem = f"{len(paths)} images of {size} x {size} pixels need {needed:.0f} GB of memory"
        raise UserError(f"{problem}; take fewer images, or train with a smaller --img_size") from None
    for i, (image, problem) in enumerate(_read_all(paths, size, shape)):
        if problem is None:
            pixels[len(kept)] = image
            kept.append(i)
        elif skip_corrupt:
            skipped.append(paths[i])
        else:
            raise UserError(f"{paths[i]}: not a readable image ({problem}); replace it, or give --skip_corrupt")
    if skipped:
        print(f"skipped {len(skipped)} unreadable images: {', '.join(map(str, skipped))}", file=sys.stderr)
    return pixels[: len(kept)], kept


def reason(error: BaseException) -> str:
    """What is wrong with a file, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _read_all(paths: Sequence[Path], size: int, shape: Shape) -> Iterator[tuple[np.ndarray | None, str | None]]:
    def attempt(path: Path) -> tuple[np.ndarray | None, str | None]:
        try:
            return read_image(path, size, shape), None
        except DAMAGED as error:
            return None, reason(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of files that it reads nevertheless, and doesn't name
        read = pool.map(attempt, paths)
        if sys.stderr.isatty():
            import progressbar  # takes hold of the standard streams on import, so only where a bar is shown

            read = progressbar.progressbar(read, max_value=len(paths), prefix="reading images ")
        yield from read

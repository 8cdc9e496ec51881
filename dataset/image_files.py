"""Image files of any format and size -> uint8 arrays of one size.

Shape legend: N images, 3 channels, S x S pixels.
"""

import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dataset.image_modes import as_rgb, silent_pillow
from utils.errors import UserError
from utils.files import walk
from utils.text import printable, reason

# What Pillow raises for files that are cut short, are no images, or unpack to absurd sizes.
DAMAGED = (OSError, SyntaxError, ValueError, MemoryError, EOFError, struct.error, Image.DecompressionBombError)
# What is read, whatever a file is called: for other formats, as PostScript, Pillow starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
# What file managers and storage boxes leave in folders.
FOREIGN = {"@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
FOREIGN |= {"__macosx", "thumbs.db", "desktop.ini"}
READ_AHEAD = 200  # images that are read before they are asked for, at most


def image_files(folder: Path, skip_corrupt: bool = False) -> list[Path]:
    """The image files in a folder and the folders below it, by their endings, sorted; see `walk` for links. How many
    files have other endings is said on stderr. What is hidden or other programs' is left out.

    Raises UserError for folders that can't be read and links to nothing; with skip_corrupt they are left out and named.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # here, for it takes seconds, and most runs don't need it

    found, problems = walk(folder, foreign)
    for path, problem in sorted(problems.items()):
        if not skip_corrupt:
            raise UserError(f"{path}: {problem}; mend or remove it, or give --skip_corrupt")
        print(f"skipped {printable(path)}: {problem}", file=sys.stderr)
    files = sorted(base / name for base, names in found.items() for name in names)
    kinds = Counter(path.suffix.lower() for path in files if path.suffix.lower() not in IMG_EXTENSIONS)
    if kinds:
        endings = ", ".join(f"{n} {ending or 'without one'}" for ending, n in kinds.most_common(9))
        print(f"{printable(folder)}: files whose ending is not read: {printable(endings)}", file=sys.stderr)
    return [path for path in files if path.suffix.lower() in IMG_EXTENSIONS]


def foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or another program's."""
    return name.startswith(".") or name.lower() in FOREIGN


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


def open_image(path: str | Path) -> Image.Image:
    """An image, which is decoded when its pixels are asked for. Raises one of DAMAGED for a file of no format in
    FORMATS, and for what is no file: opening a pipe would wait for ever.
    """
    if not Path(path).is_file():
        raise OSError("not a file, or a link to nothing")
    return Image.open(path, formats=FORMATS)


def read_images(
    paths: Sequence[Path], size: int, skip_corrupt: bool, shape: Shape = square
) -> tuple[np.ndarray, list[int]]:
    """The images in `paths`, uint8 (N, 3, size, size), and which of the paths they are, N indices.

    shape: (RGB image, size) -> one of size x size pixels; skip_corrupt: leave out damaged files, and say how many and
    which; otherwise they raise UserError.
    """
    kept, n = [], len(paths)
    try:
        pixels = np.empty((n, 3, size, size), np.uint8)
    except MemoryError:  # else Pillow would go on until the machine has none left
        problem = f"{n} images of {size} x {size} pixels need {n * 3 * size**2 / 1e9:.0f} GB of memory"
        raise UserError(f"{problem}; take fewer images, or train with a smaller --img_size") from None
    for i, image in _readable(paths, size, skip_corrupt, shape):
        pixels[len(kept)] = image
        kept.append(i)
    return pixels[: len(kept)], kept


def read_batches(
    paths: Sequence[Path], batch_size: int, size: int, skip_corrupt: bool, shape: Shape = square
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """The same in batches, of which the last may be smaller: as many images are in memory, and some that come next."""
    readable = _readable(paths, size, skip_corrupt, shape)
    while batch := list(islice(readable, batch_size)):
        yield np.array([image for _, image in batch]), [i for i, _ in batch]


def _readable(paths: Sequence[Path], size: int, skip_corrupt: bool, shape: Shape) -> Iterator[tuple[int, np.ndarray]]:
    """The images, and which of the paths they are; see `read_images` for the damaged ones."""
    skipped = []
    for i, (image, problem) in enumerate(_read_all(paths, size, shape)):
        if image is not None:
            yield i, image
        elif skip_corrupt:
            skipped.append(paths[i])
        else:
            raise UserError(f"{paths[i]}: not a readable image ({problem}); replace it, or give --skip_corrupt")
    if skipped:
        print(f"skipped {len(skipped)} unreadable images: {', '.join(map(str, skipped))}", file=sys.stderr)


def _read_all(paths: Sequence[Path], size: int, shape: Shape) -> Iterator[tuple[np.ndarray | None, str | None]]:
    def attempt(path: Path) -> tuple[np.ndarray | None, str | None]:
        try:
            return read_image(path, size, shape), None
        except DAMAGED as error:
            return None, reason(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool, silent_pillow():
        parts = (paths[i : i + READ_AHEAD] for i in range(0, len(paths), READ_AHEAD))
        read = (one for part in parts for one in pool.map(attempt, part))
        if sys.stderr.isatty():
            import progressbar  # takes hold of the standard streams on import, so only where a bar is shown

            read = progressbar.progressbar(read, max_value=len(paths), prefix="reading images ")
        yield from read

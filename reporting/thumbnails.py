"""Image files -> small pictures that a page holds as text."""

import base64
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import ImageOps

from dataset.image_files import DAMAGED, open_image
from dataset.image_modes import as_rgb, silent_pillow

SIDE = 96  # pixels, of the longer side at most


def thumbnails(files: Iterable[Path]) -> dict[Path, str]:
    """Of each file the whole image, upright, as the URI of a JPEG; an empty one of what can't be read any more."""
    wanted = sorted(set(files))
    with ThreadPoolExecutor(os.cpu_count()) as pool, silent_pillow():
        return dict(zip(wanted, pool.map(_thumbnail, wanted), strict=True))


def _thumbnail(path: Path) -> str:
    file = io.BytesIO()
    try:
        with open_image(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            small = as_rgb(image)
            small.thumbnail((SIDE, SIDE))
            small.save(file, "JPEG", quality=80, icc_profile=None)
    except DAMAGED:
        return "data:,"
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

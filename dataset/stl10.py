"""STL-10 from the official binary files, shrunk to 32 pixels as long-tailed semi-supervised learning uses it.

Its 100,000 unlabelled images are of unknown classes, also of ones that the labelled images don't have.

Shape legend: N images (5,000 labelled, 100,000 unlabelled, 8,000 test), 3 channels, 96 x 96 pixels in the files, here
32 x 32, C = 10.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from dataset.cifar import CIFAR10_LOOK
from dataset.download import unpack_or_download
from dataset.images import Dataset, Images
from dataset.layouts import UNKNOWN
from utils.errors import UserError

NUMBERS = {"train": 5_000, "unlabeled": 100_000, "test": 8_000}  # images, by the names of the files
_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SIDE, STORED = 32, 96  # pixels, here and in the files
_HOME = "https://cs.stanford.edu/~acoates/stl10"


def load_stl10(root: Path) -> Dataset:
    """STL-10 (Coates et al. 2011), C = 10, from `root`/stl10_binary or `root`/stl10_binary.tar.gz, else downloaded. The
    training set is the 5,000 labelled images, then the unlabelled ones, whose labels are -1.

    Images are shrunk as by torchvision's `Resize(32)`: Pillow's bilinear filter, which smooths. Normalisation: that of
    CIFAR-10 (published code of CDMAD). Raises `UserError` for missing or damaged files.
    """
    from torchvision.datasets import STL10

    folder = root / STL10.base_folder
    if not folder.exists():
        unpack_or_download(STL10, root, _HOME)
    labels = {part: _labels(folder, part) for part in ("train", "test")}
    train, unlabelled, test = (_pixels(folder, part) for part in NUMBERS)
    unknown = np.full(len(unlabelled), UNKNOWN, dtype=np.int64)
    everything = Images(train, labels["train"]).with_more(Images(unlabelled, unknown))
    return Dataset(everything, Images(test, labels["test"]), *CIFAR10_LOOK, _NAMES)


def _labels(folder: Path, part: str) -> np.ndarray:
    """int64 (N,), 0 .. 9; 1 .. 10 in the file."""
    path = folder / f"{part}_y.bin"
    labels = _mapped(path, NUMBERS[part]).astype(np.int64) - 1
    if labels.min() < 0 or labels.max() >= len(_NAMES):
        raise UserError(f"{path}: damaged (holds other labels than 1 to 10); {_remedy(folder)}")
    return labels


def _pixels(folder: Path, part: str) -> np.ndarray:
    """uint8 (N, 3, 32, 32). The file has the columns of each channel one after another."""
    n = NUMBERS[part]
    stored = _mapped(folder / f"{part}_X.bin", n * 3 * STORED**2).reshape(n, 3, STORED, STORED)
    pixels = np.empty((n, 3, SIDE, SIDE), dtype=np.uint8)
    for i, image in enumerate(stored):
        small = Image.fromarray(image.transpose(2, 1, 0)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels[i] = np.asarray(small).transpose(2, 0, 1)
    return pixels


def _mapped(path: Path, size: int) -> np.ndarray:
    """The bytes of a file, on disk, uint8 (size,). Raises UserError where it has more or fewer."""
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "missing" if found is None else f"damaged ({found} bytes, not {size})"
        raise UserError(f"{path}: {state}; {_remedy(path.parent)}")
    return np.asarray(np.memmap(path, np.uint8, "r"))


def _remedy(folder: Path) -> str:
    return f"delete {folder} to have it unpacked or downloaded again, or bring the file from {_HOME}"

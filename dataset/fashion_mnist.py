"""Fashion-MNIST from the four official IDX files, gzipped or not.

Padded to 32 pixels and three equal channels: networks and augmentation made for CIFAR fit as they are.

Shape legend: N images (60000 training, 10000 test), 3 channels, 32 x 32 pixels (files: 28 x 28), C = 10.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from dataset.download import downloading
from dataset.images import Dataset, Images
from utils.errors import UserError

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_HOME = "https://github.com/zalandoresearch/fashion-mnist"


def load_fashion_mnist(root: Path) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017), C = 10, from `root` or `root`/FashionMNIST/raw, else downloaded.

    Raises `UserError` for missing, damaged or mismatching files.
    """
    paths = _find(root) or _download(root)
    train, test = _read_part(*paths[:2]), _read_part(*paths[2:])
    # Statistics of the unpadded training images, as commonly used; the grey channel is repeated three times.
    return Dataset(train, test, (0.2860,) * 3, (0.3530,) * 3, CLASSES)


def _find(root: Path) -> list[Path] | None:
    """The four files in the order of `FILES`, from `root` or torchvision's folder in it; None if there are none.

    An interrupted download leaves a part of them in torchvision's folder, and is taken up again.
    """
    in_root, in_raw = (
        [next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None) for name in FILES]
        for folder in (root, root / "FashionMNIST" / "raw")
    )
    for found in (in_root, in_raw):
        if all(found):
            return found
    if any(in_root):
        missing = ", ".join(name for name, path in zip(FILES, in_root, strict=True) if path is None)
        remedy = f"add them (.gz or not) from {_HOME}, or delete the part to download"
        raise UserError(f"{root}: holds a part of Fashion-MNIST but lacks {missing}; {remedy}")
    return None


def _download(root: Path) -> list[Path]:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    folder = root / "FashionMNIST" / "raw"
    with downloading("Fashion-MNIST", f"{', '.join(FILES)} (.gz or not)", _HOME, root, folder):
        for name, md5 in FashionMNIST.resources:
            download_url(FashionMNIST.mirrors[0] + name, folder, name, md5)
    return [folder / f"{name}.gz" for name in FILES]


def _read_part(image_path: Path, label_path: Path) -> Images:
    """One part as uint8 (N, 3, 32, 32) pixels, zero border of 2, and int64 (N,) labels."""
    grey, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if grey.shape[1:] != (28, 28):
        size = " x ".join(map(str, grey.shape[1:]))
        raise UserError(f"{image_path}: holds images of {size} pixels, not 28 x 28; get it from {_HOME}")
    if labels.max() >= len(CLASSES):
        raise UserError(f"{label_path}: holds the label {labels.max()}, above 9; get it from {_HOME}")
    if len(grey) != len(labels):
        message = f"{label_path}: {len(labels)} labels for the {len(grey)} images of {image_path}"
        raise UserError(f"{message}; get both from {_HOME}")
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    return Images(np.repeat(padded[:, None], 3, axis=1), labels.astype(np.int64))


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read an IDX file (gzipped if its name ends in .gz): a read-only uint8 array of `dims` dimensions.

    Layout: bytes 0, 0, 8 (uint8), `dims`; one big-endian 32-bit length per dimension; values in C order.
    Raises `UserError` if the file cannot be read, is of another kind, empty, shorter or longer than it says.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); get it again from {_HOME}") from None
    start = 4 + 4 * dims
    if len(raw) < start or raw[:4] != bytes((0, 0, 8, dims)):
        raise UserError(f"{path}: not an IDX file of {dims}-dimensional uint8 data; get it from {_HOME}")
    shape = np.frombuffer(raw, ">u4", dims, offset=4).tolist()
    size = math.prod(shape)
    if size == 0 or len(raw) - start != size:
        counted = len(raw) - start
        raise UserError(f"{path}: holds {counted} values, its header says {size}; get it again from {_HOME}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)

"""CIFAR-10 and CIFAR-100 from the official Python archives.

The files are pickles, so unpickling them runs what they say: torchvision opens only files with the official checksum.

Shape legend: N images (50000 training, 10000 test), 3 channels, 32 x 32 pixels, C classes.
"""

from pathlib import Path

import numpy as np

from dataset.download import unpack_or_download
from dataset.images import Dataset, Images
from utils.errors import UserError

_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
# Mean and standard deviation. Source: published code.
CIFAR10_LOOK = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
CIFAR100_LOOK = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def load_cifar10(root: Path) -> Dataset:
    """CIFAR-10, C = 10, from `root`/cifar-10-batches-py or `root`/cifar-10-python.tar.gz, else downloaded.

    Normalisation: the published code's. Raises `UserError` for missing or damaged files.
    """
    from torchvision.datasets import CIFAR10

    return _load(CIFAR10, root, *CIFAR10_LOOK)


def load_cifar100(root: Path) -> Dataset:
    """CIFAR-100, C = 100 fine classes, from `root`/cifar-100-python or `root`/cifar-100-python.tar.gz, else
    downloaded. Normalisation: the published code's. Raises `UserError` for missing or damaged files.
    """
    from torchvision.datasets import CIFAR100

    return _load(CIFAR100, root, *CIFAR100_LOOK)


def _load(source: type, root: Path, mean: tuple, std: tuple) -> Dataset:
    """Read both parts of `source`, a torchvision class that knows its files' names and checksums."""
    folder = root / source.base_folder
    if not folder.exists():
        unpack_or_download(source, root, _HOME)
    try:
        train, test = source(root, train=True), source(root, train=False)
    except RuntimeError:
        raise UserError(f"{_fault(source, folder)}; delete {folder} to have it unpacked or downloaded again") from None
    return Dataset(_images(train), _images(test), mean, std, tuple(train.classes))


def _fault(source: type, folder: Path) -> str:
    """Which file is wrong, which torchvision doesn't tell."""
    from torchvision.datasets.utils import check_integrity

    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    path = next(folder / name for name, md5 in files if not check_integrity(folder / name, md5))
    return f"{path}: damaged (checksum differs)" if path.exists() else f"{path}: missing"


def _images(part) -> Images:
    # torchvision hands out (N, 32, 32, 3), a view of the files' own (N, 3, 32, 32): no copy is made here.
    pixels = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return Images(pixels, np.asarray(part.targets, dtype=np.int64))

"""Data: images on disk -> uint8 arrays -> long-tailed sets -> batches of views.

`load` is the entry for the data sets that fit in memory; a new one is a loader function and a line here.
"""

from pathlib import Path

from dataset.cifar import load_cifar10, load_cifar100
from dataset.digits import load_digits
from dataset.download import await_download
from dataset.fashion_mnist import load_fashion_mnist
from dataset.images import Dataset
from dataset.stl10 import load_stl10
from utils.errors import UserError

LOADERS = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "fashion_mnist": load_fashion_mnist,
    "digits": load_digits,
    "stl10": load_stl10,
}
NAMES = (*LOADERS, "folder")  # the last one: dataset.folder


def load(name: str, root: Path) -> Dataset:
    """The data set called `name` (one of `LOADERS`), read from the folder `root`, downloaded into it if absent.

    Raises `UserError` for files that are missing, damaged or not to be had.
    """
    try:
        await_download(root)
        return LOADERS[name](root)
    except OSError as error:
        raise UserError(f"--data_root {root}: {name} cannot be read ({error}); check the path") from None

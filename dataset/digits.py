"""scikit-learn's handwritten digits: 1797 images inside the package, for trials without any download.

Shape legend: N images (1297 training, 500 test), 3 channels, 16 x 16 pixels (8 x 8 in the source), C = 10.
"""

from pathlib import Path

import numpy as np

from dataset.images import Dataset, Images

TEST_PER_CLASS = 50
# Measured on the training images, scaled to 0..1 (tests/dataset/test_datasets.py measures them again).
MEAN, STD = 0.3058, 0.3753


def load_digits(root: Path) -> Dataset:
    """The digits 0 .. 9 (UCI "Optical Recognition of Handwritten Digits"), C = 10; `root` is not read.

    The split is fixed and the test set balanced: the last 50 images of each class in file order are the test
    set, the 124 to 133 before them the training set.
    """
    from sklearn.datasets import load_digits as load_bundled

    source = load_bundled()
    labels = source.target.astype(np.int64)
    small = np.rint(source.images * (255 / 16)).astype(np.uint8)  # values 0..16 -> 0..255, (N, 8, 8)
    grey = small.repeat(2, axis=1).repeat(2, axis=2)  # every pixel becomes 2 x 2: exact, nothing interpolated
    pixels = grey[:, None].repeat(3, axis=1)

    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[-TEST_PER_CLASS:]] = True
    return Dataset(
        train=Images(pixels[~is_test], labels[~is_test]),
        test=Images(pixels[is_test], labels[is_test]),
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        classes=tuple("0123456789"),
        flip=False,
        pixel_scale=0.5,
    )

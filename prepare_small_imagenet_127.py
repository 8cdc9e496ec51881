"""Make Small-ImageNet-127 of the downsampled-ImageNet archives (Chrabaszcz et al. 2017), 32 or 64 pixels.

    python prepare_small_imagenet_127.py --source ARCHIVES --out DIR

With --classes 1000 all classes are kept, for ImageNet-1k-LT (--dataset small_imagenet1k). DIR may hold both.

ARCHIVES holds the unpacked files train_data_batch_1 to train_data_batch_10 and val_data, from
https://image-net.org/download-images. DIR then is the --data_root of train_small_imagenet127_fix.py.
Memory: a few times that of one training batch (each 0.4 GB at 32 pixels, 1.6 GB at 64); disk: 3.9 or 15.7 GB.

Shape legend: N images of S x S pixels, C = 127 or 1000 classes.
"""

from utils.start import run_main

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from progressbar import NullBar, ProgressBar

from dataset.safe_pickle import PICKLE_ERRORS, load_arrays
from dataset.small_imagenet127 import SIZES, class_map, file_names
from utils.args import Parser
from utils.errors import UserError
from utils.files import check_writable, replacing
from utils.flag_types import path
from utils.text import printable, warn

FILES = {"train": [f"train_data_batch_{i}" for i in range(1, 11)], "val": ["val_data"]}
OFFICIAL = {"train": 1_281_167, "val": 50_000}


def main() -> None:
    parser = Parser("Make Small-ImageNet-127 of the downsampled-ImageNet archives.")
    about = "folder of the unpacked archives: train_data_batch_1 to train_data_batch_10, val_data"
    parser.add_argument("--source", type=path, required=True, help=about)
    parser.add_argument("--out", type=path, required=True, help="folder for the prepared arrays")
    about = "127: Small-ImageNet-127; 1000: as they are, for ImageNet-1k-LT"
    parser.add_argument("--classes", type=int, choices=(127, 1000), default=127, help=about)
    args = parser.parse_args()

    sources = {part: [args.source / name for name in names] for part, names in FILES.items()}
    missing = [file.name for files in sources.values() for file in files if not file.is_file()]
    if missing:
        raise UserError(f"--source {args.source}: lacks {', '.join(missing)}; unpack all archives of one size there")
    classes, names = class_map(args.classes)
    _, _, size = read_batch(sources["val"][0])  # the smallest file
    check_writable(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    counts = {}
    show = ProgressBar if sys.stderr.isatty() else NullBar
    with show(max_value=sum(map(len, sources.values()))) as bar:
        for part, files in sources.items():
            counts[part] = convert(part, files, size, args.out, classes, done=bar.increment)
    print(histogram(names, **counts))
    for part, official in OFFICIAL.items():
        if counts[part].sum() != official:
            warn(f"{counts[part].sum()} {part} images, the full set has {official}")
    print(f"results: {printable(args.out)}")


def convert(
    part: str, files: list[Path], size: int, out: Path, classes: np.ndarray, done: Callable[[], Any]
) -> np.ndarray:
    """Write the pixels and labels of a part, train or val, into `out`; its images per class, int64 (C,).

    files: its pickles, of `size` pixels; classes: (1001,), see `class_map`; done: called after each of them. The pixels
    are appended batch by batch, and the header before them, of fixed length, is written when their number is known.
    """
    labels, number = [], int(classes.max()) + 1
    image_name, label_name = file_names(part, size, number)
    with replacing(out / image_name) as temporary, temporary.open("wb") as file:
        header = write_header(file, OFFICIAL["train"], size)
        for source in files:
            pixels, targets, found = read_batch(source)
            if found != size:
                raise UserError(f"{source}: images of {found} pixels, val_data has {size}; unpack archives of one size")
            file.write(pixels)
            labels.append(classes[targets])
            done()
        labels = np.concatenate(labels)
        file.seek(0)
        assert write_header(file, len(labels), size) == header
    with replacing(out / label_name) as temporary, temporary.open("wb") as file:
        np.save(file, labels)
    return np.bincount(labels, minlength=number)


def write_header(file: BinaryIO, number: int, size: int) -> int:
    """Begin an .npy file of uint8 pixels (number, 3, size, size); the header's length in bytes."""
    shape = (number, 3, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def read_batch(source: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels uint8 (N, 3 S S), labels int64 (N,) from 1 to 1000, and S of a downsampled-ImageNet pickle.

    Raises UserError if the file is damaged, asks to run code, or holds something else.
    """
    remedy = "get it from https://image-net.org/download-images"
    try:
        batch = load_arrays(source)
        pixels, labels = np.ascontiguousarray(batch["data"]), np.asarray(batch["labels"])
    except PICKLE_ERRORS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{source}: not a batch of downsampled ImageNet ({reason}); {remedy}") from None
    size = math.isqrt(pixels.shape[-1] // 3) if pixels.ndim == 2 else 0
    if pixels.dtype != np.uint8 or size not in SIZES or pixels.shape != (len(pixels), 3 * size * size):
        raise UserError(f"{source}: its data are {pixels.dtype} {pixels.shape}, not uint8 (N, 3072 or 12288); {remedy}")
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(f"{source}: {labels.size} labels for {len(pixels)} images; {remedy}")
    if labels.min() < 1 or labels.max() > 1000:
        raise UserError(f"{source}: labels from {labels.min()} to {labels.max()}, not from 1 to 1000; {remedy}")
    return pixels, labels, size


def histogram(names: tuple[str, ...], train: np.ndarray, val: np.ndarray, width: int = 40) -> str:
    """A line per class, the largest first: its number, name, training and test images, and a bar of these."""
    lines = [f"{'class':>5}  {'name':<{max(map(len, names))}}  {'train':>7}  {'test':>5}"]
    for c in np.argsort(-train, kind="stable"):
        bar = "#" * math.ceil(width * train[c] / max(train.max(), 1))
        lines.append(f"{c:>5}  {names[c]:<{max(map(len, names))}}  {train[c]:>7}  {val[c]:>5}  {bar}")
    return "\n".join([*lines, f"{len(names)} classes, {train.sum()} training and {val.sum()} test images"])


if __name__ == "__main__":
    run_main(main)

"""Folders of real images, as a user would have them: what docs/own-images.md is measured on.

    python benchmarks/own_images.py fashion /usr/share/datasets/fashion-mnist images --seed 1
    python benchmarks/own_images.py clipart /usr/share/openclipart/png images --seed 1

fashion: Fashion-MNIST as PNG files of 28 x 28 pixels, long-tailed by gamma 100: 1,500 labelled images of the largest
class, 3,000 unlabelled ones, 200 test images of each class. (Debian's dataset-fashion-mnist; MIT.)
clipart: Debian's openclipart-png, drawings by volunteers in the public domain. Its folders are the classes, those with
100 drawings or more but for the unsorted and the special ones. Of each class 30 are test images; of the others labelled
are as many as a long tail of gamma 20 from 200 wants, and unlabelled up to 400; made smaller where they have more than
256 pixels a side.
The seed chooses which image is where.
"""

import argparse
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset.fashion_mnist import load_fashion_mnist
from dataset.image_files import image_files
from dataset.long_tail import class_counts, long_tailed
from utils.seeding import generator

TESTED, LEFT_OUT, SIDE = 200, {"unsorted", "special"}, 256


def write_fashion(source: Path, out: Path, seed: int) -> None:
    data = load_fashion_mnist(source)
    flags = SimpleNamespace(num_max=1500, ratio=2.0, imb_ratio_l=100, imb_ratio_u=100, order=None, manualSeed=seed)
    chosen = long_tailed(data, flags, include_labelled=False)
    names = [name.replace("/", "-") for name in data.classes]
    order = generator(seed, "test").permutation(len(data.test.labels))
    tested = [i for c in range(len(names)) for i in order[data.test.labels[order] == c][:TESTED]]
    for part, images, members in (
        ("labelled", data.train, chosen.labelled),
        ("unlabelled", data.train, chosen.unlabelled),
        ("test", data.test, tested),
    ):
        for i in members:
            folder = out / part / names[images.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.pixels[i, 0, 2:-2, 2:-2]).save(folder / f"{i}.png")


def write_clipart(source: Path, out: Path, seed: int) -> None:
    """Drawings that are the same once they are small count once, and not at all where they are in several classes."""
    folders = [folder for folder in sorted(source.iterdir()) if folder.name not in LEFT_OUT]
    drawn = {folder.name: list(dict.fromkeys(map(shrunk, image_files(folder)))) for folder in folders}
    classes = Counter(drawing for some in drawn.values() for drawing in some)
    found = {name: [drawing for drawing in some if classes[drawing] == 1] for name, some in drawn.items()}
    names = sorted((name for name in found if len(found[name]) >= 100), key=lambda name: -len(found[name]))
    for name, labelled in zip(names, class_counts(200, len(names), 20), strict=True):
        order = generator(seed, name).permutation(len(found[name]))
        ends = np.cumsum([30, min(labelled, len(order) - 60), 400])
        for part, some in zip(("test", "labelled", "unlabelled"), np.split(order, ends)[:3], strict=True):
            folder = out / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in some:
                (folder / f"{i}.png").write_bytes(found[name][i])


def shrunk(file: Path) -> bytes:
    """A drawing as a PNG file of SIDE pixels a side at most."""
    image, written = Image.open(file), BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(written, "PNG")
    return written.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=("fashion", "clipart"))
    parser.add_argument("source", type=Path, help="folder that the Debian package has installed")
    parser.add_argument("out", type=Path, help="folder to write, which must not be there")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None  # some drawings have 200 megapixels
    args.out.mkdir(parents=True)
    {"fashion": write_fashion, "clipart": write_clipart}[args.kind](args.source, args.out, args.seed)


if __name__ == "__main__":
    main()

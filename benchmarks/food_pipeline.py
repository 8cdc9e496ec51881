"""How many images per second does the Food-101 pipeline deliver, compared with plain torchvision transforms?

    python benchmarks/food_pipeline.py --batch 64 --size 224 --batches 4 --rounds 5

Each image is decoded once, and gives a weak and a strong view. The plain pipeline makes them image by image in the
workers of a `DataLoader`, with torchvision and Pillow; ours decodes and crops there, and does the rest in batches in
the main process, on one thread here. Both first have to give equal values from equal draws. Then they take turns: each
is started anew, delivers one batch unmeasured, and is timed over the next ones.

Shape legend: B images a batch, uint8 crops (3, S, S); a view is float32 (3, S, S).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation import natural
from benchmarks.pillow import draw_randaugment10, pillow_randaugment
from benchmarks.timing import CPU, machine
from dataset.file_batches import FileBatches
from dataset.files import ImageFiles
from dataset.food101 import MEAN, STD
from dataset.image_loader import ImageLoader
from dataset.images import Files
from dataset.stream import Stream
from utils.seeding import fold_in, generator

WANTED = "weak", "strong"
ENDLESS = 100_000  # batches that the plain pipeline could deliver


class Plain(torch.utils.data.Dataset):
    """Row i % B of batch i // B -> its two views, of images and with operations that are those of batch 0 of `stream`:
    no pipeline has to draw them image by image. fixed: crops are drawn from the same seeds, too.
    """

    def __init__(self, stream: Stream, size: int, fixed: bool) -> None:
        self.batch_size, self.fixed = stream.batch_size, fixed
        rng = generator(0, "unlabelled views", 0)
        self.flip = rng.integers(0, 2, (len(WANTED), stream.batch_size)).astype(bool)
        self.randaugment = draw_randaugment10(rng, stream.batch_size, size)
        self.paths = [path for chunk in stream.images.chunks(stream, 0) for path in chunk.paths]
        self.crop, self.finish = T.RandomResizedCrop(size), T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return ENDLESS * self.batch_size

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        t, row = divmod(i, self.batch_size)
        image = Image.open(self.paths[row]).convert("RGB")
        if self.fixed:
            torch.manual_seed(fold_in(0, f"unlabelled row {row}", t))
        weak, strong = (self._flipped(self.crop(image), view, row) for view in range(2))
        strong = pillow_randaugment(strong, self.randaugment, row)
        return self.finish(weak), self.finish(strong)

    def _flipped(self, image: Image.Image, view: int, row: int) -> Image.Image:
        return T.functional.hflip(image) if self.flip[view, row] else image


def write_images(folder: Path, number: int) -> Files:
    """JPEGs as Food-101 has them: the longer side 512 pixels, quality 90."""
    rng, paths = np.random.default_rng(0), []
    for i in range(number):
        pixels = natural(rng, 1, 512)[0].transpose(1, 2, 0)[: rng.integers(340, 513)]
        paths.append(str(folder / f"{i}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return Files(paths, np.zeros(number, np.int64))


def open_ours(files: Files, batch: int, size: int, workers: int) -> Stream:
    images = ImageFiles(files, MEAN, STD, ImageLoader(size, 0, workers, False, CPU))
    return Stream("unlabelled", images, np.arange(len(files.paths)), WANTED, batch, 0)


def ours(files: Files, batch: int, size: int, workers: int) -> Iterator[list[Tensor]]:
    batches = FileBatches({"unlabelled": open_ours(files, batch, size, workers)}, (), 0)
    with closing(batches.images.loader):
        for t in range(ENDLESS):
            yield batches.at(t).unlabelled.views


def plain(files: Files, batch: int, size: int, workers: int, fixed: bool = False) -> Iterator[list[Tensor]]:
    stream = open_ours(files, batch, size, 0)
    yield from DataLoader(Plain(stream, size, fixed), batch, num_workers=workers)


def speed(pipeline: Callable[..., Iterator], n_batches: int, *settings) -> float:
    """Images per second."""
    with closing(pipeline(*settings)) as batches:
        next(batches)
        start = time.perf_counter()
        n_images = sum(len(next(batches)[0]) for _ in range(n_batches))
        return n_images / (time.perf_counter() - start)


def check(files: Files, batch: int, size: int) -> None:
    for got, want in zip(next(ours(files, batch, size, 0)), next(plain(files, batch, size, 0, True)), strict=True):
        if not torch.equal(got, want):
            raise SystemExit("the two pipelines differ: nothing to compare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a batch; each gives a weak and a strong view")
    parser.add_argument("--size", type=int, default=224, help="side of the crops, pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of worker processes")
    parser.add_argument("--batches", type=int, default=4, help="batches timed in a round, for each pipeline")
    parser.add_argument("--rounds", type=int, default=5, help="times that each pipeline has its turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), 2 * args.batch)
        check(files, args.batch, args.size)
        pipelines = {"plain": plain, "ours": ours}
        speeds = {(name, workers): [] for workers in args.workers for name in pipelines}
        for _ in range(args.rounds):
            for (name, workers), values in speeds.items():
                values.append(speed(pipelines[name], args.batches, files, args.batch, args.size, workers))
    report(speeds, args)


def report(speeds: dict[tuple[str, int], list[float]], args: argparse.Namespace) -> None:
    print(machine("1 thread besides the workers"))
    print(f"images/s, median of {args.rounds} rounds of {args.batches} batches of {args.batch} images")
    for workers in args.workers:
        a, b = (statistics.median(speeds[name, workers]) for name in ("plain", "ours"))
        print(f"{workers} workers   plain {a:6.1f}   ours {b:6.1f}   ratio {b / a:5.2f}")


if __name__ == "__main__":
    main()

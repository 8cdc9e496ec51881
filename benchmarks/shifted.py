"""Time of evaluating all shifted test sets, against one plain evaluation of the same network on the same images.

    python benchmarks/shifted.py --images 10000 --repeats 5

Both take turns, so that a change of the machine's load meets both. Shape legend: N images (N, 3, S, S), C classes.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import seconds
from dataset.images import Images
from dataset.pixels import Pixels
from dataset.stream import Stream
from models.wrn import WideResNet
from reporting.shifted import RATIOS, shifted_figures
from utils.device import pick_device
from utils.flag_types import gpu, positive_int
from utils.metrics import evaluate

CLASSES, SIZE = 10, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=positive_int, default=10000, help="test images (CIFAR-10: 10000)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="evaluations of each kind")
    parser.add_argument("--depth", type=positive_int, default=28, help="of the Wide ResNet, width 2")
    parser.add_argument("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    args = parser.parse_args()
    device, rng = pick_device(args.gpu), np.random.default_rng(0)
    labels = rng.permutation(np.arange(args.images) % CLASSES)
    images = Images(rng.integers(0, 256, (args.images, 3, SIZE, SIZE), dtype=np.uint8), labels)
    pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, device)
    test = Stream("test", pixels, np.arange(args.images), ("plain",), 1, 0)
    network = WideResNet(CLASSES, args.depth).to(device).eval()
    prior = np.arange(CLASSES, 0, -1) / (CLASSES * (CLASSES + 1) / 2)

    def plain() -> None:
        evaluate(network, ((batch.views[0], batch.labels) for batch in test.sweep()), [1] * CLASSES)

    def shifted(prior: np.ndarray | None = None) -> None:
        with torch.no_grad():
            logits = torch.cat([network(batch.views[0]) for batch in test.sweep()])
        shifted_figures(logits, labels, np.arange(CLASSES), prior)

    works = {"one plain evaluation": plain, "all ratios": shifted, "and with known prior": lambda: shifted(prior)}
    compare(works, args, device)


def compare(works: dict[str, Callable[[], None]], args: argparse.Namespace, device: torch.device) -> None:
    """Time the works in turn, and print their medians."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(args.repeats + 1):
        for name, work in works.items():
            took = seconds(work, device)
            if repeat:  # the first round warms up
                times[name].append(took)
    print(
        f"{device}, {torch.get_num_threads()} threads; torch {torch.__version__}, {platform.machine()}; "
        f"{args.images} images, {len(RATIOS)} ratios, medians of {args.repeats}"
    )
    first = statistics.median(times["one plain evaluation"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22} {median:8.3f} s  {median / first:.3f}")


if __name__ == "__main__":
    main()

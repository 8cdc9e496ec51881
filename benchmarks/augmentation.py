"""How fast are batched views compared with the same pipeline written image by image with Pillow and torchvision?

    python benchmarks/augmentation.py --batch 64 --size 32 --seconds 10

Both pipelines first have to give equal results, value for value, from the same draws; then they take turns on one
thread. Both are timed with their random numbers drawn for the whole batch at once, which per-image transforms can't do.

Shape legend: B images uint8 (B, 3, S, S); a view is float32 (3, S, S).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pillow import draw_views, pillow_views
from benchmarks.timing import machine, seconds
from dataset.render import render_in_batches
from dataset.rows import draw_rows

WANTED = ("weak", "strong", "strong")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def natural(rng: np.random.Generator, n_images: int, size: int) -> np.ndarray:
    """Smooth random images with noise, uint8 (B, 3, S, S): all operations have something to do."""
    coarse = torch.from_numpy(rng.uniform(-80, 336, (n_images, 3, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").numpy()
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a batch; each gives 1 weak and 2 strong views")
    parser.add_argument("--size", type=int, default=32, help="side of the images, pixels")
    parser.add_argument("--seconds", type=float, default=10, help="how long to measure, seconds for both together")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = natural(rng, args.batch, args.size)
    by_image, by_batch = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), torch.from_numpy(pixels)

    def pillow() -> list[Tensor]:
        return pillow_views(by_image, WANTED, draw_views(rng, WANTED, args.batch, args.size), MEAN, STD)

    def batched(rng: np.random.Generator = rng) -> Tensor:
        rows = draw_rows(rng, np.arange(args.batch), WANTED, args.size).reshape(len(WANTED) * args.batch, -1)
        return render_in_batches(by_batch, rows, torch.tensor([*MEAN, *STD]))

    for seed in range(5):
        draw = draw_views(np.random.default_rng(seed), WANTED, args.batch, args.size)
        expected = torch.cat(pillow_views(by_image, WANTED, draw, MEAN, STD))
        if not torch.equal(batched(np.random.default_rng(seed)), expected):
            raise SystemExit("the two pipelines differ: nothing to compare")

    times: dict[str, list[float]] = {"pillow": [], "batched": []}
    deadline = time.perf_counter() + args.seconds
    while time.perf_counter() < deadline:
        times["pillow"].append(seconds(pillow))
        times["batched"].extend(seconds(batched) for _ in range(5))
    report(times, len(WANTED) * args.batch)


def report(times: dict[str, list[float]], n_views: int) -> None:
    print(machine("1 thread"))
    speed = {name: n_views / statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:8} {speed[name]:8.0f} views/s (median of {len(values)} batches of {n_views} views)")
    print(f"ratio    {speed['batched'] / speed['pillow']:8.1f}")


if __name__ == "__main__":
    main()

"""Does a step stay as fast, and does a run start in time, as data sets and the number of classes grow?

    python benchmarks/growth.py --gpu cpu --rounds 15

Steps of FixMatch pre-training and its co-learning on made-up 32-pixel images in memory, on a network so small
(WRN-10-1) that everything else shows: the batches alone, and the whole step. All sizes take turns. Start-up is what
happens between the images' being in memory and step 0: split, streams, networks; for CoSSL also the checkpoint.
Then evaluation against its bare forward passes, and the head's warm-up beyond the forward passes: ranking and blending
its balanced feature set.

Shape legend: N images (N, 3, 32, 32), C classes, D = 128 features.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_steps import made_up, recipe_step
from benchmarks.timing import ABOUT_CLOCK, CLOCKS, seconds
from dataset.long_tail import class_counts
from methods.warmup import balanced_features, imprint, random_blends
from utils.device import pick_device
from utils.flag_types import gpu, positive_int

SETTINGS = ((10_000, 10), (100_000, 10), (1_000_000, 10), (100_000, 100), (100_000, 1000))
RECIPES = ("train_cifar_fix", "train_cifar_fix_cossl")


def flags(n: int, classes: int, device: str) -> list[object]:
    """A split that uses up most of the images."""
    split = ["--num_max", n // classes // 4, "--ratio", 2, "--imb_ratio_l", 2, "--imb_ratio_u", 2]
    return [*split, "--depth", 10, "--width", 1, "--gpu", device, "--manualSeed", 1]


def steps(args: argparse.Namespace) -> None:
    """Start-up, batches alone and whole steps of all settings."""
    device, clock, works, start_up = pick_device(args.gpu), CLOCKS[args.clock], {}, {}
    for n, classes in SETTINGS:
        images = made_up(n, 1000, classes)
        for recipe in RECIPES:
            began = time.perf_counter()
            it = recipe_step(recipe, images, *flags(n, classes, args.gpu))
            start_up[n, classes, recipe] = time.perf_counter() - began
            works[n, classes, recipe] = it.batches.at, it.train
    times: dict[tuple, tuple[list, list]] = {key: ([], []) for key in works}
    for t in range(args.rounds + 2):
        for key, kinds in works.items():
            for work, values in zip(kinds, times[key], strict=True):
                values.append(seconds(lambda work=work, t=t: work(t), device, clock))
    print(f"{'recipe':22}{'images':>9}{'classes':>9}  start-up, s  batches, ms  step, ms  relative to the first")
    for recipe in RECIPES:
        first = statistics.median(times[(*SETTINGS[0], recipe)][1][2:])
        for n, classes in SETTINGS:
            batches, step = (statistics.median(values[2:]) for values in times[n, classes, recipe])
            print(
                f"{recipe:22}{n:9}{classes:9}{start_up[n, classes, recipe]:13.2f}{1e3 * batches:13.1f}"
                f"{1e3 * step:10.1f}{step / first:23.2f}"
            )


def evaluation(args: argparse.Namespace) -> None:
    """A whole evaluation of 2,000 images by the published network against its bare forward passes."""
    device, clock = pick_device(args.gpu), CLOCKS[args.clock]
    it = recipe_step("train_cifar_fix", made_up(20_000, 2000), "--num_max", 500, "--gpu", args.gpu)
    images = torch.zeros(500, 3, 32, 32, device=device)
    predict = it.objects["ema_state_dict"]
    bare = torch.no_grad()(lambda: [predict(images) for _ in range(4)])
    pairs = [(seconds(bare, device, clock), seconds(it.scores, device, clock)) for _ in range(4)][1:]
    a, b = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"evaluation of 2000 images: {b:.2f} s, bare forward passes {a:.2f} s, ratio {b / a:.3f}")


def warm_up(device: torch.device, classes: int, num_max: int, gamma: int) -> float:
    """Seconds for the balanced feature set, from features to blends; unlabelled images twice the labelled ones."""
    counts = class_counts(num_max, classes, gamma)
    y = torch.arange(classes).repeat_interleave(torch.from_numpy(counts)).to(device)
    torch.manual_seed(0)
    f_x, f_u = torch.rand(len(y), 128, device=device), torch.rand(3 * len(y), 128, device=device)

    def work() -> None:
        probabilities = (torch.cat([f_x, f_u]) @ imprint(f_x, y, classes).T).softmax(dim=1)
        balanced_features(f_x, y, f_u, probabilities, counts, random_blends(0))

    return seconds(work, device)


def views(args: argparse.Namespace) -> float:
    """Seconds for all views that the warm-up of CIFAR-10 at gamma 150 passes through the network."""
    flags = ["--num_max", 1500, "--imb_ratio_l", 150, "--imb_ratio_u", 150, "--gpu", args.gpu]
    data = recipe_step("train_cifar_fix_cossl", made_up(), *flags).data

    def work() -> None:
        labelled = data.labelled.renamed("imprint").sweep(), data.labelled.sweep()
        for sweep in (*labelled, data.unlabelled.sweep(("weak", "strong"))):
            for _ in sweep:
                pass

    return seconds(work, pick_device(args.gpu))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=15, help="steps of each kind, after two that warm up")
    parser.add_argument("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=ABOUT_CLOCK)
    args = parser.parse_args()
    device = pick_device(args.gpu)
    sets: dict[str, Callable] = {
        "CIFAR-10, gamma 150": lambda: warm_up(device, 10, 1500, 150),
        "CIFAR-100, gamma 20": lambda: warm_up(device, 100, 150, 20),
        "1000 classes of up to 100 labels, gamma 20": lambda: warm_up(device, 1000, 100, 20),
    }
    for name, work in sets.items():
        print(f"balanced feature set, {name}: {work():.2f} s")
    print(f"its views, CIFAR-10, gamma 150: {views(args):.2f} s")
    evaluation(args)
    steps(args)


if __name__ == "__main__":
    main()

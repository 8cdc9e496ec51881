"""What a training step's time goes to: a profile of each CIFAR recipe's step at the published shapes.

python benchmarks/shares.py --gpu cpu
python benchmarks/shares.py --gpu cpu --fast "--amp --channels_last"
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_steps import RECIPES, made_up, recipe_step
from benchmarks.step import flags_of
from utils.flag_types import gpu, positive_int, wrn_depth

# Kinds of operations, and words in the names of theirs; the first that fits counts.
KINDS = {
    "convolution": ("conv",),
    "BatchNorm": ("batch_norm", "batchnorm"),
    "activation": ("leaky",),
    "addition": ("aten::add",),
    "optimiser": ("adam", "_foreach", "optimizer", "lerp"),
    "copies": ("copy",),
    "rest": ("",),
}


def shares(recipe: str, args: argparse.Namespace) -> Counter[str]:
    """Milliseconds of a step by kind of operation, its own time without that of what it calls."""
    step = recipe_step(recipe, made_up(), *flags_of(recipe, args), *args.fast.split()).train
    step(0)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for t in range(args.rounds):
            step(t)
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next(kind for kind, words in KINDS.items() if any(word in event.key.lower() for word in words))
        times[kind] += event.self_cpu_time_total / 1000 / args.rounds
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, help="which to profile")
    parser.add_argument("--rounds", type=positive_int, default=3, help="steps, after one that warms up")
    parser.add_argument("--fast", default="", help="flags, such as '--amp --channels_last'")
    parser.add_argument("--depth", type=wrn_depth, default=28, help="of the Wide ResNet, width 2")
    parser.add_argument("--gpu", type=gpu, default="0", help="number of the CUDA device (only the CPU's time counts)")
    args = parser.parse_args()
    print(f"{'percent of a step':24}", *(f"{kind:>12}" for kind in KINDS), f"{'all, ms':>10}")
    for recipe in args.recipes:
        times = shares(recipe, args)
        cells = (f"{100 * times[kind] / times.total():12.1f}" for kind in KINDS)
        print(f"{recipe:24}", *cells, f"{times.total():10.0f}", flush=True)


if __name__ == "__main__":
    main()

"""How near are whole training steps to the network's bare arithmetic, and how far from a plain script's?

    python benchmarks/step.py --gpu cpu --rounds 7 --out step.json

For each of the six CIFAR recipes, at the published shapes, the following take turns on networks of their own:
(a) limit: the same forwards, backward and optimiser on ready tensors, nothing else; (b) step: the whole step as the
recipe runs it; (c) data: its batches alone; (d) plain: the step as such scripts are usually written, in
`benchmarks/plain.py`, in float32 without flags. Limit and step are measured without flags and with `--fast`. Ratios are
medians over the rounds, within each of which all take their turn: so the machine's slow moments don't count. *kept*:
(b) against the same step in a process that doesn't keep its memory (`training/speed.py`); nor does (d).

Shape legend: B images (B, 3, 32, 32), C classes.
"""

import argparse
import operator
import platform
import statistics
import sys
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.limit import limit
from benchmarks.plain import BATCH, plain_step
from benchmarks.recipe_steps import RECIPES, made_up, recipe_step
from benchmarks.timing import ABOUT_CLOCK, CLOCKS, cpu_name, seconds
from dataset.images import Dataset
from training.speed import keep_memory
from utils.device import pick_device
from utils.files import atomic_write_text, to_json
from utils.flag_types import gpu, path, positive_int, wrn_depth

LIMIT, STEP, DATA, PLAIN, FAST, FAST_LIMIT, USUAL = (
    "limit",
    "step",
    "data",
    "plain",
    "fast step",
    "fast limit",
    "step, memory as usual",
)
RATIOS = (STEP, LIMIT), (DATA, STEP), (STEP, PLAIN), (FAST, FAST_LIMIT), (DATA, FAST), (FAST, PLAIN), (STEP, USUAL)
PUBLISHED_STEPS = {"": 500 * 500, "_cossl": 100 * 500}


def flags_of(recipe: str, args: argparse.Namespace) -> list[object]:
    flags = ["--imb_ratio_l", 100, "--imb_ratio_u", 100, "--gpu", args.gpu, "--depth", args.depth, "--manualSeed", 1]
    return [*flags, "--align"] if "remix" in recipe else flags


def aside(recipe: str, args: argparse.Namespace, orders: Connection) -> None:
    """A process of its own for what runs with the memory that scripts usually have: the plain step, and for comparison
    the recipe's. Takes orders (name, t, clock) and gives the seconds, until it gets None.
    """
    device, images, flags = pick_device(args.gpu), made_up(), flags_of(recipe, args)
    plainly, own = (
        plain_step(recipe, images, recipe_step(recipe, images, *flags), device),
        recipe_step(recipe, images, *flags).train,
    )
    works = {PLAIN: lambda t: plainly(), USUAL: own}
    keep_memory(False)
    while order := orders.recv():
        name, t, clock = order
        orders.send(seconds(partial(works[name], t), device, CLOCKS[clock]))


def measured(recipe: str, images: Dataset, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each kind of step, round by round; in round 0 the steps that compile do so."""
    device, flags, fast_flags = pick_device(args.gpu), flags_of(recipe, args), args.fast.split()
    exact, fast = (recipe_step(recipe, images, *flags, *more) for more in ([], fast_flags))
    limits = [limit(recipe, recipe_step(recipe, images, *flags, *more), device) for more in ([], fast_flags)]
    works = {
        LIMIT: lambda t: limits[0](),
        STEP: exact.train,
        DATA: exact.batches.at,
        FAST: fast.train,
        FAST_LIMIT: lambda t: limits[1](),
    }
    times: dict[str, list[float]] = {name: [] for name in (*works, PLAIN, USUAL)}
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=aside, args=(recipe, args, there), daemon=True)
    process.start()
    there.close()  # so that an end of the process is an end of the pipe
    for t in range(args.rounds + 1):
        clock = args.clock if t else "wall"
        for name, work in works.items():
            times[name].append(seconds(partial(work, t), device, CLOCKS[clock]))
        for name in (PLAIN, USUAL):
            here.send((name, t, clock))
            times[name].append(here.recv())
    here.send(None)
    process.join()
    return times


def report(times: dict[str, dict[str, list[float]]], first: dict[str, dict[str, float]]) -> None:
    """Medians in milliseconds; ratios."""
    heads = ("(a)", "(b)", "(c)", "(d)", "b/a", "c/b", "b/d", "fast a", "b", "b/a", "c/b", "b/d", "kept", "first, s")
    print(f"{'milliseconds':22}", *(f"{head:>7}" for head in heads), flush=True)
    medians = {
        recipe: {name: 1e3 * statistics.median(v) for name, v in kinds.items()} for recipe, kinds in times.items()
    }
    for recipe, kinds in times.items():
        ratios = [statistics.median(map(operator.truediv, kinds[one], kinds[other])) for one, other in RATIOS]
        exact, fast = (
            [medians[recipe][name] for name in names] for names in ((LIMIT, STEP, DATA, PLAIN), (FAST_LIMIT, FAST))
        )
        row = [f"{ms:.0f}" for ms in exact] + [f"{ratio:.3f}" for ratio in ratios[:3]]
        row += [f"{ms:.0f}" for ms in fast] + [f"{ratio:.3f}" for ratio in ratios[3:]] + [f"{first[recipe][FAST]:.0f}"]
        print(f"{recipe:22}", *(f"{cell:>7}" for cell in row))
    for recipe in sorted({*medians} & {name.removesuffix("_cossl") for name in medians if "cossl" in name}):
        pair = {recipe + stage: steps for stage, steps in PUBLISHED_STEPS.items()}
        days = [sum(n * medians[name][kind] for name, n in pair.items()) / 86_400_000 for kind in (STEP, FAST)]
        print(f"published pair of {recipe}, steps only: {days[0]:.1f} days, fast {days[1]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, help="which to measure")
    parser.add_argument("--rounds", type=positive_int, default=7, help="steps of each kind, after one that warms up")
    parser.add_argument("--fast", default="--amp --channels_last", help="flags of the fast settings")
    parser.add_argument("--depth", type=wrn_depth, default=28, help="of the Wide ResNet, width 2")
    parser.add_argument("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=ABOUT_CLOCK)
    parser.add_argument("--out", type=path, default=Path("step.json"), help="file for all samples, in seconds")
    args = parser.parse_args()
    images, times, first = made_up(), {}, {}
    device = pick_device(args.gpu)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    machine = (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
    )
    settings = f"batch {BATCH}, WRN-{args.depth}-2; {args.clock} time, medians of {args.rounds}; fast: {args.fast}"
    print(f"{machine}; {settings}", flush=True)
    for recipe in args.recipes:
        samples = measured(recipe, images, args)
        first[recipe] = {name: values.pop(0) for name, values in samples.items()}
        times[recipe] = samples
        print(f"{recipe} measured", file=sys.stderr, flush=True)
        content = {"machine": machine, "settings": settings, "seconds": times, "first": first}
        atomic_write_text(args.out, to_json(content))
    report(times, first)


if __name__ == "__main__":
    main()

"""How near are whole training steps to the network's bare arithmetic, and how far from a plain script's?

    python benchmarks/step.py --gpu cpu --rounds 7 --out step.json

For each of the six CIFAR recipes, at the published shapes, the following take turns on networks of their own:
(a) limit: the same forwards, backward and optimiser on ready tensors, nothing else; (b) step: the whole step as the
recipe runs it; (c) data: its batches alone; (d) plain: the step as such scripts are usually written, in
`benchmarks/plain.py`, in float32 without flags. Limit and step are measured without flags and with `--fast`. Ratios are
medians over the rounds, within each of which all take their turn: so the machine's slow moments don't count.

Shape legend: B images (B, 3, 32, 32), C classes.
"""

import argparse
import operator
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation import cpu_name
from benchmarks.built import RECIPES, Built, built, made_up
from benchmarks.plain import BATCH, plain_step
from dataset.images import Dataset
from utils.args import gpu, pick_device, positive_int, wrn_depth
from utils.fast import keep_memory
from utils.summary import atomic_write_text, to_json

LIMIT, STEP, DATA, PLAIN, FAST, FAST_LIMIT = "limit", "step", "data", "plain", "fast step", "fast limit"
RATIOS = (STEP, LIMIT), (DATA, STEP), (STEP, PLAIN)
FAST_RATIOS = (FAST, FAST_LIMIT), (DATA, FAST), (FAST, PLAIN)
# How many batches each forward pass takes at once: those that only guess labels, those that are trained on.
FORWARDS = {"fix": ([1], [3]), "mix": ([1, 1], [1] * 3), "remix": ([1], [1] * 6)}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PUBLISHED_STEPS = {"": 500 * 500, "_cossl": 100 * 500}


def limit(recipe: str, it: Built, device: torch.device) -> Callable[[], None]:
    """The forwards, backward and optimiser steps of a recipe's step on ready tensors."""
    guessed, trained = FORWARDS[recipe.split("_")[2]]
    live, ema, head = (it.objects.get(key) for key in ("state_dict", "ema_state_dict", "teacher_head"))
    images, labels = torch.randn(3 * BATCH, 3, 32, 32, device=device), torch.arange(3 * BATCH, device=device) % 10

    def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def work() -> None:
        live.train()
        with torch.no_grad():
            for n in guessed:
                live(images[: n * BATCH]) if head is None else head(ema.features(images[: n * BATCH]))
            features = None if head is None else ema.features(images[: 2 * BATCH])
        loss = sum(cross_entropy(live(images[: n * BATCH]), labels[: n * BATCH]) for n in trained)
        descend(loss, it.objects["optimizer"])
        if head is not None:
            descend(cross_entropy(head(features[:BATCH]), labels[:BATCH]), it.objects["teacher_optimizer"])

    return work


def whole(it: Built) -> Callable[[int], None]:
    def work(t: int) -> None:
        torch.manual_seed(t)
        it.step(t)

    return work


def data_alone(recipe: str, it: Built) -> Callable[[int], list]:
    names = ("labelled", "unlabelled", "balanced", "partners")[: 4 if "cossl" in recipe else 2]
    return lambda t: [getattr(it.data, name).at(t) for name in names]


def as_usual(work: Callable[[], None]) -> Callable[[int], None]:
    """With the process's memory as scripts usually have it."""

    def works(t: int) -> None:
        keep_memory(False)
        work()
        keep_memory()

    return works


def seconds(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = clock()
    work()
    wait()
    return clock() - start


def measured(recipe: str, images: Dataset, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each kind of step, round by round; in round 0 the steps that compile do so."""
    device = pick_device(args.gpu)
    flags = ["--imb_ratio_l", 100, "--imb_ratio_u", 100, "--gpu", args.gpu, "--depth", args.depth, "--manualSeed", 1]
    flags += ["--align"] if "remix" in recipe else []
    own, plain, fast = (built(recipe, images, *flags, *more) for more in ([], [], args.fast.split()))
    plainly = plain_step(recipe, images, plain, device)
    limits = [limit(recipe, built(recipe, images, *flags, *more), device) for more in ([], args.fast.split())]
    works = {
        LIMIT: lambda t: limits[0](), STEP: whole(own), DATA: data_alone(recipe, own), PLAIN: as_usual(plainly),
        FAST: whole(fast), FAST_LIMIT: lambda t: limits[1](),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in works}
    for t in range(args.rounds + 1):
        for name, work in works.items():
            times[name].append(seconds(lambda work=work, t=t: work(t), device, CLOCKS[args.clock if t else "wall"]))
    return times


def report(times: dict[str, dict[str, list[float]]], first: dict[str, list[float]]) -> None:
    """Medians in milliseconds; ratios."""
    ratio = lambda kinds, *names: statistics.median(map(operator.truediv, *(kinds[name] for name in names)))
    medians = {recipe: [1e3 * statistics.median(v) for v in kinds.values()] for recipe, kinds in times.items()}
    print(f"{'milliseconds':23}    (a)    (b)   (c)    (d)   b/a   c/b   b/d |fast(a)    (b)   b/a   c/b   b/d   first")
    for recipe, (a, b, c, d, fast_b, fast_a) in medians.items():
        own, fast = ([ratio(times[recipe], *pair) for pair in pairs] for pairs in (RATIOS, FAST_RATIOS))
        print(
            f"{recipe:23}{a:7.0f}{b:7.0f}{c:6.0f}{d:7.0f}{own[0]:6.2f}{own[1]:6.3f}{own[2]:6.2f} |{fast_a:7.0f}"
            f"{fast_b:7.0f}{fast[0]:6.2f}{fast[1]:6.3f}{fast[2]:6.2f}{first[recipe][-2]:8.0f} s"
        )
    for recipe in set(medians) & {name.removesuffix("_cossl") for name in medians if "cossl" in name}:
        pair = {recipe + stage: steps for stage, steps in PUBLISHED_STEPS.items()}
        days = [sum(n * medians[name][kind] for name, n in pair.items()) / 86_400_000 for kind in (1, 4)]
        print(f"published pair of {recipe}, steps only: {days[0]:.1f} days, fast {days[1]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, help="which to measure")
    parser.add_argument("--rounds", type=positive_int, default=7, help="steps of each kind, after one that warms up")
    parser.add_argument("--fast", default="--amp --channels_last", help="flags of the fast settings")
    parser.add_argument("--depth", type=wrn_depth, default=28, help="of the Wide ResNet, width 2")
    parser.add_argument("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    about = "wall: what a user waits for; cpu: processor time of all threads, where others use the machine, too"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=about)
    parser.add_argument("--out", type=Path, default=Path("step.json"), help="file for all samples, in seconds")
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
        first[recipe] = [values.pop(0) for values in samples.values()]
        times[recipe] = samples
        print(f"{recipe} measured", file=sys.stderr, flush=True)
        content = {"machine": machine, "settings": settings, "seconds": times, "first": first}
        atomic_write_text(args.out, to_json(content))
    report(times, first)


if __name__ == "__main__":
    main()

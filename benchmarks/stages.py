"""The stages of `benchmarks/accept.py`, each run as a process: python -m benchmarks.stages NAME FILE DATA_ROOT END.

A stage appends a line of JSON per finding to FILE, flushed at once. END is when it is ended, by the monotonic clock,
which all processes share. Seeds are fixed, inputs random.
A setting is a few words, such as "graph TF32 channels_last"; see `FLAGS`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled
from torch.utils._pytree import tree_leaves

from benchmarks.augmentation import MEAN, STD, natural
from benchmarks.plain import plain_step
from benchmarks.recipe_steps import FOR_CUDA, RECIPES, RecipeStep, made_up, recipe_step
from benchmarks.saved import content, same
from benchmarks.timing import seconds, wait
from dataset.fashion_mnist import load_fashion_mnist
from dataset.images import Dataset
from dataset.kernel import launch_render
from dataset.render import has_kernel, render, render_in_batches
from dataset.rows import draw_rows
from training.checkpoint import finite, on_host, save_checkpoint
from training.graphs import by_number
from training.totals import Totals
from utils.device import pick_device, use_tf32

ROOT = Path(__file__).resolve().parents[1]
CUDA = torch.cuda.is_available()
# By PyTorch's default, which a stage's device changes.
TF32 = {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}
LONG_TAIL = ["--imb_ratio_l", 100, "--imb_ratio_u", 100, "--manualSeed", 1, "--gpu", "0" if CUDA else "cpu"]
SHORT = ["--num_max", 40, "--imb_ratio_l", 10, "--imb_ratio_u", 10, "--depth", 10, "--batch-size", 16]
DIGITS = ["--dataset", "digits", *LONG_TAIL, *SHORT]
PROTOCOL, PROTOCOL_EPOCHS = (250_000, 50_000), (500, 100)  # of both stages of the paper's runs; steps, epochs
FIX = "train_cifar_fix", "train_cifar_fix_cossl"
FLAGS = {"TF32": "--tf32", "bf16": "--amp"}
FLAGS |= {word: f"--{word}" for word in ("graph", "channels_last", "cudnn_benchmark", "compile")}
FLAGS |= {"schedule": "--schedule=short", "resnet18": "--arch=resnet18"}


def flags_of(setting: str) -> list[str]:
    """Words of no flag (eager, float32) only name what is the default; without a GPU its flags are left out."""
    return [FLAGS[word] for word in setting.split() if word in FLAGS and (CUDA or FLAGS[word] not in FOR_CUDA)]


class Stage:
    """Where findings go, and what a stage may use: data_root, end, dry."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.file, self.data_root, self.dry = args.file, args.data_root, args.dry
        self.end = args.end - 3
        self.device = pick_device("0" if CUDA else "cpu")
        self.small = [*SHORT, "--ratio", 1] if args.dry else []

    def found(self, name: str, value: Any, unit: str = "", ok: bool | None = None) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"name": name, "value": value, "unit": unit, "ok": ok}) + "\n")
        print(name, value, unit, "" if ok is None else ok, flush=True)

    def check(self, name: str, holds: bool, unit: str = "") -> None:
        self.found(name, holds, unit, holds)

    def seconds_left(self) -> float:
        return self.end - time.monotonic()

    def skipped(self, name: str, setting: str) -> bool:
        """Whether too little time is left for a setting, which then is a finding."""
        left = self.seconds_left()
        if skip := left < needed(setting):
            self.found(f"{name}: skipped", round(left), "seconds left")
        return skip

    def number(self, full: int, dry: int = 1) -> int:
        return dry if self.dry else full

    def images(self) -> Dataset:
        return made_up(self.number(50_000, 2000), self.number(10_000, 500))

    def stepping(
        self, recipe: str, setting: str, images: Dataset | None = None
    ) -> tuple[RecipeStep, Callable[[], dict]]:
        """A recipe, and () -> the sums of the logs with its next step's; a graph where the setting says so and there is
        a GPU.
        """
        align = ["--align"] if "remix" in recipe else []
        it = recipe_step(recipe, images or self.images(), *LONG_TAIL, *self.small, *align, *flags_of(setting))
        totals, number = Totals(), iter(range(10**9))
        step = by_number(it.step, totals, it.batches, it.objects, "--graph" in flags_of(setting))

        def one_more() -> dict[str, Tensor]:
            step(next(number))
            return totals.totals()

        return it, one_more

    def total(self, work: Callable[[], object], calls: int) -> float:
        """Seconds of so many calls, one if dry."""
        return seconds(work, self.device, calls=self.number(calls))

    def windows(self, work: Callable[[], object], rounds: int, calls: int) -> list[float]:
        """Milliseconds a call, of each round."""
        return [1e3 * self.total(work, calls) / self.number(calls) for _ in range(self.number(rounds))]

    def ms(self, work: Callable[[], object], rounds: int = 3, calls: int = 1) -> float:
        """Milliseconds a call, median over rounds."""
        return round(statistics.median(self.windows(work, rounds, calls)), 3)


def run(*words: object, tail: int = 2000, **options: Any) -> subprocess.CompletedProcess:
    """Python with these arguments; the end of what it prints goes to the log."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    print(done.stdout[-3 * tail :], done.stderr[-tail:], flush=True)
    return done


# --- Stages ---


def facts(stage: Stage) -> None:
    if CUDA:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        stage.found("card", subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
        tf32 = f"TF32 by default in {' and '.join(filter(TF32.get, TF32)) or 'nothing'}"
        triton = import_module("triton").__version__ if find_spec("triton") else "none"
        stage.found("cuDNN", f"{torch.backends.cudnn.version()}, {tf32}; Triton {triton}")
    stage.found("Python", f"{sys.version.split()[0]}, torch {torch.__version__}, NumPy {np.__version__}")
    device, n = stage.device, stage.number(2**30, 2**20)
    one, other = torch.ones(n, device=device), torch.empty(n, device=device)
    rate = 8 * n / stage.ms(lambda: other.copy_(one), 5, 3) / 1e9
    stage.found("copy", round(rate, 2), "TB/s", stage.dry or rate >= 2.5)
    k = stage.number(8192, 256)
    a = torch.randn(k, k, device=device, dtype=torch.bfloat16)
    stage.found("bf16 product", round(2 * k**3 / stage.ms(lambda: a @ a, 5, 3) / 1e9, 1), "TFLOP/s")
    for channels, size in ((32, 32), (64, 16), (128, 8)):
        convolutions(stage, channels, size, stage.number(192, 8))
    tiny = torch.zeros(8, device=device)
    stage.found("an in-place addition, host", round(1e3 * stage.ms(lambda: tiny.add_(1), 5, 200), 2), "us")


def convolutions(stage: Stage, channels: int, size: int, images: int) -> None:
    """3 x 3 convolutions forward and backward in the three precisions, NCHW and NHWC."""
    flop = 2 * 9 * channels**2 * size**2 * images
    for name in ("float32", "TF32", "TF32 NHWC", "bf16", "bf16 NHWC"):
        use_tf32("TF32" in name)
        layout = torch.channels_last if "NHWC" in name else torch.contiguous_format
        options = {"device": stage.device, "dtype": torch.bfloat16 if "bf16" in name else torch.float32}
        x = torch.randn(images, channels, size, size, **options).to(memory_format=layout).requires_grad_()
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, **options).to(memory_format=layout)
        gradient = torch.randn_like(layer(x))
        forward = stage.ms(lambda layer=layer, x=x: layer(x), 3, 20)
        whole = stage.ms(lambda layer=layer, x=x, gradient=gradient: layer(x).backward(gradient), 3, 20)
        rates = f"{flop / forward / 1e9:.0f} forward, {3 * flop / whole / 1e9:.0f} with backward"
        stage.found(f"convolution {channels} at {size}, {name}", rates, "TFLOP/s")
    use_tf32(False)


def bits(stage: Stage) -> None:
    device = stage.device
    stage.found("kernel compiled", has_kernel(device), "", has_kernel(device) == CUDA)
    n, total = stage.number(420, 50), 0
    names, rng = ("weak", "strong", "strong", "plain"), np.random.default_rng(0)
    sets = {f"{size} px": natural(rng, 200, size) for size in (32, 40, 64)}
    sets |= {f"noise {size} px": rng.integers(0, 256, (200, 3, size, size), np.uint8) for size in (32, 64)}
    if (stage.data_root / "train-images-idx3-ubyte.gz").exists():
        sets["Fashion-MNIST"] = load_fashion_mnist(stage.data_root).train.pixels[:2000]
    for name, pixels in sets.items():
        rows = draw_rows(rng, rng.integers(0, len(pixels), n), names, pixels.shape[3]).reshape(len(names) * n, -1)
        look, pixels = torch.tensor([*MEAN, *STD]), torch.from_numpy(pixels)
        expected = render_in_batches(pixels, rows, look).view(torch.int32)
        there = pixels.to(device), torch.from_numpy(rows).to(device), look.to(device)
        work = partial(render, *there, rows)
        batched = render_in_batches(there[0], rows, there[2])
        made = work()
        if CUDA:  # once more, over what is surely wrong
            launch_render(*there, made.fill_(torch.nan))
        for kind, got in (("batched functions", batched), ("kernel", made)):
            differ = int((got.cpu().view(torch.int32) != expected).flatten(1).any(1).sum())
            stage.found(f"{name}: views of the {kind} that differ", differ, f"of {len(rows)}", differ == 0)
        total += len(rows)
        stage.found(f"{name}: {len(rows)} views", round(1e3 * stage.ms(work, 3, 20), 1), "us")
    stage.found("views compared", total)


def graph(stage: Stage) -> None:
    """Eager and replayed steps leave the same bits."""
    recipes, steps = RECIPES[: stage.number(6, 2)], stage.number(12, 3)
    others = [(recipe, words) for words in (" schedule", " resnet18") for recipe in FIX]
    for recipe, words in [*((recipe, "") for recipe in recipes), *others]:
        logs, states = [], []
        for setting in ("eager", "graph"):
            it, step = stage.stepping(recipe, setting + words)
            logs.append([{name: value.clone() for name, value in step().items()} for _ in range(steps)])
            states.append([thing.state_dict() for thing in it.objects.values()])
        tensors = [[leaf.cpu() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)] for state in states]
        differ = sum(not torch.equal(a, b) for a, b in zip(*tensors, strict=True))
        stage.found(f"{recipe}{words}: tensors that differ", differ, f"after {steps} steps", differ == 0)
        equal = all(torch.equal(a[k], b[k]) for a, b in zip(*logs, strict=True) for k in a)
        stage.check(f"{recipe}{words}: sums of the logs equal", equal)


SETTINGS = (
    "plain",
    "eager float32",
    "graph TF32 channels_last",
    "graph bf16 channels_last",
    "graph TF32",
    "graph TF32 channels_last cudnn_benchmark",
    "graph bf16 channels_last cudnn_benchmark",
    "graph float32 cudnn_benchmark",
    "graph float32",
    "eager TF32 channels_last",
    "eager bf16 channels_last",
    "graph bf16",
    "graph bf16 channels_last cudnn_benchmark compile",
    "graph TF32 channels_last cudnn_benchmark compile",
)


def times(stage: Stage) -> None:
    """Milliseconds a step at the published shapes; then what the published protocol takes."""
    images = stage.images()
    for setting in SETTINGS[1:3] if stage.dry else SETTINGS:
        medians, ends = list[float](), list[float]()
        for recipe in FIX:
            if stage.skipped(f"{recipe}, {setting}", setting):
                continue
            it, step = stage.stepping(recipe, setting, images)
            warm_up, rounds, calls = 10, 5, 20
            if setting == "plain":
                step, warm_up, rounds, calls = plain_step(recipe, images, it, stage.device), 4, 3, 2
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            first = stage.total(step, warm_up)
            rows = stage.windows(step, rounds, calls)
            medians.append(round(statistics.median(rows), 3))
            spread = f"ms (from {min(rows):.2f} to {max(rows):.2f}; warm-up {first:.1f} s)"
            stage.found(f"{recipe}, {setting}", medians[-1], spread)
            if setting in ("eager float32", "graph TF32 channels_last"):
                ends.append(host(stage, f"{recipe}, {setting}", it, step))
        protocol(stage, setting, medians, ends)


def needed(setting: str) -> float:
    """Seconds that must be left for a recipe in this setting: to compile may take more than a minute."""
    return 90 if "compile" in setting else 8


def protocol(stage: Stage, setting: str, steps: list[float], ends: list[float]) -> None:
    """Minutes of both recipes, from milliseconds of steps and of epochs' ends, where both are known."""
    minutes = 0.0
    for name, ms, numbers in (("steps alone", steps, PROTOCOL), ("with epochs' ends", ends, PROTOCOL_EPOCHS)):
        if len(ms) == len(FIX):
            minutes += sum(n * value for n, value in zip(numbers, ms, strict=True)) / 60e3
            stage.found(f"published protocol, {setting}, {name}", round(minutes, 1), "minutes")


def host(stage: Stage, name: str, it: RecipeStep, step: Callable) -> float:
    """What the host does in a step, memory, and an epoch's end: for how many milliseconds steps wait is returned."""
    wait(stage.device)
    queued = seconds(step, calls=stage.number(10)) / stage.number(10)  # as on a CPU: the device isn't waited for
    stage.found(f"{name}: host", round(1e3 * queued, 3), "ms until it is free again")
    stage.found(f"{name}: drawing", stage.ms(lambda: it.batches.draw(5), 3, 50), "ms")
    if CUDA:
        stage.found(f"{name}: memory", round(torch.cuda.max_memory_allocated() / 2**30, 2), "GiB")
    state = {key: thing.state_dict() for key, thing in it.objects.items()}
    works = {"evaluation": it.scores, "finite": lambda: finite(state), "copy of a checkpoint": lambda: on_host(state)}
    took = {part: stage.ms(work) for part, work in works.items()}
    with tempfile.TemporaryDirectory() as folder:  # written beside the next steps
        written = stage.ms(partial(save_checkpoint, on_host(state), [Path(folder) / "x"]))
    for part, value in (took | {"writing a checkpoint, on a thread": written}).items():
        stage.found(f"{name}: {part}", round(value, 1), "ms")
    return sum(took.values())


def train(stage: Stage) -> None:
    """Both stages by their scripts on Fashion-MNIST-LT, within minutes."""
    data = ["--dataset", "digits" if stage.dry else "fashion_mnist", "--data_root", stage.data_root]
    epochs, steps = stage.number(400), stage.number(500, 2)
    common = [*data, *LONG_TAIL, "--num_max", 1500, *flags_of("graph bf16 channels_last" if CUDA else "")]
    common += ["--epochs", epochs, "--val-iteration", steps, "--ema-decay", 0.999, *stage.small]
    reached = [60.0]  # at least, then of a stage after the other, percent
    with tempfile.TemporaryDirectory() as folder:
        resume = ["--resume", Path(folder, "fix", "checkpoint.pth.tar")]
        for name, limit, more in (("fix", 2.1, []), ("fix_cossl", 0.9, resume)):
            began, out = time.monotonic(), Path(folder, name)
            flags = [*common, *more, "--time_limit", 1 if stage.dry else limit, "--out", out]
            done = run(f"train_cifar_{name}.py", *flags, env=os.environ | {"COLUMNS": "200"})
            wall = time.monotonic() - began
            stage.found(f"{name}: exit code", done.returncode, "", done.returncode in (0, 124))
            lines = (out / "log.txt").read_text().splitlines() if (out / "log.txt").exists() else [""]
            head, *rows = [[cell.strip() for cell in line.split("\t")] for line in lines]
            stage.found(f"{name}: epochs of {steps} steps", len(rows), f"in {wall:.1f} s, start included")
            rate = round(1e3 * wall / max(1, len(rows) * steps), 2)
            stage.found(f"{name}: a step, everything included", rate, "ms")
            last = dict(zip(head, rows[-1] if rows else [], strict=False))
            stage.found(f"{name}: last row", json.dumps(last))
            reached.append(float(last.get("balanced", "nan")))
            better = f"%, more than {reached[-2]:.1f}"
            stage.found(f"{name}: balanced accuracy", reached[-1], better, stage.dry or reached[-1] > reached[-2])


def goldens(stage: Stage) -> None:
    """The published numbers of whole steps, computed on the device."""
    chosen = "single and fixmatch_cossl" if stage.dry else "step"
    tests = ["-p", "no:cacheprovider", "tests/methods/test_golden_steps.py", "-k", chosen]
    done = run("-m", "pytest", *tests, "--device", "cuda" if CUDA else "cpu")
    summary = [line for line in done.stdout.splitlines() if " passed" in line or " failed" in line]
    stage.found("golden steps in float64 and float32", (summary or ["none ran"])[-1], "", done.returncode == 0)


def resume(stage: Stage) -> None:
    """What goes on after an end. The cases run beside each other, for most of their time scripts start."""
    settings = ("graph", "graph schedule", "") if CUDA else ("schedule",)
    cases = [*(partial(interrupted, words) for words in settings), begun_on_the_cpu]
    with ThreadPoolExecutor(4) as pool:
        for findings in pool.map(lambda case: case(), cases):
            for name, value, ok in findings:
                stage.found(name, value, "", ok)


def interrupted(words: str) -> list[tuple[str, Any, bool]]:
    """14 steps at once; and 12, SIGKILL, in another process from the checkpoint of step 7 on one step until the time
    limit, in a third the rest: the same bits. Findings: name, value, whether it is as it should.
    """
    script, expected = "train_cifar_fix.py", [0, -9, 124, 0]
    flags = [script, *DIGITS, "--val-iteration", 7, "--epochs", 2, "--copy_every", 1, *flags_of(words), "--out"]
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        killed, limited = ["tests/helpers/dies_at.py", 0, 12], ["--time_limit", 1e-6]
        starts = ([], whole, []), (killed, parts, []), ([], parts, limited), ([], parts, [])
        codes = [run(*before, *flags, out, *after).returncode for before, out, after in starts]
        equal = codes == expected and same(content(whole), content(parts))
    return [
        (f"exit codes {words}", codes, codes == expected),
        (f"killed, stopped and resumed = whole {words}", equal, equal),
    ]


def begun_on_the_cpu() -> list[tuple[str, Any, bool]]:
    """A plain Adam's state goes on as a fused one's where there is a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, moved = Path(folder, "cpu"), Path(folder, "moved")
        common = ["train_cifar_fix.py", *DIGITS, "--val-iteration", 7]
        codes = [run(*common, "--epochs", 1, "--gpu", "cpu", "--out", cpu).returncode]
        codes.append(run(*common, "--epochs", 2, "--resume", cpu / "checkpoint.pth.tar", "--out", moved).returncode)
    return [("begun on the CPU, gone on with here: exit codes", codes, codes == [0, 0])]


def flags(stage: Stage) -> None:
    """Each flag for speed: numbers, near those without."""
    reference = None
    for setting in ("", "bf16", "channels_last", "TF32", "compile", "bf16 channels_last compile"):
        name = " ".join(flags_of(setting)) or "no flag"
        not_here = (stage.dry and "compile" in setting) or (not CUDA and "TF32" in setting)
        if not_here or stage.skipped(name, setting):
            continue
        step = stage.stepping(FIX[0], f"graph {setting}")[1]
        losses = np.diff([step()["loss"].item() for _ in range(stage.number(20, 2))], prepend=0).tolist()
        reference = reference or losses[0]
        near = bool(np.isfinite(losses).all()) and abs(losses[0] / reference - 1) < 0.02
        stage.found(f"{name}: loss of step 0, of the last", [losses[0], losses[-1]], "", near)


def nccl(stage: Stage) -> None:
    """One process under torchrun gives what a plain one gives; NCCL's sum, eager and captured."""
    flags = ["train_cifar_fix.py", *DIGITS, "--val-iteration", 5, "--epochs", 1, "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 1]
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder, name) for name in ("plain", "torchrun")]
        codes = [run(*words, *flags, out).returncode for words, out in zip(([], torchrun), outs, strict=True)]
        equal = codes == [0, 0] and same(*map(content, outs))
        stage.check("one process under torchrun = without", equal, f"exit codes {codes}")
    if CUDA:
        import torch.distributed as dist

        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group("cpu:gloo,cuda:nccl")
        flat = torch.randn(1_500_000, device=stage.device)
        stage.found("NCCL: sum of 6 MB", stage.ms(lambda: dist.all_reduce(flat), 5, 20), "ms")
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            dist.all_reduce(flat)
        before = flat.clone()
        captured.replay()
        stage.check("NCCL: captured sum", torch.equal(before, flat))
        sys.stdout.flush()
        os._exit(0)


def profile(stage: Stage) -> None:
    """Which kernels take the time."""
    took = attrgetter("self_device_time_total" if CUDA else "self_cpu_time_total")
    fastest = (f"graph {precision} channels_last cudnn_benchmark" for precision in ("TF32", "bf16"))
    for setting in ("eager TF32", *fastest):
        step = stage.stepping(FIX[0], setting)[1]
        stage.total(step, 8)
        with profiled(activities=[ProfilerActivity.CUDA if CUDA else ProfilerActivity.CPU]) as trace:
            wall = 1e6 * stage.total(step, 5)
        events = trace.key_averages()
        busy, number = sum(map(took, events)), sum(event.count for event in events if took(event))
        stage.found(f"{setting}: device busy", round(100 * busy / wall, 1), "% of the wall time, profiled")
        stage.found(f"{setting}: kernels and copies", number / stage.number(5), "a step")
        for event in sorted(events, key=took, reverse=True)[: stage.number(15, 3)]:
            share = f"{100 * took(event) / busy:.1f} %, {event.count} calls"
            stage.found(f"{setting}: {event.key[:50]}", share)


def main() -> None:
    stages = {f.__name__: f for f in (facts, bits, graph, times, train, goldens, resume, flags, nccl, profile)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=stages)
    parser.add_argument("file", type=Path)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("end", type=float)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    stages[args.stage](Stage(args))


if __name__ == "__main__":
    main()

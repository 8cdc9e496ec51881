"""The stages of `benchmarks/accept.py`, each run as a process: python -m benchmarks.stages NAME FILE DATA_ROOT SECONDS.

A stage appends a line of JSON per finding to FILE, flushed at once. Seeds are fixed, inputs random.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.augmentation import MEAN, STD, natural
from benchmarks.plain import plain_step
from benchmarks.recipe_steps import RECIPES, Built, built, made_up
from benchmarks.saved import content, same
from dataset.fashion_mnist import load_fashion_mnist
from dataset.render import has_kernel, render, render_in_batches
from dataset.rows import draw_rows
from training.checkpoint import finite, save
from training.graphs import replayed
from utils.args import pick_device, use_tf32

ROOT = Path(__file__).resolve().parents[1]
CUDA = torch.cuda.is_available()
LONG_TAIL = ["--imb_ratio_l", 100, "--imb_ratio_u", 100, "--manualSeed", 1, "--gpu", "0" if CUDA else "cpu"]
SHORT = ["--num_max", 40, "--imb_ratio_l", 10, "--imb_ratio_u", 10, "--depth", 10, "--batch-size", 16]
DRY = [*SHORT, "--ratio", 1]
PROTOCOL = (250_000, 50_000)  # steps of both stages of the paper's runs


class Stage:
    """Where findings go, and what a stage may use: data_root, seconds, dry."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.file, self.data_root, self.dry = args.file, args.data_root, args.dry
        self.end = time.monotonic() + args.seconds - 3
        self.device = pick_device("0" if CUDA else "cpu")

    def found(self, name: str, value: Any, unit: str = "", ok: bool | None = None) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"name": name, "value": value, "unit": unit, "ok": ok}) + "\n")
        print(name, value, unit, "" if ok is None else ok, flush=True)

    def left(self) -> float:
        return self.end - time.monotonic()

    def built(self, recipe: str, *more: object, data=None) -> Built:
        small = DRY if self.dry else []
        flags = [*LONG_TAIL, *small, *(["--align"] if "remix" in recipe else []), *more]
        return built(recipe, data or made_up(2000 if self.dry else 50_000, 500 if self.dry else 10_000), *flags)


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def ms(work: Callable[[], object], rounds: int, steps: int) -> list[float]:
    """Milliseconds per call: one figure per round of `steps` calls, the device waited for at its ends."""
    times = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        for _ in range(steps):
            work()
        wait()
        times.append((time.perf_counter() - began) / steps * 1e3)
    return times


def median(times: list[float]) -> float:
    return round(statistics.median(times), 3)


def stepping(it: Built, graph: bool) -> Callable[[], dict]:
    """() -> logs of the next step; a graph where there is a GPU."""
    optimizers = [thing for thing in it.objects.values() if isinstance(thing, torch.optim.Optimizer)]
    step = replayed(it.step, it.batches, optimizers) if graph and CUDA else it.train
    number = iter(range(10**9))
    return lambda: step(next(number))


# --- Stages ---


def facts(stage: Stage) -> None:
    if CUDA:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        stage.found("card", subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
        stage.found("cuDNN", torch.backends.cudnn.version())
    versions = [f"{sys.version.split()[0]}, torch {torch.__version__}, NumPy {np.__version__}"]
    stage.found("Python", versions[0])
    device, n = stage.device, 2**20 if stage.dry else 2**30
    one, other = torch.ones(n, device=device), torch.empty(n, device=device)
    copy = median(ms(lambda: other.copy_(one), 5, 3))
    stage.found("copy", round(8 * n / copy / 1e9, 2), "TB/s", copy > 0 and (stage.dry or 8 * n / copy / 1e9 >= 2.5))
    k = 256 if stage.dry else 8192
    a = torch.randn(k, k, device=device, dtype=torch.bfloat16)
    stage.found("bf16 product", round(2 * k**3 / median(ms(lambda: a @ a, 5, 3)) / 1e9, 1), "TFLOP/s")
    for channels, size in ((32, 32), (64, 16), (128, 8)):
        convolutions(stage, channels, size, 8 if stage.dry else 192)
    tiny = torch.zeros(8, device=device)
    stage.found("an in-place addition, host", round(1e3 * median(ms(lambda: tiny.add_(1), 5, 200)), 2), "us")


def convolutions(stage: Stage, channels: int, size: int, images: int) -> None:
    """3 x 3 convolutions forward and backward in the three precisions, NCHW and NHWC."""
    flop = 2 * 9 * channels**2 * size**2 * images
    for name, tf32, dtype, layout in (
        ("float32", False, torch.float32, torch.contiguous_format),
        ("TF32", True, torch.float32, torch.contiguous_format),
        ("TF32 NHWC", True, torch.float32, torch.channels_last),
        ("bf16", False, torch.bfloat16, torch.contiguous_format),
        ("bf16 NHWC", False, torch.bfloat16, torch.channels_last),
    ):
        use_tf32(tf32)
        x = torch.randn(images, channels, size, size, device=stage.device, dtype=dtype).to(memory_format=layout)
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(stage.device, dtype)
        layer, x = layer.to(memory_format=layout), x.requires_grad_()
        gradient = torch.randn_like(layer(x))
        forward = median(ms(lambda layer=layer, x=x: layer(x), 3, 20 if CUDA else 1))

        def both(layer=layer, x=x, gradient=gradient) -> None:
            layer(x).backward(gradient)

        whole = median(ms(both, 3, 20 if CUDA else 1))
        rates = f"{flop / forward / 1e9:.0f} forward, {3 * flop / whole / 1e9:.0f} with backward"
        stage.found(f"convolution {channels} at {size}, {name}", rates, "TFLOP/s")
    use_tf32(False)


def bits(stage: Stage) -> None:
    device = stage.device
    stage.found("kernel compiled", has_kernel(device), "", has_kernel(device) == CUDA)
    n = 50 if stage.dry else 420
    names, rng = ("weak", "strong", "strong", "plain"), np.random.default_rng(0)
    sets = {f"{size} px": natural(rng, 200, size) for size in (32, 40, 64)}
    sets |= {f"noise {size} px": rng.integers(0, 256, (200, 3, size, size), np.uint8) for size in (32, 64)}
    if (stage.data_root / "train-images-idx3-ubyte.gz").exists():
        sets["Fashion-MNIST"] = load_fashion_mnist(stage.data_root).train.pixels[:2000]
    total = 0
    for name, pixels in sets.items():
        rows = draw_rows(rng, rng.integers(0, len(pixels), n), names, pixels.shape[3]).reshape(len(names) * n, -1)
        look, pixels = torch.tensor([*MEAN, *STD]), torch.from_numpy(pixels)
        expected = render_in_batches(pixels, rows, look).view(torch.int32)
        there = pixels.to(device), torch.from_numpy(rows).to(device), look.to(device)
        batched = render_in_batches(there[0], rows, there[2]).cpu().view(torch.int32)
        whole = render(*there, rows).cpu().view(torch.int32)
        for kind, got in (("batched functions", batched), ("kernel", whole)):
            differ = int((got != expected).flatten(1).any(1).sum())
            stage.found(f"{name}: views of the {kind} that differ", differ, f"of {len(rows)}", differ == 0)
        total += len(rows)
        work = lambda there=there, rows=rows: render(*there, rows)
        stage.found(f"{name}: {len(rows)} views", round(1e3 * median(ms(work, 3, 20 if CUDA else 1)), 1), "us")
    stage.found("views compared", total)


def graph(stage: Stage) -> None:
    """Eager and replayed steps leave the same bits."""
    for recipe in RECIPES[: 2 if stage.dry else 6]:
        logs, states = [], []
        for replay in (False, True):
            it = stage.built(recipe)
            step = stepping(it, replay)
            logs.append([{name: value.clone() for name, value in step().items()} for _ in range(12)])
            states.append({key: thing.state_dict() for key, thing in it.objects.items()})
        pairs = zip(*([t.cpu() for t in tensors_of(part)] for part in states), strict=True)
        differ = sum(not torch.equal(a, b) for a, b in pairs)
        stage.found(f"{recipe}: tensors that differ", differ, "after 12 steps", differ == 0)
        equal = all(torch.equal(a[k], b[k]) for a, b in zip(*logs, strict=True) for k in a)
        stage.found(f"{recipe}: logs equal", equal, "", equal)


def tensors_of(state: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]


SETTINGS = {
    "plain": None,
    "eager float32": [],
    "graph TF32 channels_last": ["--graph", "--tf32", "--channels_last"],
    "graph bf16 channels_last": ["--graph", "--amp", "--channels_last"],
    "graph TF32": ["--graph", "--tf32"],
    "graph TF32 channels_last cudnn_benchmark": ["--graph", "--tf32", "--channels_last", "--cudnn_benchmark"],
    "graph bf16 channels_last cudnn_benchmark": ["--graph", "--amp", "--channels_last", "--cudnn_benchmark"],
    "graph float32 cudnn_benchmark": ["--graph", "--cudnn_benchmark"],
    "graph float32": ["--graph"],
    "eager TF32 channels_last": ["--tf32", "--channels_last"],
    "eager bf16 channels_last": ["--amp", "--channels_last"],
    "graph bf16": ["--graph", "--amp"],
    "graph bf16 channels_last compile": ["--graph", "--amp", "--channels_last", "--compile"],
    "graph TF32 channels_last compile": ["--graph", "--tf32", "--channels_last", "--compile"],
}
FIX = "train_cifar_fix", "train_cifar_fix_cossl"


def times(stage: Stage) -> None:
    """Milliseconds a step at the published shapes; then what the published protocol takes."""
    medians: dict[str, dict[str, float]] = {}
    images = made_up(2000 if stage.dry else 50_000, 500 if stage.dry else 10_000)
    chosen = {name: SETTINGS[name] for name in list(SETTINGS)[slice(1, 3) if stage.dry else slice(None)]}
    for setting, flags in chosen.items():
        for recipe in FIX:
            if stage.left() < (25 if "compile" in setting else 8):
                continue
            flags_here = [flag for flag in flags or [] if CUDA or flag == "--amp"]
            it = stage.built(recipe, *flags_here, data=images)
            if flags is None:
                step, rounds, steps = plain_step(recipe, images, it, stage.device), 3, 2
            else:
                step, rounds, steps = stepping(it, "--graph" in flags), 5, 20
            rounds, steps = (1, 1) if stage.dry else (rounds, steps)
            began = time.perf_counter()
            for _ in range(1 if stage.dry else 4 if flags is None else 10):
                step()
            wait()
            first = time.perf_counter() - began
            rows = ms(step, rounds, steps)
            medians.setdefault(setting, {})[recipe] = median(rows)
            spread = f"ms (from {min(rows):.2f} to {max(rows):.2f}; warm-up {first:.1f} s)"
            stage.found(f"{recipe}, {setting}", median(rows), spread)
            if setting in ("eager float32", "graph TF32 channels_last"):
                host(stage, recipe, setting, it, step)
    protocol(stage, medians)


def host(stage: Stage, recipe: str, setting: str, it: Built, step: Callable) -> None:
    """What the host does in a step, memory, and an epoch's end."""
    wait()
    began = time.perf_counter()
    for _ in range(1 if stage.dry else 10):
        step()
    queued = (time.perf_counter() - began) / (1 if stage.dry else 10)
    wait()
    stage.found(f"{recipe}, {setting}: host", round(1e3 * queued, 3), "ms until it is free again")
    drawing = median(ms(lambda: it.batches.draw(5), 3, 1 if stage.dry else 50))
    stage.found(f"{recipe}, {setting}: drawing", drawing, "ms")
    if CUDA:
        stage.found(f"{recipe}, {setting}: memory", round(torch.cuda.max_memory_allocated() / 2**30, 2), "GiB")
    stage.found(f"{recipe}, {setting}: evaluation", round(median(ms(it.scores, 1 if stage.dry else 3, 1)), 1), "ms")
    with tempfile.TemporaryDirectory() as folder:
        state = {key: thing.state_dict() for key, thing in it.objects.items()}
        stage.found(f"{recipe}, {setting}: finite", round(median(ms(lambda: finite(state), 3, 1)), 1), "ms")
        write = median(ms(lambda: save(state, [Path(folder) / "x"]), 3, 1))
        stage.found(f"{recipe}, {setting}: checkpoint", round(write, 1), "ms")


def protocol(stage: Stage, medians: dict[str, dict[str, float]]) -> None:
    for setting, of in medians.items():
        if len(of) == 2:
            minutes = sum(n * value for n, value in zip(PROTOCOL, of.values(), strict=True)) / 60e3
            stage.found(f"published protocol, {setting}, steps alone", round(minutes, 1), "minutes")


def run(script: str, flags: list[object], **options: Any) -> subprocess.CompletedProcess:
    command = [sys.executable, script, *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def train(stage: Stage) -> None:
    """Both stages by their scripts on Fashion-MNIST-LT, within minutes."""
    fast = ["--graph", "--tf32", "--channels_last"] if CUDA else []
    data = ["digits" if stage.dry else "fashion_mnist", "--data_root", stage.data_root]
    common = ["--dataset", *data, *LONG_TAIL, "--num_max", 1500, *fast]
    epochs, steps, limits = (1, 2, (1, 1)) if stage.dry else (400, 500, (2.1, 0.9))
    small = DRY if stage.dry else []
    common += ["--val-iteration", steps, *small]
    with tempfile.TemporaryDirectory() as folder:
        resume = Path(folder, "fix", "checkpoint.pth.tar")
        for name, limit, more in (("fix", limits[0], []), ("fix_cossl", limits[1], ["--resume", resume])):
            began, out = time.monotonic(), Path(folder, name)
            flags = [*common, *more, "--epochs", epochs, "--time_limit", limit, "--out", out, "--ema-decay", 0.999]
            done = run(f"train_cifar_{name}.py", flags, env=os.environ | {"COLUMNS": "200"})
            print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
            wall = time.monotonic() - began
            stage.found(f"{name}: exit code", done.returncode, "", done.returncode in (0, 124))
            lines = (out / "log.txt").read_text().splitlines() if (out / "log.txt").exists() else ["", ""]
            table = [[cell.strip() for cell in line.split("\t")] for line in lines]
            last = dict(zip(table[0], table[-1], strict=False))
            stage.found(f"{name}: epochs of {steps} steps", len(table) - 1, f"in {wall:.1f} s, start included")
            rate = round(1e3 * wall / max(1, (len(table) - 1) * steps), 2)
            stage.found(f"{name}: a step, everything included", rate, "ms")
            stage.found(f"{name}: last row", json.dumps(last))


def goldens(stage: Stage) -> None:
    """The published numbers of whole steps, computed on the device."""
    chosen = "single and fixmatch_cossl" if stage.dry else ""
    command = ["-m", "pytest", "-p", "no:cacheprovider", "tests/methods/test_golden_steps.py", "-k", chosen or "step"]
    command += ["--device", "cuda" if CUDA else "cpu"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    summary = [line for line in done.stdout.splitlines() if " passed" in line or " failed" in line]
    stage.found("golden steps in float64 and float32", (summary or ["none ran"])[-1], "", done.returncode == 0)


def resume(stage: Stage) -> None:
    """14 steps at once, and 12, SIGKILL, then in another process from the checkpoint of step 7 on: the same bits."""
    small = ["--dataset", "digits", *LONG_TAIL, *SHORT, "--val-iteration", 7, "--epochs", 2, "--copy_every", 1]
    for more in (["--graph"], []) if CUDA else ([],):
        with tempfile.TemporaryDirectory() as folder:
            whole, parts = Path(folder, "whole"), Path(folder, "parts")
            ends = [run("train_cifar_fix.py", [*small, *more, "--out", whole])]
            ends.append(run("tests/helpers/dies_at.py", [0, 12, "train_cifar_fix.py", *small, *more, "--out", parts]))
            ends.append(run("train_cifar_fix.py", [*small, *more, "--out", parts]))
            print(*(end.stderr[-1500:] for end in ends), flush=True)
            codes = [end.returncode for end in ends]
            stage.found(f"exit codes {' '.join(more)}", codes, "", codes == [0, -9, 0])
            equal = codes == [0, -9, 0] and same(content(whole), content(parts))
            stage.found(f"killed and resumed = whole {' '.join(more)}", equal, "", equal)


def flags(stage: Stage) -> None:
    """Each flag for speed: numbers, near those without."""
    reference = None
    for more in (
        [],
        ["--amp"],
        ["--channels_last"],
        ["--tf32"],
        ["--compile"],
        ["--amp", "--channels_last", "--compile"],
    ):
        if (stage.dry and "--compile" in more) or (not CUDA and "--tf32" in more) or stage.left() < 8:
            continue
        step = stepping(stage.built(FIX[0], *more, *(["--graph"] if CUDA else [])), CUDA)
        losses = [step()["loss"].item() for _ in range(2 if stage.dry else 20)]
        reference = reference or losses[0]
        near = bool(np.isfinite(losses).all()) and abs(losses[0] / reference - 1) < 0.02
        stage.found(f"{' '.join(more) or 'no flag'}: loss of step 0, of the last", losses[:: len(losses) - 1], "", near)


def nccl(stage: Stage) -> None:
    """One process under torchrun gives what a plain one gives; NCCL's sum, eager and captured."""
    small = ["--dataset", "digits", *LONG_TAIL, *SHORT, "--val-iteration", 5, "--epochs", 1]
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder, name) for name in ("plain", "torchrun")]
        flags_of = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
        codes = [run("train_cifar_fix.py", [*small, "--out", outs[0]]).returncode]
        command = [sys.executable, *flags_of, "train_cifar_fix.py", *map(str, [*small, "--out", outs[1]])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(done.stderr[-2000:], flush=True)
        codes.append(done.returncode)
        equal = codes == [0, 0] and same(*map(content, outs))
        stage.found("one process under torchrun = without", equal, f"exit codes {codes}", equal)
    if CUDA:
        import torch.distributed as dist

        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group("cpu:gloo,cuda:nccl")
        flat = torch.randn(1_500_000, device=stage.device)
        stage.found("NCCL: sum of 6 MB", median(ms(lambda: dist.all_reduce(flat), 5, 20)), "ms")
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            dist.all_reduce(flat)
        before = flat.clone()
        captured.replay()
        stage.found("NCCL: captured sum", torch.equal(before, flat), "", torch.equal(before, flat))
        sys.stdout.flush()
        os._exit(0)


def profile(stage: Stage) -> None:
    """Which kernels take the time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    kinds = [ProfilerActivity.CUDA] if CUDA else [ProfilerActivity.CPU]
    chosen = {"eager TF32": ["--tf32"], "graph TF32 channels_last": ["--tf32", "--channels_last", "--graph"]}
    chosen |= {"graph bf16 channels_last": ["--amp", "--channels_last", "--graph"]}
    for name, more in chosen.items():
        it = stage.built(FIX[0], *(more if CUDA else []))
        step = stepping(it, "--graph" in more)
        for _ in range(1 if stage.dry else 8):
            step()
        wait()
        with profiled(activities=kinds) as trace:
            began = time.perf_counter()
            for _ in range(1 if stage.dry else 5):
                step()
            wait()
            wall = 1e6 * (time.perf_counter() - began)
        events = trace.key_averages()
        took = lambda event: event.self_device_time_total if CUDA else event.self_cpu_time_total
        busy, number = sum(map(took, events)), sum(event.count for event in events if took(event))
        stage.found(f"{name}: device busy", round(100 * busy / wall, 1), "% of the wall time, profiled")
        stage.found(f"{name}: kernels and copies", number / (1 if stage.dry else 5), "a step")
        for event in sorted(events, key=took, reverse=True)[: 3 if stage.dry else 15]:
            share = f"{100 * took(event) / busy:.1f} %, {event.count} calls"
            stage.found(f"{name}: {event.key[:50]}", share)


def main() -> None:
    stages = {f.__name__: f for f in (facts, bits, graph, times, train, goldens, resume, flags, nccl, profile)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=stages)
    parser.add_argument("file", type=Path)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    stages[args.stage](Stage(args))


if __name__ == "__main__":
    main()

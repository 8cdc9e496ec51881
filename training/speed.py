"""The flags that trade exact bits for speed, `--amp`, `--channels_last`, `--compile`, `--tf32` and `--cudnn_benchmark`:
what they do is here. And what a CPU can do without a flag.

The first three change how a network's `features` are computed, where all the time goes. Logits, losses, gradients,
moving averages, optimiser and checkpoints stay in float32. Weights lie as the flags ask; what is loaded takes that on.

Shape legend: B images (B, 3, S, S), D features.
"""

import ctypes
import os
import shutil
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.averaged import Averaged
from utils.device import use_tf32
from utils.errors import UserError
from utils.ranks import world_size
from utils.text import warn

MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1  # of glibc's mallopt


class SpeedFlags(Protocol):
    """The arguments of a run that are read here."""

    amp: bool
    channels_last: bool
    compile: str | None
    tf32: bool
    cudnn_benchmark: bool
    graph: bool


def accelerate(student: Averaged, flags: SpeedFlags) -> Averaged:
    """`student`, its network and its average computing their features as the flags ask; without flags as it was.
    On a CPU the process keeps its memory from now on, see `keep_memory`.

    Call it before anything takes hold of `features`. Raises UserError if this machine can't do it.
    """
    device = next(student.live.parameters()).device.type
    if device == "cpu":
        keep_memory()
    if device == "cuda":
        use_tf32(flags.tf32)
        torch.backends.cudnn.deterministic = not flags.cudnn_benchmark
        torch.backends.cudnn.benchmark = flags.cudnn_benchmark
    check_cuda_flags(flags, device)
    if flags.amp or flags.channels_last or flags.compile:
        check(flags, device)
        networks: tuple[Any, Any] = student.live, student.ema
        for network in networks:
            if flags.channels_last:  # in place: parameters stay the objects that optimisers know
                network.to(memory_format=torch.channels_last)
            network.features = faster(network.features, flags)
    return student


def faster(features: Callable[[Tensor], Tensor], flags: SpeedFlags) -> Callable[[Tensor], Tensor]:
    """`features`, images (B, 3, S, S) -> float32 (B, D), computed as the flags ask.

    amp: convolutions and what lies between them in bfloat16, which has float32's range, so that no loss is scaled.
    channels_last: of the images; convolutions pass it on. compile: one graph, or an error; the mode is that of
    `torch.compile`.
    """

    def computed(images: Tensor) -> Tensor:
        if flags.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=flags.amp):
            return features(images).to(images.dtype)

    if not flags.compile:
        return computed
    graph = torch.compile(computed, fullgraph=True, mode=flags.compile)
    # A CUDA graph writes its result to the same place each time; several results of a step are used together.
    return graph if flags.compile == "default" else lambda images: graph(images).clone()


def check_cuda_flags(flags: SpeedFlags, device: str) -> None:
    """Raise UserError if a flag for CUDA can't be followed."""
    for name in ("graph", "tf32", "cudnn_benchmark"):
        if getattr(flags, name) and device == "cpu":
            raise UserError(f"--{name}: for a CUDA GPU, and this run is on the CPU; leave it out")
    if flags.graph and world_size() > 1:
        raise UserError("--graph: for one process, torchrun has started more; leave it out")
    if flags.graph and flags.compile == "reduce-overhead":
        raise UserError("--graph: a step is one graph already; give --compile default")


def check(flags: SpeedFlags, device: str) -> None:
    """Raise UserError if this machine lacks what a flag needs."""
    if flags.amp and device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("--amp: this GPU doesn't compute in bfloat16; leave --amp out")
    if flags.amp and device == "cpu" and not computes_in_bfloat16(cpu_capabilities()):
        slower = "there a step takes 1.5 (AVX-512) to 8 times (AVX2) as long as in float32"
        warn(f"--amp: this processor doesn't compute in bfloat16, and {slower}")
    compiler = os.environ.get("CXX", "g++")
    if flags.compile and device == "cpu" and not shutil.which(compiler):
        raise UserError(f"--compile: needs a C++ compiler, here {compiler}; install it, or leave --compile out")


def cpu_capabilities() -> dict[str, Any]:
    """What PyTorch knows of the processor; empty where its version doesn't tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def computes_in_bfloat16(capabilities: dict[str, Any]) -> bool:
    """False only for an x86 processor that is known to lack it."""
    known = capabilities.get("architecture") == "x86_64"
    return not known or any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def keep_memory(keep: bool = True) -> None:
    """Whether the memory of large tensors that are freed stays with the process, for the next ones. By itself glibc
    gives it back to the system, which has to clear it, page by page, before each step's activations can use it again.
    False: what glibc does by itself after some steps. Elsewhere than with glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 32 * 2**20)
        mallopt(MMAP_MAX, 0 if keep else 65536)
        mallopt(TRIM_THRESHOLD, 2**31 - 1 if keep else 64 * 2**20)

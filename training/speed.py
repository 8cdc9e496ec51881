"""The flags that trade exact bits for speed, `--amp`, `--channels_last` and `--compile`: all they do is here. And what
a CPU can do without a flag.

The flags change how a network's `features` are computed, where all the time goes. Logits, losses, gradients, moving
averages, optimiser and checkpoints stay in float32 and in the layout they have without the flags.

Shape legend: B images (B, 3, S, S), D features.
"""

import ctypes
import os
import shutil
from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor

from methods.averaged import Averaged
from utils.errors import UserError

MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1  # of glibc's mallopt


def accelerate(student: Averaged, args: Namespace) -> Averaged:
    """`student`, its network and its average computing their features as the flags ask; without flags as it was.
    On a CPU the process keeps its memory from now on, see `keep_memory`.

    Call it before anything takes hold of `features`. Raises UserError if this machine can't do it.
    """
    device = next(student.live.parameters()).device.type
    if device == "cpu":
        keep_memory()
    if args.amp or args.channels_last or args.compile:
        check(args, device)
        for network in (student.live, student.ema):
            network.features = faster(network.features, args)
    return student


def faster(features: Callable[[Tensor], Tensor], args: Namespace) -> Callable[[Tensor], Tensor]:
    """`features`, images (B, 3, S, S) -> float32 (B, D), computed as the flags ask.

    amp: convolutions and what lies between them in bfloat16, which has float32's range, so that no loss is scaled.
    channels_last: only the images change their layout. Convolutions pass it on, and the weights, which are small, are
    laid out anew in each call anyway. compile: one graph, or an error; the mode is that of `torch.compile`.
    """

    def computed(images: Tensor) -> Tensor:
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=args.amp):
            return features(images).to(images.dtype)

    if not args.compile:
        return computed
    graph = torch.compile(computed, fullgraph=True, mode=args.compile)
    # A CUDA graph writes its result to the same place each time; several results of a step are used together.
    return graph if args.compile == "default" else lambda images: graph(images).clone()


def check(args: Namespace, device: str) -> None:
    """Raise UserError if this machine lacks what a flag needs."""
    if args.amp and device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("--amp: this GPU doesn't compute in bfloat16; leave --amp out")
    compiler = os.environ.get("CXX", "g++")
    if args.compile and device == "cpu" and not shutil.which(compiler):
        raise UserError(f"--compile: needs a C++ compiler, here {compiler}; install it, or leave --compile out")


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

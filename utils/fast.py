"""The flags that trade exact bits for speed, `--amp`, `--channels_last` and `--compile`: all they do is here.

They change how a network's `features` are computed, where all the time goes. Logits, losses, gradients, moving
averages, optimiser and checkpoints stay in float32 and in the layout they have without the flags.

Shape legend: B images (B, 3, S, S), D features.
"""

import os
import shutil
from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor

from utils.averaged import Averaged
from utils.errors import UserError


def accelerate(student: Averaged, args: Namespace) -> Averaged:
    """`student`, its network and its average computing their features as the flags ask; without flags as it was.

    Call it before anything takes hold of `features`. Raises UserError if this machine can't do it.
    """
    if args.amp or args.channels_last or args.compile:
        check(args, next(student.live.parameters()).device.type)
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
            return features(images).float()

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

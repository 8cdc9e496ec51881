"""What a training step asks of a GPU, counted without one: operations, bytes from the host, reads by the host.

    python benchmarks/launches.py

Whole steps of the six CIFAR recipes at the published shapes run on PyTorch's `meta` device, which has shapes and no
numbers. An operation that isn't a view is counted as one kernel (a fused Adam over many tensors is one operation, and
some more kernels). A read of the device by the host would raise, so its count of zero is proven, not measured.
With `--compiled`, which takes a minute or more: what inductor makes of the network's features, here for the CPU.

Shape legend: B images (B, 3, 32, 32).
"""

import argparse
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch._inductor import config
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_steps import RECIPES, made_up, recipe_step
from dataset.images import Dataset
from models.wrn import WideResNet
from training.totals import Totals

COPIES = ("_to_copy", "copy_")


class Count(TorchDispatchMode):
    """operations on the device that aren't views; copies from the host, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.copies = self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [thing for thing in torch.utils._pytree.tree_leaves((args, out)) if isinstance(thing, torch.Tensor)]
        if name in COPIES and len({tensor.device for tensor in tensors}) == 2:
            self.copies += 1
            self.copied += tensors[-1].nbytes
        elif not func.is_view and any(tensor.is_meta for tensor in tensors) and not name.startswith("empty"):
            self.operations += 1
        return out


def counted(work: Callable[[], object]) -> Count:
    with Count() as count:
        work()
    return count


def counted_step(recipe: str, images: Dataset, flags: list) -> tuple[Count, Count]:
    """A whole step of a recipe with the sums of its logs, and its batches alone."""
    it = recipe_step(recipe, images, *flags, device=torch.device("meta"))
    for name in {"optimizer", "teacher_optimizer"} & {*it.objects}:
        for group in it.objects[name].param_groups:
            group["foreach"] = True  # as on a GPU; on the meta device the default is parameter by parameter
    totals = Totals()
    totals.add(it.train(0))
    return counted(lambda: totals.add(it.train(1))), counted(lambda: it.batches.at(1))


def features_of_a_batch(n_images: int = 64) -> int:
    """Operations of the network's features, forward and backward, uncompiled."""
    network, images = WideResNet(10).to("meta"), torch.zeros(n_images, 3, 32, 32, device="meta")
    return counted(lambda: network.features(images).sum().backward()).operations


def compiled_features_of_a_batch(n_images: int = 64) -> tuple[int, int]:
    """Fused loops, and calls of libraries, that these become on the CPU."""
    network, images = WideResNet(10), torch.zeros(n_images, 3, 32, 32)
    config.force_disable_caches = True
    _, codes = run_and_get_code(lambda: torch.compile(network.features, fullgraph=True)(images).sum().backward())
    loops = sum(len(re.findall(r"^ +cpp_fused\w*\(", code, re.MULTILINE)) for code in codes)
    return loops, sum(code.count(name) for code in codes for name in ("= extern_kernels.", "= torch.ops.aten."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--compiled", action="store_true", help="compile the network's features, and count their kernels"
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*to a meta parameter")  # loading a checkpoint of shapes alone
    images, flags = made_up(20_000, 1000), ["--gpu", "cpu", "--num_max", 500, "--imb_ratio_l", 10, "--imb_ratio_u", 10]
    print(f"{'per step':24} operations: all  of the batches  of features   copies from the host: number      kB")
    for recipe in RECIPES:
        whole, batches = counted_step(recipe, images, flags)
        with patch.object(WideResNet, "features", lambda self, x: x.flatten(1)[:, : self.output.in_features]):
            others, _ = counted_step(recipe, images, flags)
        print(
            f"{recipe:24}{whole.operations:16}{batches.operations:16}{whole.operations - others.operations:13}"
            f"{whole.copies:31}{whole.copied / 1e3:8.1f}"
        )
    print(f"features of one batch, forward and backward: {features_of_a_batch()} operations")
    if args.compiled:
        print("compiled: {} fused loops and {} calls of libraries".format(*compiled_features_of_a_batch()))


if __name__ == "__main__":
    main()

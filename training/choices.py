"""What is chosen for somebody's own images where no flag says it: network, size, batch size; and the reasons."""

import statistics
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from dataset.folder import LARGEST_IN_MEMORY
from dataset.held_out import held_out
from dataset.image_files import DAMAGED, open_image, read_images
from dataset.layouts import Listing
from models.build import only_size
from models.weights import DEFAULT, weights_file
from training.scripts import as_flags
from utils.errors import UserError
from utils.flags import CIFAR, RUN
from utils.method_flags import CIFAR_COSSL, FIXMATCH

CHOSEN_FROM = (*RUN, *CIFAR, *FIXMATCH, *CIFAR_COSSL)


def choose(chosen: dict[str, Any], listing: Listing) -> tuple[dict[str, Any], list[str]]:
    """Flags by name, those given and those chosen by images and machine; and why, a line each."""
    choices, reasons = dict(chosen), list[str]()

    def take(why: str, **values: Any) -> None:
        new = {name: value for name, value in values.items() if name not in choices}
        choices.update(new)
        if flags := as_flags(new, CHOSEN_FROM):
            reasons.append(f"{' '.join(flags)}: {why}")

    gpu = choices.get("gpu") != "cpu" and torch.cuda.is_available()
    if choices.get("arch") or not choices.keys() & {"arch", "depth", "width"}:
        choose_network(choices, gpu, take)
    choose_size(choices, gpu, listing, take)
    labels = np.array(listing.labelled.labels)
    if choices.get("skip_corrupt") and "batch_size" not in choices:  # which is all that counts them
        labels = labels[read_images(listing.labelled.paths, 8, True)[1]]
    if not listing.test.paths:
        take("there are no test images: a fifth of each class's labelled ones is kept apart", holdout=0.2)
    if share := choices.get("holdout"):
        labels = labels[~held_out(labels, share, choices.get("manualSeed", 0))]
    most = 64 if gpu else 32
    take("all labelled images" if len(labels) < most else "the usual number", batch_size=max(1, min(most, len(labels))))
    if not gpu:
        take("faster on a CPU", channels_last=True)
    take("blends stay close to rare classes", max_lam=0.6)
    return choices, reasons


def choose_network(choices: dict[str, Any], gpu: bool, take: Callable[..., None]) -> None:
    """The network given, or the usual one, pre-trained. Where its weights can't be had: the one given, untrained, or a
    small one. take: see `choose`. Raises UserError for weights that are given and can't be had.
    """
    arch = choices.get("arch", "resnet50" if gpu else "efficientnet_b0")
    weights = choices.get("weights", DEFAULT)
    if weights is not None:
        try:
            weights_file(arch, weights)
            take("few labels need a network that has seen many images", arch=arch, weights=weights)
            return
        except UserError as error:
            if "weights" in choices:
                raise
            print(f"no pre-trained network: {error}")
    if "arch" in choices:
        return
    depth, width = (28, 2) if gpu else (10, 1)
    take("small enough to learn from nothing", depth=depth, width=width)


def choose_size(choices: dict[str, Any], gpu: bool, listing: Listing, take: Callable[..., None]) -> None:
    """Size and schedule, by whether the network is pre-trained. take: see `choose`."""
    if not choices.get("weights"):
        take("larger images would take too long to learn from nothing", img_size=32)
        if not gpu and hasattr(torch.optim, "Muon"):  # tried on CPUs
            take("few steps get further", schedule="short")
    elif size := only_size(choices.get("arch")):
        take("the network takes no other", img_size=size)
    elif typical_side(listing) <= LARGEST_IN_MEMORY:
        take("most images are not larger", img_size=LARGEST_IN_MEMORY)
    else:
        take("a size that such networks know", img_size=224 if gpu else 96)


def typical_side(listing: Listing) -> float:
    """The median of the shorter sides of up to 100 labelled images, pixels; 0 if none can be read."""
    sides, paths = list[int](), listing.labelled.paths
    for file in paths[:: -(-len(paths) // 100)]:
        with suppress(*DAMAGED), open_image(file) as image:
            sides.append(min(image.size))
    return statistics.median(sides or [0])

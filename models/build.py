"""The network that flags name, and which of its parameters learn how fast."""

from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import nn

from models.library import NORMS, TIMM, LibraryNetwork, check_body, import_timm, take_off_classifier, whole_network
from models.weights import NO_ARCH, load_weights
from models.wrn import WideResNet
from utils.errors import UserError
from utils.ranks import world_size


class NetworkFlags(Protocol):
    """The flags of a recipe that are read here. arch: None for a Wide ResNet of this depth and width; weights: None for
    untrained ones; tune: all, last:N, norm or none; batch_size: of all processes; lr_body: None for `lr`.
    """

    arch: str | None
    weights: str | None
    tune: str | None
    depth: int
    width: int
    img_size: int
    batch_size: int
    lr: float
    lr_body: float | None


def build_network(flags: NetworkFlags, num_classes: int, fresh: bool = False) -> Any:
    """The network of a run, from torch's generator; if it is `fresh`, with its pre-trained weights. Otherwise those of
    a checkpoint follow. Raises UserError for flags that don't fit each other, and as `load_weights`.
    """
    if flags.arch is None:
        if flags.weights or flags.tune or flags.lr_body:
            raise UserError(f"--weights, --tune, --lr_body: {NO_ARCH}")
        return WideResNet(num_classes, flags.depth, flags.width)
    if flags.weights is None and flags.tune not in (None, "all"):
        raise UserError(f"--tune {flags.tune}: parts of an untrained network would never learn; give --weights")
    network = library_network(flags.arch, num_classes, flags.img_size, flags.weights if fresh else None)
    network.pretrained = flags.weights is not None
    _choose_learning(network.body, flags.tune or "all", flags.arch)
    if not network.pretrained and flags.batch_size == world_size():
        _refuse_one_row(network.body, flags.arch, flags.img_size)
    return network


def library_network(arch: str, num_classes: int, size: int, weights: str | None = None) -> LibraryNetwork:
    """A network of torchvision or timm. size: side of the images, pixels; weights: see `load_weights`, None: untrained.

    Raises UserError as `whole_network` and `load_weights`.
    """
    body, facts = whole_network(arch, size), {"arch": arch}
    if weights is not None:
        facts["weights_sha256"] = load_weights(body, arch, weights, size)
    width = take_off_classifier(body)
    check_body(body, arch, width, size)
    return LibraryNetwork(body, width, num_classes, facts)


def _refuse_one_row(body: nn.Module, arch: str, size: int) -> None:
    """Raise UserError if the network can't learn from one image at a time: BatchNorm of one pixel is of nothing."""
    try:
        with torch.no_grad():
            deepcopy(body).train()(torch.zeros(1, 3, size, size))
    except ValueError as error:
        problem = f"{arch} can't learn from one image a process at --img_size {size}"
        raise UserError(f"--batch-size: {problem}; give 2 or more for each process") from error


def _choose_learning(body: nn.Module, tune: str, arch: str) -> None:
    """Freeze what `--tune` doesn't name: all but the normalisations' parameters, or all before the last N layers, which
    are convolutions, linear layers and attention's. In place. Raises UserError if there aren't so many.
    """
    parameters = list(body.parameters())
    learning = parameters if tune == "all" else []
    if tune == "norm":
        learning = [p for module in body.modules() if isinstance(module, NORMS) for p in module.parameters()]
        if not learning:
            raise UserError(f"--tune norm: {arch} has no normalisation layers; take all, last:N or none")
    elif tune.startswith("last:"):
        matrices = [i for i, (name, p) in enumerate(body.named_parameters()) if name.endswith("weight") and p.ndim > 1]
        n = int(tune.removeprefix("last:"))
        if n > len(matrices):
            raise UserError(f"--tune {tune}: {arch} has {len(matrices)} layers; give at most last:{len(matrices)}")
        learning = parameters[matrices[-n] :]
    chosen = set(map(id, learning))
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) in chosen)


def learning_parameters(network: nn.Module, flags: NetworkFlags, *others: nn.Module) -> list[Any]:
    """What an optimiser with `--lr` takes: all parameters; or groups, of which the body has `--lr_body`. others: heads
    besides those of the network.
    """
    more = [p for other in others for p in other.parameters()]
    if flags.lr_body is None:
        return [*network.parameters(), *more]
    heads = [p for name, p in network.named_parameters() if not name.startswith("body.")] + more
    body = [p for name, p in network.named_parameters() if name.startswith("body.") and p.requires_grad]
    return [{"params": heads}, *([{"params": body, "lr": flags.lr_body}] if body else [])]


def shrink_of(flags: NetworkFlags) -> float:
    """By what share weights shrink after a step of stage 1: 0.02 lr (published code); pre-trained ones don't."""
    return 0.0 if flags.weights else 0.02 * flags.lr


def only_size(arch: str | None) -> int | None:
    """Side of the images that a network of timm takes, where it takes no other; None for any other network."""
    if arch is None or not arch.startswith(TIMM):
        return None
    config = import_timm().get_pretrained_cfg(arch.removeprefix(TIMM))
    return int(config.input_size[-1]) if config and config.fixed_input_size else None

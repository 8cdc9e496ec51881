"""The network of a checkpoint, recognised by its weights: what the recipes evaluate, ready to answer.

Shape legend: B images (B, 3, S, S), D features, C classes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.resnet import ResNet50
from models.torchvision_resnet import TorchvisionResNet, depth_of
from models.wrn import WideResNet
from utils.errors import UserError


def predictor(state: dict[str, Any], classes: int, device: torch.device, source: str) -> Callable[[Tensor], Tensor]:
    """Images (B, 3, S, S) -> logits (B, C) of a checkpoint: its EMA network, or in CoSSL the EMA head on that one's
    features.

    source: the checkpoint, in words. Raises UserError if its weights are of no network here with so many classes.
    """
    try:
        with torch.device("meta"):  # without memory: sizes read off a hostile file may be absurd
            network = network_like(state["ema_state_dict"], classes)
            head = nn.Linear(network.output.in_features, classes)
        network.load_state_dict(state["ema_state_dict"], assign=True)
        network.to(device).eval()
        if "ema_teacher" not in state:
            return network
        head.load_state_dict(state["ema_teacher"], assign=True)
        head.to(device)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: its weights are of no network here for {classes} classes") from error
    return lambda images: head(network.features(images))


def network_like(weights: dict[str, Tensor], classes: int) -> nn.Module:
    """An untrained network with weights of the names and shapes of these."""
    if "init_conv.weight" in weights:
        blocks = {name.split(".")[1] for name in weights if name.startswith("unit1.")}
        return WideResNet(classes, depth=6 * len(blocks) + 4, width=len(weights["unit4.0.weight"]) // 64)
    if "fc.weight" in weights:
        return TorchvisionResNet(classes, depth_of(weights))
    return ResNet50(classes, width=len(weights["conv1.weight"]))


def class_count(state: dict[str, Any], source: str) -> int:
    """The number of classes C that a checkpoint's weights tell apart. Raises UserError if they are of no network here.

    The classifier is `output`, or `fc` in torchvision's networks.
    """
    weights = state["ema_state_dict"]
    try:
        return len(weights["output.weight" if "output.weight" in weights else "fc.weight"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: its weights are of no network here") from error

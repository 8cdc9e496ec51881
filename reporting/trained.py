"""The model in a checkpoint, ready to answer: what the recipes evaluate. The network is recognised by its weights.

Shape legend: B images (B, 3, S, S), D features, C classes.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.build import library_network
from models.resnet import ResNet50
from models.torchvision_resnet import TorchvisionResNet, depth_of
from models.wrn import WideResNet
from reporting.published_code import published_method
from training.checkpoint import LATEST, read_checkpoint
from utils.errors import UserError
from utils.text import printable


class Model(NamedTuple):
    """Of a checkpoint. run: the folder of its run, None for a file with another name than the last checkpoint's;
    debiased: whether CDMAD takes a constant image's logits away, and so the classifier's bias; classes: how many it
    tells apart; facts, arguments: of its run, empty where it is of the published code; predict: normalised images
    (B, 3, S, S) -> logits (B, C), the EMA network, whose classifier in CoSSL is the EMA head.
    """

    checkpoint: Path
    run: Path | None
    method: str
    epoch: int
    cossl: bool
    debiased: bool
    classes: int
    arguments: dict[str, Any]
    facts: dict[str, Any]
    predict: nn.Module

    @property
    def named(self) -> str:
        """The folder of its run, else the checkpoint, printable."""
        return printable(self.run or self.checkpoint)


def load_model(path: Path, source: str, device: torch.device) -> Model:
    """source: the flag that names the file. Raises UserError for a file that is no checkpoint of a network here, or
    whose weights aren't all numbers.
    """
    state = read_checkpoint(path, source)
    name = f"{source} {path}".strip()
    try:
        classes = len(state["ema_state_dict"][_classifier(state["ema_state_dict"])])
        network = _network(state, classes)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{name}: its weights are of no network here") from error
    weights = [*state["ema_state_dict"].values(), *state.get("ema_teacher", {}).values()]
    if not all(value.isfinite().all() for value in weights):
        raise UserError(f"{name}: its weights aren't all numbers (the training diverged); leave it out")
    facts, arguments = state.get("facts", {}), state.get("arguments", {})
    if facts and len(facts["classes"]) != classes:
        raise UserError(f"{name}: names {len(facts['classes'])} classes, and its network tells {classes} apart")
    method = facts.get("method", published_method(state, {}))
    run, cossl, debiased = path.parent if path.name == LATEST else None, "ema_teacher" in state, "debias" in state
    return Model(path, run, method, state["epoch"], cossl, debiased, classes, arguments, facts, network.to(device))


def _classifier(weights: dict[str, Tensor]) -> str:
    """The classifier is `output`, or `fc` in torchvision's networks."""
    return "output.weight" if "output.weight" in weights else "fc.weight"


def _network(state: dict[str, Any], classes: int) -> nn.Module:
    """What the recipes evaluate. In CoSSL the averaged head is put in the place of the classifier, which is like it."""
    facts = state.get("facts", {})
    if "arch" in facts:
        network: Any = library_network(facts["arch"], classes, facts["img_size"])
        network.load_state_dict(state["ema_state_dict"])
    else:
        with torch.device("meta"):
            network = network_like(state["ema_state_dict"], classes)
        network.load_state_dict(state["ema_state_dict"], assign=True)
    if "ema_teacher" in state:
        network.output.load_state_dict(state["ema_teacher"], assign=True)
    network.eval()
    if "debias" in state:  # CDMAD: the logits of this image are taken away
        with torch.no_grad():
            network.output.bias -= network(state["debias"]["image"])[0]
    return network


def network_like(weights: dict[str, Tensor], classes: int) -> nn.Module:
    """An untrained network with weights of the names and shapes of these."""
    if "init_conv.weight" in weights:
        blocks = {name.split(".")[1] for name in weights if name.startswith("unit1.")}
        return WideResNet(classes, depth=6 * len(blocks) + 4, width=len(weights["unit4.0.weight"]) // 64)
    if "fc.weight" in weights:
        return TorchvisionResNet(classes, depth_of(weights))
    return ResNet50(classes, width=len(weights["conv1.weight"]))


def prior_of(model: Model, given: list[int] | None) -> np.ndarray:
    """The class distribution that the model's classifier learned from, (C,): that of the labelled images, or in CoSSL
    and in other methods that balance it the uniform one. given: labelled images of each class where the checkpoint
    doesn't tell, (C,). Raises UserError if neither does.
    """
    if model.facts.get("class_balanced", model.cossl):
        return np.full(model.classes, 1 / model.classes)
    if (known := model.facts.get("labelled_counts", given)) is None:
        problem = "doesn't tell its labelled images per class (it is of the published code)"
        raise UserError(f"--known_prior: {model.checkpoint} {problem}; give --labelled_counts, or leave this run out")
    counts = np.array(known, dtype=float)
    return counts / counts.sum()

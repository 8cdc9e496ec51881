"""Networks of torchvision and timm for own images, with the interface of the networks here, and their parts that learn.

Shape legend: B images (B, 3, S, S), D features, C classes.
"""

import warnings
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from models.initialise import initialise
from utils.errors import UserError
from utils.text import reason

TIMM = "timm:"
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
# What would draw inside of a step, by its name, for timm has classes of its own.
RANDOM = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "StochasticDepth", "DropPath", "DropBlock2d"}


class LibraryNetwork(nn.Module):
    """A network of torchvision or timm whose classifier is taken off. Nothing in it is random: it has no dropout.

    `features(x)`: (B, 3, S, S) -> (B, D); `output(f)`: (B, D) -> logits (B, C); `rot(f)`: (B, D) -> logits of the four
    quarter turns (B, 4); calling the network: images -> logits. body: images -> (B, D), with `width` D; facts: what
    checkpoints say of it; pretrained: whether the body was trained by others.
    """

    def __init__(self, body: nn.Module, width: int, num_classes: int, facts: dict[str, Any]) -> None:
        super().__init__()
        self.body, self.facts, self.pretrained = body, facts, False
        self.output, self.rot = nn.Linear(width, num_classes), nn.Linear(width, 4)
        for head in (self.output, self.rot):
            initialise(head)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> features (B, D)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> logits (B, C)."""
        return self.output(self.features(x))

    def train(self, mode: bool = True) -> "LibraryNetwork":
        """But BatchNorm of a pre-trained body keeps its statistics: those of small batches would spoil its features."""
        super().train(mode)
        for module in self.body.modules():
            if self.pretrained and isinstance(module, NORMS):
                module.eval()
        return self


def whole_network(arch: str, size: int) -> nn.Module:
    """The network called `arch`, of torchvision or `timm:` timm, for images of size x size pixels, with its classifier,
    untrained. Raises UserError for a name that isn't known, for timm where it isn't installed, and for images of a size
    that it doesn't take.
    """
    refuse_unknown(arch)
    make: Any = _timm if arch.startswith(TIMM) else _torchvision
    try:
        network = without_dropout(make(arch.removeprefix(TIMM), size)).eval()
        with torch.no_grad():
            taken = isinstance(network(torch.zeros(2, 3, size, size)), Tensor)
    except (RuntimeError, ValueError, AssertionError) as error:
        problem = f"{arch} doesn't take such images ({reason(error)[:100]})"
        raise UserError(f"--img_size {size}: {problem}; give its own, often 224") from None
    if not taken or hasattr(network, "aux_logits") or classifier_of(network) is None:
        raise UserError(f"--arch {arch}: does not end in one linear classifier; take another network")
    return network


def take_off_classifier(network: nn.Module) -> int:
    """Put nothing in the place of the classifier, in place. Returns the number of features D."""
    path = classifier_of(network)
    parent, _, name = str(path).rpartition(".")
    width: int = network.get_submodule(str(path)).in_features
    setattr(network.get_submodule(parent), name, nn.Identity())
    return width


def check_body(body: nn.Module, arch: str, width: int, size: int) -> None:
    """Raise UserError unless a network without its classifier gives `width` features, in training as well, and draws
    nothing.
    """
    trial, before = deepcopy(body).train(), torch.get_rng_state()
    try:
        with torch.no_grad():
            shape = trial(torch.zeros(2, 3, size, size)).shape
    except (RuntimeError, AttributeError):
        shape = None
    if shape != (2, width) or not torch.equal(torch.get_rng_state(), before):
        raise UserError(f"--arch {arch}: has several classifiers, or random parts; take another network")


def classifier_of(network: nn.Module) -> str | None:
    """The path of a network's last linear layer; None if it has none."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def without_dropout(network: nn.Module) -> nn.Module:
    """The network, whose dropout and stochastic depth leave nothing out, in place."""
    for module in network.modules():
        if type(module).__name__ in RANDOM:
            for name in ("p", "drop_prob", "prob"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)
    return network


def refuse_unknown(arch: str) -> None:
    """Raise UserError for a name that isn't one of torchvision's networks or, after `timm:`, of timm's, with a tag
    (resnet18.a1_in1k) or without; and for timm where it isn't installed.
    """
    if arch.startswith(TIMM):
        timm, library, others = import_timm(), "timm", "... (timm.list_models(), timm.list_pretrained())"
        known = [*timm.list_models(), *timm.list_pretrained()]
    else:
        from torchvision import models  # here, for most runs don't need it

        library, others, known = "torchvision", "..., or timm:NAME", models.list_models(module=models)
    if (name := arch.removeprefix(TIMM)) not in known:
        near = ", ".join(get_close_matches(name, known)) or "resnet18, efficientnet_b0"
        raise UserError(f"--arch {arch}: {library} has no such network; take {near}, {others}")


def _torchvision(name: str, size: int) -> nn.Module:
    from torchvision import models

    sized = {"image_size": size} if name.startswith("vit_") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of networks that are refused later
        return models.get_model(name, weights=None, **sized)


def _timm(name: str, size: int) -> nn.Module:
    return import_timm().create_model(name, pretrained=False)


def import_timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("--arch timm:...: timm is not installed; pip install timm") from None
    return timm

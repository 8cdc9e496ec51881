"""The baseline that uses no unlabelled image: cross-entropy on B labelled ones (3, S, S)."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.method import Logs, Method, Network

VIEWS = {"labelled": ("weak",), "unlabelled": ()}


def supervised() -> Method:
    """Cross-entropy on one weak view of B labelled images; there are no pseudo-labels."""

    def loss(model: Network, labeller: Network, batch: Any) -> tuple[Tensor, Logs, None]:
        (x,), y = batch.labelled
        total = cross_entropy(model(x), y)
        return total, {"loss": total}, None

    return Method("supervised", VIEWS, loss)

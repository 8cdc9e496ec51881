"""The baseline that uses no unlabelled image: cross-entropy on the labelled ones.

Shape legend: B labelled images (3, S, S), C classes.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

VIEWS = {"labelled": ("weak",), "unlabelled": ()}


def supervised(
    model: nn.Module, labeller: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, u: list[Tensor]
) -> tuple[Tensor, dict[str, Tensor], None]:
    """Loss () of one step, its parts, and no pseudo-labels. x: float (B, 3, S, S), y: int64 (B,); u: empty."""
    loss = cross_entropy(model(x), y)
    return loss, {"loss": loss}, None

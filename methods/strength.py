"""How strongly an estimated class distribution should count, learned while a head learns.

Shape legend: B labelled rows, C classes.
"""

import torch
from torch import Tensor, nn

from methods.method import Learner, Logs
from methods.prior import ClassPrior
from utils.ranks import mean_over_ranks


class FittedStrength(nn.Module):
    """How strongly log shares should be added to logits, learned from labelled rows that are weighted as if they were
    distributed alike: one damped step of Newton's method a batch. The weighted cross-entropy is convex in it.

    Where the network is sure of nearly all labelled rows they tell nothing, and it stays. Source: CoLA (2026), without
    its resampling.
    """

    value: Tensor

    def __init__(self, start: float, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(start, device=device))

    @torch.no_grad()
    def update(self, logits: Tensor, y: Tensor, shares: Tensor) -> None:
        """logits (B, C) of rows with labels y (B,), all classes equally likely; shares: (C,) above 0."""
        offset, weight = shares.log(), shares[y]
        p = (logits + self.value * offset).softmax(dim=1)
        mean, square = p @ offset, p @ offset.square()
        each = torch.stack([mean - offset[y], square - mean.square(), p.amax(dim=1), torch.ones_like(mean)])
        sums = each @ weight
        mean_over_ranks([sums])
        slope, curvature, sure = sums[:3] / sums[3]
        moved = (self.value - 0.1 * slope / curvature.clamp(min=1e-3)).clamp(0, 2)
        self.value.copy_(torch.where(sure < 0.99, moved, self.value))


def fitting(base: Learner, fitted: FittedStrength, prior: ClassPrior) -> Learner:
    """A classifier learner that fits, by the way, how strongly the log prior should be added to the head's logits."""

    def loss(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor, numbers: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        fitted.update(head(f_x).detach(), y, prior())
        total, logs = base.loss(head, f_x, y, f_u, numbers)
        return total, logs | {"kappa": fitted.value.clone()}

    return base._replace(loss=loss)

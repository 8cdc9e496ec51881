"""How strongly an estimated class distribution should count, learned while a head learns.

Shape legend: B labelled rows, C classes.
"""

import torch
from torch import Tensor, nn

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
        offset, weight = shares.log(), shares[y] / shares[y].sum()
        p = (logits + self.value * offset).softmax(dim=1)
        mean, square = p @ offset, p @ offset.square()
        sums = torch.stack([weight @ (mean - offset[y]), weight @ (square - mean.square()), (weight @ p.amax(dim=1))])
        mean_over_ranks([sums])
        slope, curvature, sure = sums
        moved = (self.value - 0.1 * slope / curvature.clamp(min=1e-3)).clamp(0, 2)
        self.value.copy_(torch.where(sure < 0.99, moved, self.value))

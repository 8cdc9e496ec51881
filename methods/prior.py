"""The class distribution of the unlabelled images, estimated while a network learns: an E-step on every batch.

Shape legend: U unlabelled rows of a step, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from methods.method import Network
from utils.ranks import mean_over_ranks

LEAST = 1e-6  # smallest share that is relied on


class ClassPrior(nn.Module):
    """The shares (C,) of the classes among the unlabelled images, by a moving average of mean guesses.

    counts: labelled images per class, (C,); unlabelled: how many images that are. warm_up: updates before the estimate
    is relied on; momentum: share of the past that an update keeps, less in the first ones; every: steps that an update
    gathers (published code of SimPro: 500, with a momentum of 0.9). truth: (C,), the unlabelled images per class, for
    `figures` alone.
    """

    shares: Tensor
    gathered: Tensor
    seen: Tensor

    def __init__(
        self,
        counts: Tensor,
        unlabelled: int,
        warm_up: int = 2000,
        momentum: float = 0.999,
        every: int = 1,
        truth: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.labelled, self.truth = counts / counts.sum(), None if truth is None else truth / truth.sum()
        self.sizes = counts.sum(), unlabelled  # labelled and unlabelled images
        self.warm_up, self.momentum, self.every = warm_up, momentum, every
        classes = len(counts)
        self.register_buffer("shares", torch.full((classes,), 1 / classes, device=counts.device))
        self.register_buffer(
            "gathered", torch.zeros(classes + 1, device=counts.device)
        )  # sums of guesses, and how many
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device=counts.device))

    @torch.no_grad()
    def update(self, q: Tensor, keep: Tensor | None = None) -> None:
        """Guesses q (U, C), over all ranks; keep: which of them count, (U,). Never waits for the device."""
        rows = q.new_ones(len(q)) if keep is None else keep.to(q)
        sums = torch.cat([rows @ q, rows.sum()[None]])
        mean_over_ranks([sums])
        self.gathered.add_(sums)
        self.seen.add_(1)
        due, number = self.seen % self.every == 0, self.gathered[-1]
        mean = self.gathered[:-1] / torch.where(number > 0, number, 1)
        past = self.momentum if self.every > 1 else ((1 + self.seen) / (10 + self.seen)).clamp(max=self.momentum)
        moved = past * self.shares + (1 - past) * mean
        self.shares.copy_(torch.where(due & (number > 0), moved, self.shares))
        self.gathered.mul_(~due)

    def collapsed(self) -> Tensor:
        """bool (): whether the estimate has less than half of the entropy of the labelled shares."""
        return entropy(self.shares) < entropy(self.labelled) / 2

    def forward(self) -> Tensor:
        """The shares (C,) to rely on: uniform ones, which change no guess, in the warm-up and after a collapse."""
        relied = (self.seen >= self.warm_up) & ~self.collapsed()
        floored = torch.where(relied, self.shares, 1 / len(self.shares)).clamp(min=LEAST)
        return floored / floored.sum()

    def of_all(self) -> Tensor:
        """The shares (C,) among labelled and unlabelled images together; uniform ones as those of `forward` are."""
        labelled, unlabelled = self.sizes
        relied = (self.seen >= self.warm_up) & ~self.collapsed()
        both = (labelled * self.labelled + unlabelled * self()) / (labelled + unlabelled)
        return torch.where(relied, both, 1 / len(self.shares))

    def figures(self) -> dict[str, Tensor]:
        """For the logs, (): `prior_collapsed`, 1 or 0; and where the truth is known `prior_tv`, the total variation
        between it and the estimate, 0 to 1.
        """
        found = {"prior_collapsed": self.collapsed().to(self.shares)}
        return found if self.truth is None else found | {"prior_tv": (self.shares - self.truth).abs().sum() / 2}


def entropy(shares: Tensor) -> Tensor:
    """() in nats, of shares (C,)."""
    return -shares.xlogy(shares).sum()


def class_prior(data: Any, device: torch.device, warm_up: int, **options: Any) -> ClassPrior:
    """Of the unlabelled images of `data`, see `dataset.data.Data`. options: of `ClassPrior`."""
    known = data.unlabelled_counts
    truth = None if known is None else torch.from_numpy(known).float().to(device)
    counts = torch.from_numpy(data.counts).float().to(device)
    return ClassPrior(counts, len(data.unlabelled.members), warm_up, truth=truth, **options)


def with_prior(
    labeller: Network, prior: ClassPrior, strength: float | Tensor, e_step: float = 1.0, keep_from: float = 0.0
) -> Network:
    """images -> logits (U, C) of `labeller` plus strength times log prior; each call updates the prior.

    e_step: strength with which the prior enters the guesses that update it; keep_from: confidence from which on these
    count. Source: SimPro's E-step, without its mask: a mask favours the classes that are guessed surely.
    """

    def labeller_with_prior(images: Tensor) -> Tensor:
        logits, log_prior = labeller(images), prior().log()
        q = (logits + e_step * log_prior).softmax(dim=1)
        prior.update(q, q.amax(dim=1) >= keep_from if keep_from else None)
        moved: Tensor = logits + strength * log_prior
        return moved

    return labeller_with_prior


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

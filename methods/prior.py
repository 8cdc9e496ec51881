"""The class distribution of the unlabelled images, estimated while a network learns: an E-step on every batch.

Shape legend: U unlabelled rows of a step, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from methods.method import Network
from utils.ranks import mean_over_ranks

LEAST = 1e-6  # smallest share that is relied on
MOST_SKEWED = 1000.0  # largest / smallest class


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
        skewed = MOST_SKEWED ** torch.linspace(0, -1, classes, device=counts.device)
        self.least_entropy = entropy(skewed / skewed.sum())
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
        """bool (): whether the estimate is more skewed than classes that fall exponentially from 1,000 images to 1."""
        return entropy(self.shares) < self.least_entropy

    def forward(self) -> Tensor:
        """The shares (C,) to rely on: uniform ones, which change no guess, in the warm-up and after a collapse."""
        relied = self.warm() & ~self.collapsed()
        floored = torch.where(relied, self.shares, 1 / len(self.shares)).clamp(min=LEAST)
        return floored / floored.sum()

    def of_all(self) -> Tensor:
        """The shares (C,) among all images, the unlabelled ones' as by `forward`; after a collapse uniform ones."""
        labelled, unlabelled = self.sizes
        both = (labelled * self.labelled + unlabelled * self()) / (labelled + unlabelled)
        return torch.where(self.warm() & self.collapsed(), 1 / len(self.shares), both)

    def warm(self) -> Tensor:
        """bool (): whether the warm-up is over."""
        return self.seen >= self.warm_up

    def figures(self) -> dict[str, Tensor]:
        """For the logs, (): `prior_collapsed`, 1 or 0; and where the truth is known `prior_tv`, the total variation
        between it and the estimate, 0 to 1.
        """
        found = {"prior_collapsed": (self.warm() & self.collapsed()).to(self.shares)}
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

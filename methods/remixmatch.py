"""ReMixMatch (Berthelot et al. 2020).

- The labeller's probabilities for the weak view, moved towards the labelled class distribution (distribution
  alignment) and sharpened, are the guessed label of an image and of all its views.
- Labelled images, weak and strong views are blended with each other, and their labels with them (MixUp).
- The loss is cross-entropy on the labelled rows, weighted cross-entropy on the others, cross-entropy of the first
  strong view to the guess, and that of telling by which quarter the first strong view was turned.

Shape legend: B labelled and B unlabelled images (3, S, S), V views, C classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from methods.method import Logs, Method, Network
from methods.mixing import draw_mixup, forward_interleaved, mixup, sharpen
from methods.pseudo_labels import PseudoLabels
from utils.ranks import mean_over_ranks

VIEWS = {"labelled": ("strong",), "unlabelled": ("weak", "strong", "strong")}


class RunningMean(nn.Module):
    """Mean over the last `length` batches of their mean guessed probabilities.

    Its state is the published one, a tensor (n, C) of the n <= length latest batch means, oldest first: an entry of a
    checkpoint by itself, not of a larger module's state.
    """

    rows: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, length: int = 128) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(length, num_classes))  # the latest is the last; zeros: none yet
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def add(self, p: Tensor) -> None:
        """Remember the mean of p (B, C), over all ranks; forget the oldest one. Never waits for the device."""
        mean = p.mean(dim=0, keepdim=True)
        mean_over_ranks([mean])
        self.rows.copy_(torch.cat([self.rows[1:], mean]))
        self.seen.add_(1).clamp_(max=len(self.rows))

    def forward(self) -> Tensor:
        """The mean (C,), once there is a batch."""
        return self.rows.sum(dim=0) / self.seen

    def state_dict(self) -> Tensor:  # type: ignore[override]
        return self.rows[len(self.rows) - int(self.seen) :].clone()

    def load_state_dict(self, rows: Tensor) -> None:  # type: ignore[override]
        """Raises RuntimeError if the rows (n, C) are more than `length`, or of another number of classes."""
        missing = self.rows.new_zeros(len(self.rows) - len(rows), self.rows.shape[1])
        self.rows.copy_(torch.cat([missing, rows.to(missing)]))
        self.seen.fill_(len(rows))


def semi_loss(logits_x: Tensor, p: Tensor, logits_u: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled and the unlabelled term () of ReMixMatch's loss, both unweighted.

    logits_x (B, C) with probabilities p (B, C) as targets; logits_u (V B, C), q likewise.
    """
    return cross_entropy(logits_x, p), cross_entropy(logits_u, q)


def align(p: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    """Distribution alignment: p (B, C) times target / mean, (C,) each, made to sum to 1 again in each row.

    Source: ReMixMatch, section 3.1; the 1e-6 that guards both: published code, where the target is images per class,
    beside which it vanishes. Beside shares it would favour the rare classes.
    """
    moved = p * (target + 1e-6) / (mean + 1e-6)
    return moved / moved.sum(dim=1, keepdim=True)


def draw_turns(n_images: int) -> dict[str, np.ndarray]:
    """turns: quarter turns 0 to 3, int32 (n_images,)."""
    return {"turns": torch.randint(0, 4, (n_images,)).int().numpy()}


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Square images (B, 3, S, S), each rotated counter-clockwise by its number of quarter turns (B,)."""
    every = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])
    return every[turns, torch.arange(len(images), device=images.device)]


def remixmatch(
    T: float,
    alpha: float,
    lambda_u: Callable[[int], float],
    w_rot: float,
    w_ent: Callable[[int], float],
    running_mean: RunningMean,
    target: Tensor | None,
) -> Method:
    """ReMixMatch. T: temperature of the guesses; alpha: of MixUp's Beta(alpha, alpha).

    lambda_u, w_ent: step t -> weights of the unlabelled loss, and of the first strong view's cross-entropy to the
    guess; w_rot: weight of the rotation loss. running_mean: of the guessed probabilities, updated by each loss; target:
    images per class (C,), whose shares the guesses are aligned with, None for no alignment.
    The batch has one strong view of B labelled images, and of as many unlabelled ones a weak view, then strong ones.
    The network has `features`, `output` and `rot`. Source: ReMixMatch, section 3.
    """

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        weights = {"lambda_u": np.array(lambda_u(t), np.float32), "w_ent": np.array(w_ent(t), np.float32)}
        return weights | draw_turns(rows) | draw_mixup(rows * (1 + len(VIEWS["unlabelled"])), alpha)

    def loss(model: Any, labeller: Network, batch: Any) -> tuple[Tensor, Logs, PseudoLabels]:
        ((x,), y), (u, _), numbers = batch.labelled, batch.unlabelled, batch.numbers
        weak, first, *_ = u
        turns = numbers["turns"].long()
        with torch.no_grad():
            p = labeller(weak).softmax(dim=1)
            running_mean.add(p)
            q = sharpen(p if target is None else align(p, target, running_mean()), T)
        targets = torch.cat([one_hot(y, q.shape[1]).to(q), *[q] * len(u)])
        images, targets = mixup(torch.cat([x, *u]), targets, numbers["mixup_lam"], numbers["mixup_perm"])
        logits_x, logits_u = forward_interleaved(model, images, len(x))
        loss_x, loss_u = semi_loss(logits_x, targets[: len(x)], logits_u, targets[len(x) :])
        loss_rot = cross_entropy(model.rot(model.features(turn(first, turns))), turns)
        loss_ent = cross_entropy(model(first), q)
        total = loss_x + numbers["lambda_u"] * loss_u + w_rot * loss_rot + numbers["w_ent"] * loss_ent
        parts = {"loss_x": loss_x, "loss_u": loss_u, "loss_rot": loss_rot, "loss_ent": loss_ent}
        return total, {"loss": total} | parts, PseudoLabels(q.argmax(dim=1), q.shape[1])

    return Method("ReMixMatch", VIEWS, loss, draw, {"emp_distb_u": running_mean})

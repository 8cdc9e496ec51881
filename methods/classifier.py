"""Classifier learners: losses of a linear head on frozen features. A learner is `(head, f_x, y, f_u) -> loss, logs`.

Shape legend: B class-balanced labelled features f_x (B, D) with labels y (B,), partners f_u (B, D), C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Learner = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def blend(f_x: Tensor, f_u: Tensor, chosen: Tensor, lam: Tensor) -> Tensor:
    """lam f_x + (1 - lam) f_u in the chosen rows, f_x in the others. chosen: bool (B,), lam: float (B,)."""
    return torch.where(chosen[:, None], lam[:, None] * f_x + (1 - lam[:, None]) * f_u, f_x)


def tfe(counts: Tensor, max_lam: float, draw: Callable[[int], Tensor] = lambda n: torch.rand(2, n)) -> Learner:
    """Tail-class Feature Enhancement (paper, section 4.2).

    counts: (C,) labelled images per class, on the device of the features. A row of class c is blended with
    probability (n_max - n_c) / n_max, with lambda ~ U(max_lam, 1) on its own feature; it keeps its label.
    draw: n -> uniform numbers (2, n): the coins, and where between max_lam and 1 lambda lies.
    """
    chance = (counts.max() - counts) / counts.max()

    def learner(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        coin, where = draw(len(y)).to(f_x.device, non_blocking=True)
        return _head_loss(head, blend(f_x, f_u, coin < chance[y], max_lam + (1 - max_lam) * where), y)

    return learner


def crt() -> Learner:
    """Classifier retraining (Kang et al. 2020): cross-entropy on class-balanced features, nothing blended."""

    def learner(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return _head_loss(head, f_x, y)

    return learner


def on_frozen_features(
    encoder: Callable[[Tensor], Tensor],
    head: nn.Module,
    learner: Learner,
    balanced: tuple[list[Tensor], Tensor],
    partners: tuple[list[Tensor], Tensor] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The learner's loss and figures on one view of a class-balanced batch and of as many partners.

    encoder: images -> features (B, D), which get no gradient; balanced, partners: ([images (B, 3, S, S)], labels (B,));
    partners None: for a learner that blends nothing.
    """
    ((x,), y), (others, _) = balanced, partners or ([], None)
    with torch.no_grad():
        f_x, f_u = encoder(torch.cat([x, *others])).tensor_split([len(x)])
    return learner(head, f_x, y, f_u)


def _head_loss(head: nn.Module, features: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = head(features)
    loss = cross_entropy(logits, y)
    return loss, {"loss_head": loss, "acc_head": (logits.argmax(dim=1) == y).to(logits).mean()}


def decay_all_but_bias(head: nn.Linear, weight_decay: float) -> list[dict]:
    """Parameter groups for an optimiser: weight decay on the weight, none on the bias (published code)."""
    return [
        {"params": [head.weight], "weight_decay": weight_decay},
        {"params": [head.bias], "weight_decay": 0.0},
    ]

"""Classifier learners: losses of a linear head on frozen features.

Shape legend: B class-balanced labelled features f_x (B, D) with labels y (B,), partners f_u (B, D), C classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, one_hot

from methods.averaged import adam
from methods.method import Learner, Logs, Network


def blend(f_x: Tensor, f_u: Tensor, chosen: Tensor, lam: Tensor) -> Tensor:
    """lam f_x + (1 - lam) f_u in the chosen rows, f_x in the others. chosen: bool (B,), lam: float (B,)."""
    return torch.where(chosen[:, None], lam[:, None] * f_x + (1 - lam[:, None]) * f_u, f_x)


def tfe(counts: Any, max_lam: float, device: torch.device | None = None) -> Learner:
    """Tail-class Feature Enhancement (paper, section 4.2).

    counts: (C,) labelled images per class; device: of the features. A row of class c is blended with probability
    (n_max - n_c) / n_max, with lambda ~ U(max_lam, 1) on its own feature; it keeps its label.
    Drawn are uniform numbers (2, B): the coins, and where between max_lam and 1 lambda lies.
    """
    counts = counts if isinstance(counts, Tensor) else torch.from_numpy(counts).to(device)
    chance = (counts.max() - counts) / counts.max()

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"coins": torch.rand(2, rows, dtype=torch.float32).numpy()}

    def loss(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor, numbers: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        coin, where = numbers["coins"]
        return _head_loss(head, blend(f_x, f_u, coin < chance[y], max_lam + (1 - max_lam) * where), y)

    return Learner("TFE", loss, draw)


def crt() -> Learner:
    """Classifier retraining (Kang et al. 2020): cross-entropy on class-balanced features, nothing blended."""

    def loss(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor, numbers: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        return _head_loss(head, f_x, y)

    return Learner("cRT", loss)


def caa(classes: int, width: int) -> Learner:
    """Noise in the place of blends: a control for TFE. classes: C; width: D.

    A feature of length l gets r_c / l times itself times a standard normal number in each place, where r_c is the
    larger, the more the features of class c scatter. Source: CAA in CPG (Hou et al. 2025), for balanced batches.
    """

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"noise": torch.randn(rows, width, dtype=torch.float32).numpy()}

    def loss(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor, numbers: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        member = one_hot(y, classes).to(f_x)
        mean = member.T @ f_x / member.sum(dim=0).clamp(min=1)[:, None]
        closeness = (cosine_similarity(f_x, mean[y]) + 1) / 2
        alpha = (member.T @ closeness + (member.sum(dim=0) == 0)) / member.sum(dim=0).clamp(min=1)
        r = (1 / alpha) / (1 / alpha).sum()
        return _head_loss(head, f_x + r[y][:, None] * numbers["noise"] * normalize(f_x), y)

    return Learner("CAA", loss, draw)


def on_frozen_features(encoder: Network, head: nn.Module, learner: Learner, batch: Any) -> tuple[Tensor, Logs]:
    """The learner's loss and figures on the balanced images of a batch, on as many partners, if it has any, and on as
    many unlabelled images, if the learner wants views of them.

    encoder: images -> features (B, D), which get no gradient.
    """
    ((x,), y), (others, _) = batch.balanced, batch.partners or ([], None)
    if learner.views:
        others = [*others, *(view[: len(x)] for view in batch.unlabelled.views[: learner.views])]
    with torch.no_grad():
        f_x, f_u = encoder(torch.cat([x, *others])).tensor_split([len(x)])
    return learner.loss(head, f_x, y, f_u, batch.numbers)


def _head_loss(head: nn.Module, features: Tensor, y: Tensor) -> tuple[Tensor, Logs]:
    logits = head(features)
    loss = cross_entropy(logits, y)
    return loss, {"loss_head": loss, "acc_head": (logits.argmax(dim=1) == y).to(logits).mean()}


def decay_all_but_bias(head: nn.Linear, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: weight decay on the weight, none on the bias (published code)."""
    return [{"params": [head.weight], "weight_decay": weight_decay}, {"params": [head.bias], "weight_decay": 0.0}]


def head_adam(head: nn.Linear, lr: float, weight_decay: float) -> torch.optim.Adam:
    """Adam for a head, see `decay_all_but_bias`."""
    return adam(decay_all_but_bias(head, weight_decay), lr)

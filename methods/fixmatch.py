"""FixMatch (Sohn et al. 2020), the SSL method that CoSSL is combined with in most of the paper's tables.

- The labeller names a class for each weakly augmented image.
- Guesses with a confidence of at least tau become targets for the strongly augmented views.
- The loss is cross-entropy on the labelled images plus masked cross-entropy on the strong views.

Shape legend: B labelled and U unlabelled images (3, S, S), V strong views, C classes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.method import Logs, Method, Network
from methods.pseudo_labels import PseudoLabels

VIEWS = {"labelled": ("weak",), "unlabelled": ("weak", "strong", "strong")}


def semi_loss(logits_x: Tensor, y: Tensor, logits_u: Tensor, q: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms (), labelled and unlabelled, of FixMatch's loss.

    logits_x (B, C), y: int64 (B,) or probabilities (B, C); logits_u (V U, C), q likewise;
    selected: bool or float (V U,). Rows that aren't selected count as zero in the mean over all V U rows.
    """
    return cross_entropy(logits_x, y), (cross_entropy(logits_u, q, reduction="none") * selected).mean()


def fixmatch(tau: float) -> Method:
    """FixMatch. tau: confidence from which on a guess is used.

    The batch has one weak view of B labelled images, and of U unlabelled ones a weak view, then strong ones.
    Source: FixMatch, section 2.2; one forward pass of all rows that carry a loss, so that they share their BatchNorm
    statistics (published code).
    """

    def loss(model: Network, labeller: Network, batch: Any) -> tuple[Tensor, Logs, PseudoLabels]:
        ((x,), y), ((weak, *strong), _) = batch.labelled, batch.unlabelled
        with torch.no_grad():
            p = labeller(weak).softmax(dim=1)
            confidence, guess = p.max(dim=1)
        selected = confidence >= tau
        logits_x, logits_u = model(torch.cat([x, *strong])).split([len(x), len(weak) * len(strong)])
        loss_x, loss_u = semi_loss(logits_x, y, logits_u, guess.repeat(len(strong)), selected.repeat(len(strong)))
        total = loss_x + loss_u
        return total, {"loss": total, "loss_x": loss_x, "loss_u": loss_u}, PseudoLabels(guess, p.shape[1], selected)

    return Method("FixMatch", VIEWS, loss)

"""FixMatch (Sohn et al. 2020), the SSL method that CoSSL is combined with in most of the paper's tables.

- The labeller names a class for each weakly augmented image.
- Guesses with a confidence of at least tau become targets for the strongly augmented views.
- The loss is cross-entropy on the labelled images plus masked cross-entropy on the strong views.

Shape legend: B labelled and U unlabelled images (3, S, S), V strong views, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.method import Logs, Method, Network
from methods.pseudo_labels import PseudoLabels

Offsets = Callable[[dict[str, Tensor]], tuple[Tensor | float, Tensor | float]]

VIEWS = {"labelled": ("weak",), "unlabelled": ("weak", "strong", "strong")}


class SoftBand(NamedTuple):
    """Guesses with a confidence above `low` and below `high` are soft targets, their loss having a weight that is a
    function of step t (LoFT; ADELLO's complementary term).
    """

    low: float
    high: float
    weight: Callable[[int], float]


def semi_loss(logits_x: Tensor, y: Tensor, logits_u: Tensor, q: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms (), labelled and unlabelled, of FixMatch's loss.

    logits_x (B, C), y: int64 (B,) or probabilities (B, C); logits_u (V U, C), q likewise;
    selected: bool or float (V U,). Rows that aren't selected count as zero in the mean over all V U rows.
    """
    return cross_entropy(logits_x, y), (cross_entropy(logits_u, q, reduction="none") * selected).mean()


def fixmatch(tau: float, offsets: Offsets | None = None, soft: bool = False, band: SoftBand | None = None) -> Method:
    """FixMatch. tau: confidence from which on a guess is used.

    offsets: numbers of a step -> what is added to the labelled and to the strong views' logits in the losses, (C,)
    each, or 0; soft: the targets are the guessed probabilities; band: see `SoftBand`. Without these, as published.
    The batch has one weak view of B labelled images, and of U unlabelled ones a weak view, then strong ones.
    Source: FixMatch, section 2.2; one forward pass of all rows that carry a loss, so that they share their BatchNorm
    statistics (published code).
    """

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {} if band is None else {"band": np.array(band.weight(t), np.float32)}

    def loss(model: Network, labeller: Network, batch: Any) -> tuple[Tensor, Logs, PseudoLabels]:
        ((x,), y), ((weak, *strong), _) = batch.labelled, batch.unlabelled
        with torch.no_grad():
            p = labeller(weak).softmax(dim=1)
            confidence, guess = p.max(dim=1)
        selected, n = confidence >= tau, len(strong)
        logits_x, logits_u = model(torch.cat([x, *strong])).split([len(x), len(weak) * n])
        if offsets:
            offset_x, offset_u = offsets(batch.numbers)
            logits_x, logits_u = logits_x + offset_x, logits_u + offset_u
        target = p.repeat(n, 1) if soft else guess.repeat(n)
        loss_x, loss_u = semi_loss(logits_x, y, logits_u, target, selected.repeat(n))
        total = loss_x + loss_u
        logs = {"loss": total, "loss_x": loss_x, "loss_u": loss_u}
        if band:
            inside = (confidence > band.low) & (confidence < band.high)
            loss_band = (cross_entropy(logits_u, p.repeat(n, 1), reduction="none") * inside.repeat(n)).mean()
            total = total + batch.numbers["band"] * loss_band
            logs |= {"loss": total, "loss_band": loss_band}
        return total, logs, PseudoLabels(guess, p.shape[1], selected)

    return Method("FixMatch", VIEWS, loss, draw)

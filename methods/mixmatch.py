"""MixMatch (Berthelot et al. 2019).

- The labeller's mean probability over the weak views of an image, sharpened, is its guessed label.
- Labelled and unlabelled images are blended with each other, and their labels with them (MixUp).
- The loss is cross-entropy on the labelled rows plus the weighted squared error of probabilities on the others.

Shape legend: B labelled and B unlabelled images (3, S, S), V weak views, C classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from methods.method import Logs, Method, Network
from methods.mixing import draw_mixup, forward_interleaved, mixup, sharpen
from methods.pseudo_labels import PseudoLabels

VIEWS = {"labelled": ("weak",), "unlabelled": ("weak", "weak")}


def semi_loss(logits_x: Tensor, p: Tensor, logits_u: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms (), labelled and unlabelled, of MixMatch's loss, both unweighted.

    logits_x (B, C) with probabilities p (B, C) as targets; logits_u (V B, C), q likewise.
    """
    return cross_entropy(logits_x, p), mse_loss(logits_u.softmax(dim=1), q)


def mixmatch(T: float, alpha: float, lambda_u: Callable[[int], float]) -> Method:
    """MixMatch. T: temperature of the guesses; alpha: of MixUp's Beta(alpha, alpha); lambda_u: step t -> weight of the
    unlabelled loss.

    The batch has one weak view of B labelled images, and V of as many unlabelled ones. Source: MixMatch, section 3.
    """

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        n_images = rows * (1 + len(VIEWS["unlabelled"]))
        return {"lambda_u": np.array(lambda_u(t), np.float32)} | draw_mixup(n_images, alpha)

    def loss(model: Network, labeller: Network, batch: Any) -> tuple[Tensor, Logs, PseudoLabels]:
        ((x,), y), (u, _), numbers = batch.labelled, batch.unlabelled, batch.numbers
        with torch.no_grad():
            q = sharpen(torch.stack([labeller(view).softmax(dim=1) for view in u]).mean(0), T)
        targets = torch.cat([one_hot(y, q.shape[1]).to(q), *[q] * len(u)])
        images, targets = mixup(torch.cat([x, *u]), targets, numbers["mixup_lam"], numbers["mixup_perm"])
        logits_x, logits_u = forward_interleaved(model, images, len(x))
        loss_x, loss_u = semi_loss(logits_x, targets[: len(x)], logits_u, targets[len(x) :])
        total = loss_x + numbers["lambda_u"] * loss_u
        return total, {"loss": total, "loss_x": loss_x, "loss_u": loss_u}, PseudoLabels(q.argmax(dim=1), q.shape[1])

    return Method("MixMatch", VIEWS, loss, draw)

"""MixMatch (Berthelot et al. 2019).

- The labeller's mean probability over the weak views of an image, sharpened, is its guessed label.
- Labelled and unlabelled images are blended with each other, and their labels with them (MixUp).
- The loss is cross-entropy on the labelled rows plus the weighted squared error of probabilities on the others.

Shape legend: B labelled and B unlabelled images (3, S, S), V weak views, C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from methods.mixing import draw_mixup, forward_interleaved, mixup, sharpen
from methods.pseudo_labels import PseudoLabels

VIEWS = {"labelled": ("weak",), "unlabelled": ("weak", "weak")}


def semi_loss(logits_x: Tensor, p: Tensor, logits_u: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms (), labelled and unlabelled, of MixMatch's loss, both unweighted.

    logits_x (B, C) with probabilities p (B, C) as targets; logits_u (V B, C), q likewise.
    """
    return cross_entropy(logits_x, p), mse_loss(logits_u.softmax(dim=1), q)


def mixmatch(
    model: nn.Module,
    labeller: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    u: list[Tensor],
    *,
    T: float,
    alpha: float,
    lambda_u: float,
) -> tuple[Tensor, dict[str, Tensor], PseudoLabels]:
    """Loss () of one step, its parts, and the pseudo-labels.

    x: float (B, 3, S, S), y: int64 (B,); u: V weak views, each float (B, 3, S, S).
    labeller: images -> logits; `model` itself in pre-training, head o momentum encoder in CoSSL.
    T: temperature of the guesses; alpha: of MixUp's Beta(alpha, alpha); lambda_u: weight of the unlabelled loss at
    this step. Source: MixMatch, section 3.
    """
    with torch.no_grad():
        q = sharpen(sum(labeller(view).softmax(dim=1) for view in u) / len(u), T)
    targets = torch.cat([one_hot(y, q.shape[1]).to(q), *[q] * len(u)])
    images, targets = mixup(torch.cat([x, *u]), targets, *draw_mixup(len(targets), alpha))
    logits_x, logits_u = forward_interleaved(model, images, len(x))
    loss_x, loss_u = semi_loss(logits_x, targets[: len(x)], logits_u, targets[len(x) :])
    loss = loss_x + lambda_u * loss_u
    return loss, {"loss": loss, "loss_x": loss_x, "loss_u": loss_u}, PseudoLabels(q.argmax(dim=1), q.shape[1])

"""ACR (Wei & Gan 2023): two heads, and pseudo-labels adjusted by how the unlabelled images seem to be distributed.

- The standard head learns the labelled images as they are, the balanced one with logits adjusted by their shares.
- Both learn from the standard head's guesses for the weak view: the balanced one from guesses adjusted in full, the
  standard one from guesses adjusted the more, the less the unlabelled images resemble the labelled ones.

Shape legend: B labelled and U unlabelled images, C classes, V strong views.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from methods.fixmatch import VIEWS
from methods.method import Logs, Method
from methods.prior import ClassPrior
from methods.pseudo_labels import PseudoLabels

STRENGTH = 2.0  # of the full adjustment


def symmetric_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean of both Kullback-Leibler divergences (), in nats, of shares (C,) above 0."""
    return ((p - q) * (p.log() - q.log())).sum() / 2


def adjustment(shares: Tensor, labelled: Tensor) -> Tensor:
    """Strength () of the standard head's adjustment, 0 to 2: large where the unlabelled shares (C,) are far from the
    labelled ones (C,), compared with how far they are from uniform ones and from the labelled ones in reversed order.

    Source: ACR, section 3.3. Reversed is by frequency here, in the published code by the number of the class.
    """
    order = labelled.argsort(descending=True, stable=True)
    flipped = torch.empty_like(labelled).scatter(0, order, labelled[order.flip(0)])
    anchors = torch.stack([labelled, torch.full_like(labelled, 1 / len(labelled)), flipped])
    return STRENGTH * torch.stack([symmetric_divergence(shares, anchor) for anchor in anchors]).softmax(dim=0)[0]


def sure(tau: float, *logits: Tensor) -> Tensor:
    """bool (U,): which rows any of these logits (U, C) give a class at least the probability tau."""
    return torch.stack([each.softmax(dim=1).amax(dim=1) >= tau for each in logits]).any(dim=0)


def acr(tau: float, standard: nn.Module, prior: ClassPrior, adaptive: bool = True) -> Method:
    """FixMatch with two heads. The network's `output` is the balanced one, which is evaluated; `standard` is saved
    beside the network. The labeller gives features (U, D), which both heads read.

    tau: confidence from which on a guess is used; prior: updated by the balanced head's sure guesses, counted one by
    one (the published code counts a class once a batch); adaptive: the standard head's adjustment follows it once it is
    warmed up, else it is full. Source: ACR, section 3.
    """
    log_labelled = prior.labelled.log()

    def targets(f_w: Tensor, balanced: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s_w, b_w = standard(f_w), balanced(f_w)
        strength = torch.where(adaptive * prior.warm(), adjustment(prior(), prior.labelled), STRENGTH)
        to_s, to_b = s_w - strength * log_labelled, s_w - STRENGTH * log_labelled
        prior.update(one_hot(b_w.argmax(dim=1), b_w.shape[1]).to(b_w), sure(tau, b_w))
        return to_s.argmax(dim=1), sure(tau, to_s, s_w), to_b.argmax(dim=1), sure(tau, to_b, b_w)

    def loss(model: Any, labeller: Any, batch: Any) -> tuple[Tensor, Logs, PseudoLabels]:
        ((x,), y), ((weak, *strong), _) = batch.labelled, batch.unlabelled
        with torch.no_grad():
            guess_s, selected_s, guess_b, selected_b = targets(labeller(weak), model.output)
        n = len(strong)
        f_x, f_u = model.features(torch.cat([x, *strong])).split([len(x), len(weak) * n])
        loss_x = cross_entropy(standard(f_x), y) + cross_entropy(model.output(f_x) + STRENGTH * log_labelled, y)
        loss_s = cross_entropy(standard(f_u), guess_s.repeat(n), reduction="none") * selected_s.repeat(n)
        loss_b = cross_entropy(model.output(f_u), guess_b.repeat(n), reduction="none") * selected_b.repeat(n)
        loss_u = loss_s.mean() + loss_b.mean()
        logs = {"loss": loss_x + loss_u, "loss_x": loss_x, "loss_u": loss_u} | prior.figures()
        return logs["loss"], logs, PseudoLabels(guess_b, len(log_labelled), selected_b)

    state = {"standard_head": standard, "class_prior": prior}
    return Method("FixMatch+ACR", VIEWS, loss, state=state, balanced=True)

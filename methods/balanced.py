"""ABC (Lee et al. 2021): a head that sees all classes equally often, among labelled and among unlabelled images.

- A frequent class is left out by chance, in proportion to its frequency.
- Unlabelled images that the head is sure of count, too, with its probabilities for the weak view as soft targets.
As a learner it is the head of CoSSL on frozen features; as a method it is a second head on the live network, which
learns from both.

Shape legend: B rows, D features, C classes, V strong views.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.fixmatch import VIEWS, semi_loss
from methods.method import Learner, Logs, Method
from methods.prior import ClassPrior
from methods.pseudo_labels import PseudoLabels

Keep = Callable[[dict[str, Tensor]], Tensor]  # numbers of a step -> chances (C,) that an unlabelled row counts


def kept_labelled(counts: Tensor) -> Tensor:
    """Chances (C,) that make classes with these counts (C,) equally frequent."""
    return counts.min() / counts


def kept_by_prior(prior: ClassPrior) -> Keep:
    """The same, of the estimated numbers among all images."""
    return lambda numbers: kept_labelled(prior.of_all())


def kept_as_published(counts: Tensor) -> Keep:
    """1 at step 0, at the end those of the labelled counts (C,), as if the unlabelled images were distributed alike."""
    return lambda numbers: 1 - numbers["progress"] * (1 - kept_labelled(counts))


def on_unlabelled(head: Any, f_w: Tensor, f_s: Tensor, keep: Tensor, tau: float, coins: Tensor) -> Tensor:
    """The loss () of the head on unlabelled rows. f_w: features (B, D) of the weak view, f_s: (V B, D) of strong ones;
    keep: (C,) chances; tau: confidence from which on a row counts; coins: uniform, (V B,).
    """
    with torch.no_grad():
        q = head(f_w).softmax(dim=1)
        confidence, guess = q.max(dim=1)
    views = len(f_s) // len(f_w)
    counted = (confidence >= tau).repeat(views) & (coins < keep[guess].repeat(views))
    loss: Tensor = cross_entropy(head(f_s), q.repeat(views, 1), reduction="none") * counted
    return views * loss.mean()


def with_unlabelled(base: Learner, keep: Keep, tau: float, weight: float, total: int = 1) -> Learner:
    """A classifier learner whose head learns from unlabelled images, too: those it is sure of, with a weight.

    keep, tau: see `on_unlabelled`; total: steps of the run, for `kept_as_published`. On cRT this is ABC's head.
    """

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        coins = torch.rand(rows, dtype=torch.float32).numpy()
        return base.draw(t, rows) | {"abc_coins": coins, "progress": np.array(min(1.0, t / total), np.float32)}

    def loss(head: nn.Module, f_x: Tensor, y: Tensor, f_u: Tensor, numbers: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        *partners, f_w, f_s = f_u.split(len(f_x))
        first, logs = base.loss(head, f_x, y, torch.cat(partners) if partners else f_u[:0], numbers)
        second = on_unlabelled(head, f_w, f_s, keep(numbers), tau, numbers["abc_coins"])
        return first + weight * second, logs | {"loss_head_u": second}

    name = "ABC" if base.name == "cRT" else f"{base.name}+ABC"
    return Learner(name, loss, draw, views=2)


def abc(tau: float, standard: nn.Module, counts: Tensor, prior: ClassPrior | None, total: int) -> Method:
    """FixMatch whose network has two heads. The `output` is the balanced one, which is evaluated; FixMatch's own,
    `standard`, is saved beside the network. The labeller gives features (U, D), which both heads read.

    tau: of both heads; counts: labelled images per class, (C,); prior: by which unlabelled classes are made equally
    frequent, estimated with the balanced head; None: as published, by the labelled counts, more and more over `total`
    steps. Source: ABC, section 3, and its published code, which weights all losses by 1.
    """
    chance, keep = kept_labelled(counts), kept_as_published(counts) if prior is None else kept_by_prior(prior)

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        coins = torch.rand(len(VIEWS["unlabelled"]), rows, dtype=torch.float32).numpy()
        return {"abc_coins": coins, "progress": np.array(min(1.0, t / total), np.float32)}

    def loss(model: Any, labeller: Any, batch: Any) -> tuple[Tensor, Logs, PseudoLabels]:
        ((x,), y), ((weak, *strong), _) = batch.labelled, batch.unlabelled
        coin_x, *coins = batch.numbers["abc_coins"]
        with torch.no_grad():
            f_w = labeller(weak)
            confidence, guess = standard(f_w).softmax(dim=1).max(dim=1)
            if prior is not None:
                prior.update((model.output(f_w) + prior().log()).softmax(dim=1))
        selected, n = confidence >= tau, len(strong)
        f_x, f_s = model.features(torch.cat([x, *strong])).split([len(x), len(weak) * n])
        terms = semi_loss(standard(f_x), y, standard(f_s), guess.repeat(n), selected.repeat(n))
        abc_x = (cross_entropy(model.output(f_x), y, reduction="none") * (coin_x < chance[y])).mean()
        abc_u = on_unlabelled(model.output, f_w, f_s, keep(batch.numbers), tau, torch.cat(coins))
        logs = dict(zip(("loss_x", "loss_u", "loss_abc_x", "loss_abc_u"), (*terms, abc_x, abc_u), strict=True))
        both = terms[0] + terms[1] + abc_x + abc_u
        figures = {} if prior is None else prior.figures()
        return both, {"loss": both} | logs | figures, PseudoLabels(guess, len(counts), selected)

    state: dict[str, nn.Module] = {"standard_head": standard} | ({} if prior is None else {"class_prior": prior})
    return Method("FixMatch+ABC", VIEWS, loss, draw, state, balanced=True)

"""FixMatch for unlabelled images that are distributed otherwise: offsets of the logits in its losses.

| | labelled | strong views | labeller | targets |
| --- | --- | --- | --- | --- |
| LA | s log labelled shares | 0 | as it is | hard |
| SimPro | s log shares of all images | the same | plus s log prior | soft |
| ADELLO | log labelled shares - log prior^a | log prior - log prior^a | as it is | hard, soft below tau |

The prior is the estimated distribution of the unlabelled images; s is a strength; a falls from 1 to 0.1, and prior^a is
made to sum to 1. A network that learns with such offsets is balanced: without them, as in evaluation, it tells classes
apart as if all were equally frequent.

Shape legend: C classes.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from methods.fixmatch import Offsets, SoftBand, fixmatch
from methods.method import Logs, Method, Network
from methods.prior import ClassPrior
from methods.pseudo_labels import PseudoLabels


def of_all_images(prior: ClassPrior, strength: float) -> Offsets:
    """Both losses' logits are offset by strength times the log shares among all images."""

    def offsets(numbers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        offset = strength * prior.of_all().log()
        return offset, offset

    return offsets


def la(tau: float, counts: Tensor, strength: float) -> Method:
    """Logit adjustment (Menon et al. 2021; balanced softmax where strength is 1) of the labelled loss. tau: see
    `fixmatch`; counts: labelled images per class, (C,).
    """
    offset = strength * (counts / counts.sum()).log()
    return fixmatch(tau, lambda numbers: (offset, 0.0))._replace(name="FixMatch+LA", balanced=True)


def simpro(tau: float, prior: ClassPrior, strength: float) -> Method:
    """SimPro (Du et al. 2024), with one view of the labelled images, whose loss has the weight 1. The labeller is
    `prior.with_prior` with the same strength. Source: SimPro, section 3.
    """
    return watched(fixmatch(tau, of_all_images(prior, strength), soft=True), prior)._replace(name="FixMatch+SimPro")


def adello(tau: float, prior: ClassPrior, counts: Tensor, total: int, last: float = 0.1, begin: float = 0.2) -> Method:
    """ADELLO (Sanchez Aimar et al. 2024). total: steps of the run, over which the exponent falls from 1 to `last`;
    begin: share of them after which guesses below tau count as soft targets. The labeller is `prior.with_prior`, of
    strength 0. Source: ADELLO, section 3, and its released settings.
    """
    labelled = (counts / counts.sum()).log()

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"exponent": np.array(falling(t, total, last), np.float32)}

    def offsets(numbers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        log_prior = prior().log()
        target = (numbers["exponent"] * log_prior).log_softmax(dim=0)
        return labelled - target, log_prior - target

    band = SoftBand(0.0, tau, lambda t: float(t >= begin * total))
    method = watched(fixmatch(tau, offsets, band=band), prior)
    return method._replace(name="FixMatch+ADELLO", draw=both(method.draw, draw))


def falling(t: int, total: int, last: float) -> float:
    """1 at step 0, `last` from step `total` on, as the square of t falls."""
    return 1 - (1 - last) * min(1.0, t / total) ** 2


def both(*draws: Callable[[int, int], dict[str, np.ndarray]]) -> Callable[[int, int], dict[str, np.ndarray]]:
    """What all of them draw."""

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {name: array for one in draws for name, array in one(t, rows).items()}

    return draw


def watched(method: Method, prior: ClassPrior, more: dict[str, nn.Module] | None = None) -> Method:
    """A balanced method with the state, and in its logs the figures, of a prior; more: state, by checkpoint key."""

    def loss(model: Network, labeller: Network, batch: object) -> tuple[Tensor, Logs, PseudoLabels | None]:
        total, logs, pseudo = method.loss(model, labeller, batch)
        return total, logs | prior.figures(), pseudo

    return method._replace(loss=loss, state={"class_prior": prior} | (more or {}), balanced=True)

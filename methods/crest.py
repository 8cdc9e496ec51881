"""CReST+ (Wei et al. 2021), self-training in generations: the baseline that the paper compares with.

- Each generation trains a new network. Its guesses are aligned with the labelled class distribution, which is flattened
  more from one generation to the next (progressive distribution alignment).
- Then its average labels the unlabelled images. Those that it is surest of join the labelled ones of the next
  generation: of the rarest class all, of the others the fewer the more frequent a class is.

Shape legend: B images (B, 3, S, S), N unlabelled images, of which n join, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.method import Method, Network
from methods.remixmatch import RunningMean, align
from utils.ranks import mean_over_ranks


class Picked(nn.Module):
    """What joins the labelled images. images: int64 (n,), numbers of training images; labels: int64 (n,), guessed."""

    images: Tensor
    labels: Tensor

    def __init__(self, images: Tensor | Sequence[int] = (), labels: Tensor | Sequence[int] = ()) -> None:
        super().__init__()
        for name, values in (("images", images), ("labels", labels)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.int64))


def crest(method: Method, generation: int, generations: int, picked: Picked, mean: RunningMean) -> Method:
    """An SSL method as one of the generations, 0, 1, ...; its name says so unless it is the last, which counts."""
    name = f"{method.name}+CReST+" + (f", generation {generation}" if generation + 1 < generations else "")
    return method._replace(name=name, state={"picked": picked, "emp_distb_u": mean})


def flattened(counts: Tensor, generation: int, generations: int, last: float) -> Tensor:
    """The class distribution (C,) that guesses of a generation are aligned with: that of the labelled images (C,), to
    the power of a temperature that falls linearly from 1 in generation 0 to `last` in the last one.

    Source: CReST, section 3.3.
    """
    share = generation / max(1, generations - 1)
    target = (counts / counts.sum()) ** (1 - share + share * last)
    return target / target.sum()


def aligned(labeller: Network, mean: RunningMean, target: Tensor) -> Network:
    """images -> log-probabilities (B, C): a labeller's guesses, added to their mean, and aligned with shares (C,)."""

    def aligned_labeller(images: Tensor) -> Tensor:
        p = labeller(images).softmax(dim=1)
        mean.add(p)
        return align(p, target, mean()).log()

    return aligned_labeller


def picking_rates(frequencies: Sequence[float], alpha: float) -> list[float]:
    """Which share of the images that are taken for a class joins it, (C,): of the k-th most frequent class
    (frequency of the k-th rarest / frequency of the most frequent)^(1 / alpha).

    Source: CReST, section 3.2, where alpha is the published code's 1 / alpha.
    """
    order = sorted(range(len(frequencies)), key=lambda c: -frequencies[c])
    opposite = dict(zip(order, reversed(order), strict=True))
    return [(frequencies[opposite[c]] / frequencies[order[0]]) ** (1 / alpha) for c in range(len(order))]


def surest(logits: Tensor, rates: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Places int64 (n,) of the rows of logits (N, C) that join, and their classes (n,): of each class's guesses the
    share `rates` (C,), rounded down, with the largest logits, largest first; class by class.
    """
    confidence, guess = logits.max(dim=1)
    chosen = []
    for c, rate in enumerate(rates):
        members = (guess == c).nonzero().flatten()
        order = confidence[members].argsort(descending=True, stable=True)
        chosen.append(members[order[: int(len(members) * rate)]])
    places = torch.cat(chosen)
    return places, guess[places]


@torch.no_grad()
def pick(predict: Network, data: Any, rates: Sequence[float]) -> Picked:
    """Those of the unlabelled images without a label that join the labelled ones; prints how many, and if the truth is
    known how many with their own class. (Published code: with a generation's average, in eval mode.)

    predict: images -> logits; data: see `dataset.data.Data`; rates: see `surest`.
    """
    swept = [(predict(views[0]), labels) for views, labels in data.unlabelled.sweep(("plain",))]
    logits = torch.cat([logits for logits, _ in swept])
    mean_over_ranks([logits])  # the same bits on every rank
    images, known = (torch.from_numpy(stream.members) for stream in (data.unlabelled, data.labelled))
    free = (~torch.isin(images, known)).nonzero().flatten()
    places, guess = surest(logits.cpu()[free], rates)
    words = ""
    if len(places) and swept[0][1] is not None:
        truth = torch.cat([labels for _, labels in swept]).cpu()[free[places]]
        words = f", {100 * (guess == truth).double().mean():.1f} % of them in their own class"
    print(f"{len(places)} of {len(free)} unlabelled images join the labelled ones{words}", flush=True)
    return Picked(images[free[places]], guess)

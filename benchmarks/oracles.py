"""A recipe that knows what no method knows: python -m benchmarks.oracles prior|labels SCRIPT.py ITS FLAGS.

prior: the class distribution of the unlabelled images is the true one; labels: so it is, and the head learns from the
true labels of the unlabelled images, all of them. Used by benchmarks/field.py for the ceilings of parts of a method.
"""

import runpy
import sys
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import methods.balanced
import methods.step
from methods.classifier import on_frozen_features
from methods.prior import ClassPrior
from methods.step import Step


def know_the_prior(self: ClassPrior, q: Tensor, keep: Tensor | None = None) -> None:
    """In the place of an update."""
    if self.truth is None:
        raise ValueError("the unlabelled images' classes aren't known")
    self.shares.copy_(self.truth)
    self.seen.fill_(10**9)


class KnownLabels:
    """The labels of a batch's unlabelled images, for the head's loss on them."""

    def __init__(self) -> None:
        self.labels = torch.empty(0)

    def on_features(self, encoder: Any, head: Any, learner: Any, batch: Any) -> Any:
        self.labels = batch.unlabelled.labels[: len(batch.balanced.labels)]
        return on_frozen_features(encoder, head, learner, batch)

    def on_unlabelled(self, head: Any, f_w: Tensor, f_s: Tensor, keep: Tensor, tau: float, coins: Tensor) -> Tensor:
        views = len(f_s) // len(f_w)
        y = self.labels.repeat(views)
        loss: Tensor = cross_entropy(head(f_s), y, reduction="none") * (coins < keep[y])
        return views * loss.mean()


def main() -> None:
    """Its runs are told apart from others by their method's name."""
    kind, script, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = script
    known, honest = KnownLabels(), Step.facts

    def told(step: Step) -> dict[str, Any]:
        return (facts := honest(step)) | {"method": f"{facts['method']}, oracle of {kind}"}

    patches = [patch.object(ClassPrior, "update", know_the_prior), patch.object(Step, "facts", told)]
    if kind == "labels":
        patches.append(patch.object(methods.step, "on_frozen_features", known.on_features))
        patches.append(patch.object(methods.balanced, "on_unlabelled", known.on_unlabelled))
    for one in patches:
        one.start()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()

"""The limit of a step: the forward passes, backward pass and optimiser steps of each CIFAR recipe, on ready tensors.

Shape legend: B images (B, 3, 32, 32), C classes.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from benchmarks.plain import BATCH
from benchmarks.recipe_steps import RecipeStep

# How many batches each forward pass takes at once: those that only guess labels, those that are trained on.
FORWARDS = {"fix": ([1], [3]), "mix": ([1, 1], [1] * 3), "remix": ([1], [1] * 6)}


def limit(recipe: str, it: RecipeStep, device: torch.device) -> Callable[[], None]:
    """The forwards, backward and optimiser steps of a recipe's step on ready tensors."""
    guessed, trained = FORWARDS[recipe.split("_")[2]]
    live, ema, head = (it.objects.get(key) for key in ("state_dict", "ema_state_dict", "teacher_head"))
    images, labels = torch.randn(3 * BATCH, 3, 32, 32, device=device), torch.arange(3 * BATCH, device=device) % 10

    def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def work() -> None:
        live.train()
        with torch.no_grad():
            for n in guessed:
                live(images[: n * BATCH]) if head is None else head(ema.features(images[: n * BATCH]))
            features = None if head is None else ema.features(images[: 2 * BATCH])
        loss = sum(cross_entropy(live(images[: n * BATCH]), labels[: n * BATCH]) for n in trained)
        descend(loss, it.objects["optimizer"])
        if head is not None:
            descend(cross_entropy(head(features[:BATCH]), labels[:BATCH]), it.objects["teacher_optimizer"])

    return work

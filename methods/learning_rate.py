"""A learning rate that is a function of the step: nothing to save, nothing to rewind."""

from collections.abc import Callable

import torch
from torch import Tensor


def warm_up_then_steps(t: int, lr: float, gamma: float, warm_up: int, every: int) -> float:
    """From 0 to `lr`, linearly over the first `warm_up` steps; then lr gamma^k, k = whole multiples of `every` in t.

    t, warm_up, every: steps since the start of training. Source: published code for Food-101, not in the paper.
    """
    return lr * t / warm_up if t < warm_up else lr * gamma ** (t // every)


def scheduled(
    step: Callable[[int], dict[str, Tensor]], optimizer: torch.optim.Optimizer, rate: Callable[[int], float]
) -> Callable[[int], dict[str, Tensor]]:
    """`step` with the optimiser's learning rate set to `rate(t)` at step t, which is `lr` in its logs.

    Afterwards it is that of step t + 1, as schedulers leave it: a checkpoint's optimiser says how it would go on.
    """

    def use(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    def scheduled_step(t: int) -> dict[str, Tensor]:
        use(rate(t))
        logs = step(t)
        use(rate(t + 1))
        return logs | {"lr": torch.full_like(logs["loss"], rate(t))}

    return scheduled_step

"""A learning rate that is a function of the step: nothing to save, nothing to rewind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from methods.method import Logs, Step


def warm_up_then_steps(t: int, lr: float, gamma: float, warm_up: int, every: int) -> float:
    """From 0 to `lr`, linearly over the first `warm_up` steps; then lr gamma^k, k = whole multiples of `every` in t.

    t, warm_up, every: steps since the start of training. Source: published code for Food-101, not in the paper.
    """
    return lr * t / warm_up if t < warm_up else lr * gamma ** (t // every)


def draw_rates(rate: Callable[[int], float]) -> Callable[[int, int], dict[str, np.ndarray]]:
    """Numbers of step t for `scheduled`: lr and next_lr (), float64, the rates of this step and of the next one."""
    return lambda t, rows: {"lr": np.array(rate(t)), "next_lr": np.array(rate(t + 1))}


def scheduled(step: Step, optimizer: torch.optim.Optimizer) -> Step:
    """`step` with the optimiser's learning rate set to `lr` of the batch's numbers, which must lie on the host.

    `lr` is in its logs, too. Afterwards the rate is `next_lr`, as schedulers leave it: a checkpoint's optimiser says
    how it would go on.
    """

    def use(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    def scheduled_step(batch: Any) -> Logs:
        now, after = (batch.numbers[name].item() for name in ("lr", "next_lr"))
        use(now)
        logs = step(batch)
        use(after)
        return logs | {"lr": torch.full_like(logs["loss"], now)}

    return scheduled_step

"""One epoch of training: its steps, and what they add up to. Knows no method.

Shape legend: logs are 0-d tensors on the device, and counts (rows, C) of pseudo-labels; K steps per epoch, C classes.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.log import Progress, Row
from utils.errors import UserError
from utils.ranks import mean_over_ranks, rank, world_size


class Sums:
    """An epoch so far: `step`, how many of its steps are done, and the sums of their logs.

    Of the first step whose logs aren't all numbers, its number and its logs are kept on the device; nothing reads them
    before `check` does.
    """

    def __init__(self, step: int = 0, totals: dict[str, Tensor] | None = None) -> None:
        totals = dict(totals or {})
        self.step, self.counts, self.names = step, totals.pop("pseudo", None), tuple(totals)
        self.values = torch.stack([*totals.values()]) if totals else None  # of the 0-d logs, one vector
        self.bad: tuple[Tensor, Tensor] | None = None  # number of the step, -1: none; its 0-d logs

    def add(self, logs: dict[str, Tensor]) -> None:
        """The logs of the next step. Never waits for the device."""
        scalars = {name: value.detach() for name, value in logs.items() if value.ndim == 0}
        values = torch.stack([*scalars.values()])
        if self.names and self.names != tuple(scalars):  # of a checkpoint
            before = self.totals()
            self.values = torch.stack([before.get(name, torch.zeros(())) for name in scalars])
        self.names, self.values = tuple(scalars), _sum(self.values, values)
        if "pseudo" in logs:
            self.counts = _sum(self.counts, logs["pseudo"])
        self.step += 1
        if self.bad is None:
            self.bad = values.new_full((), -1), values
        number, terms = self.bad
        first = (number < 0) & ~values.isfinite().all()
        self.bad = torch.where(first, self.step, number), torch.where(first, values, terms)

    @property
    def cheap(self) -> bool:
        """Whether a read waits for nothing."""
        return self.bad is not None and self.bad[0].device.type == "cpu"

    def check(self, n: int, args: Namespace) -> None:
        """Raise UserError if a step of this epoch, n, gave something else than numbers. Reads the device."""
        if self.bad is None or (step := int(self.bad[0])) < 0:
            return
        terms = zip(self.names, self.bad[1].tolist(), strict=True)
        text = ", ".join(f"{name} {value:.4g}" for name, value in terms)
        raise UserError(f"{rates(args)}: not a number in step {step} of epoch {n} ({text}); {remedy(n)}")

    def totals(self) -> dict[str, Tensor]:
        """The sums by name, for a checkpoint: 0-d ones, and the counts of pseudo-labels as `pseudo`."""
        scalars = {} if self.values is None else dict(zip(self.names, self.values.unbind(), strict=True))
        return scalars if self.counts is None else scalars | {"pseudo": self.counts}

    def means(self) -> dict[str, float]:
        """Means of the 0-d logs over the steps so far, as numbers, in one read of the device."""
        return dict(zip(self.names, (self.values / self.step).tolist(), strict=True))

    def row(self) -> Row:
        """Of the whole epoch, over all ranks: the means, `train`, and the sums of the counts of the pseudo-labels,
        `counts` (absent for a method without any)."""
        mean_over_ranks([self.values])
        if self.counts is None:
            return {"train": self.means()}
        share = self.counts.double()
        mean_over_ranks([share])
        return {"train": self.means(), "counts": (share * world_size()).round().long().cpu()}


def _sum(total: Tensor | None, value: Tensor) -> Tensor:
    """total + value; total may come from a checkpoint, on the CPU. A new tensor: the next step overwrites its logs."""
    return value.clone() if total is None else total.to(value.device) + value


def so_far(checkpoint: dict[str, Any]) -> Sums:
    """What a checkpoint has of an epoch that isn't whole. Counts, which `row` sums over the ranks, go to rank 0."""
    totals = dict(checkpoint.get("totals", {}))
    if rank() and "pseudo" in totals:
        totals["pseudo"] = torch.zeros_like(totals["pseudo"])
    return Sums(checkpoint.get("step", 0), totals)


def rates(args: Namespace) -> str:
    """The flags that name learning rates, with their values. (A schedule's rate is among the logs.)"""
    return ", ".join(f"--{name} {getattr(args, name):g}" for name in ("lr", "lr_tfe") if name in args)


def remedy(n: int) -> str:
    """What to do where epoch n goes wrong."""
    kept = f"; the checkpoint is of before, epoch {n - 1}" if n > 1 else ""
    return f"start anew with a lower learning rate{kept}"


def train_epoch(
    step: Callable[[int], dict[str, Tensor]],
    n: int,
    args: Namespace,
    progress: Progress,
    sums: Sums,
    check: Callable[[], None] = lambda: None,
) -> None:
    """The steps of epoch n (from 1) that `sums` lacks, K in all, on all ranks; adds their logs to it.

    check: called after each step, may raise. Raises UserError if a log isn't a number: on the CPU after that step,
    elsewhere when the bar is read, and at the epoch's end.
    """
    for i in range(sums.step, args.val_iteration):
        t = (n - 1) * args.val_iteration + i
        logs = step(t)
        sums.add(logs)
        if sums.cheap:
            sums.check(n, args)
        progress.step(t + 1, partial(_read, sums, n, args))
        check()
    sums.check(n, args)


def _read(sums: Sums, n: int, args: Namespace) -> dict[str, float]:
    sums.check(n, args)
    return sums.means()

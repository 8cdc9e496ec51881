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
from utils.seeding import fold_in


class Sums:
    """An epoch so far: `step`, how many of its steps are done, and `totals`, the sums of their logs, by name.

    Of the first step whose logs aren't all numbers, its number and its logs are kept on the device; nothing reads them
    before `check` does.
    """

    def __init__(self, step: int = 0, totals: dict[str, Tensor] | None = None) -> None:
        self.step, self.totals = step, totals or {}
        self.bad: tuple[Tensor, Tensor] | None = None  # number of the step, -1: none; its 0-d logs

    def add(self, logs: dict[str, Tensor]) -> None:
        """The logs of the next step. Never waits for the device."""
        for name, value in logs.items():
            so_far = self.totals[name].to(value.device) if name in self.totals else 0  # from a checkpoint: on the CPU
            self.totals[name] = so_far + value.detach()
        self.step += 1
        values = torch.stack([value.detach() for value in logs.values() if value.ndim == 0])
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
        terms = zip(self.scalars(), self.bad[1].tolist(), strict=True)
        text = ", ".join(f"{name} {value:.4g}" for name, value in terms)
        raise UserError(f"{rates(args)}: not a number in step {step} of epoch {n} ({text}); {remedy(n)}")

    def scalars(self) -> dict[str, Tensor]:
        return {name: total for name, total in self.totals.items() if total.ndim == 0}

    def means(self) -> dict[str, float]:
        """Means of the 0-d logs over the steps so far, as numbers, in one read of the device."""
        totals = self.scalars()
        return dict(zip(totals, (torch.stack(list(totals.values())) / self.step).tolist(), strict=True))

    def row(self) -> Row:
        """Of the whole epoch, over all ranks: the means, `train`, and the sums of the counts of the pseudo-labels,
        `counts` (absent for a method without any)."""
        mean_over_ranks(list(self.scalars().values()))
        if "pseudo" not in self.totals:
            return {"train": self.means()}
        share = self.totals["pseudo"].double()
        mean_over_ranks([share])
        return {"train": self.means(), "counts": (share * world_size()).round().long().cpu()}


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


def own(name: str) -> str:
    """The name of a stream of random numbers that is this rank's own; rank 0 has that of a run without torchrun."""
    return f"{name}, rank {rank()}" if rank() else name


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
        torch.manual_seed(fold_in(args.manualSeed, own("step"), t))
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

"""What the steps of an epoch add up to.

Shape legend: logs are 0-d tensors on the device, and counts (rows, C) of pseudo-labels; C classes.
"""

from typing import Any

import torch
from torch import Tensor

from methods.pseudo_labels import ROWS
from utils.errors import UserError
from utils.ranks import mean_over_ranks, rank, world_size


class Totals:
    """An epoch so far: `step`, how many of its steps are done, and the sums of their logs.

    The sums are changed in place, so that a step which is one CUDA graph adds to them, too. Of the first step whose
    logs aren't all numbers, its logs and the number of steps before it are kept on the device; nothing reads them
    before `check` does.
    """

    def __init__(self, step: int = 0, totals: dict[str, Tensor] | None = None) -> None:
        totals = dict(totals or {})
        self.step, self.counts, self.names = step, totals.pop("pseudo", None), tuple(totals)
        self.values = torch.stack([*totals.values()]) if totals else torch.empty(0)  # of the 0-d logs, one vector
        # Whether all steps so far gave numbers, bool; how many did before the first that didn't; that one's 0-d logs.
        self.finite: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, logs: dict[str, Tensor]) -> None:
        """The logs of the next step, which the caller counts in `step`. Never waits for the device, and after the first
        call takes nothing from the host.
        """
        scalars = {name: value.detach() for name, value in logs.items() if value.ndim == 0}
        values, counts = torch.stack([*scalars.values()]), logs.get("pseudo")
        if self.finite is None:
            self._begin(tuple(scalars), values, counts)
        assert self.finite is not None
        all_finite, good, terms = self.finite
        self.values += values
        if self.counts is not None and counts is not None:
            self.counts += counts
        torch.where(all_finite, values, terms, out=terms)
        all_finite &= (0 * values).sum() == 0
        good += all_finite

    def _begin(self, names: tuple[str, ...], values: Tensor, counts: Tensor | None) -> None:
        """Before the first step here, whose logs these are: sums on its device, those of a checkpoint or zeros."""
        before = self.totals()
        self.names, zero = names, torch.zeros((), dtype=values.dtype)
        self.values = torch.stack([before.get(name, zero) for name in names]).to(values)
        if counts is not None:
            self.counts = torch.zeros_like(counts) if self.counts is None else self.counts.to(counts, copy=True)
        good = torch.full((), self.step, device=values.device)
        self.finite = torch.ones((), dtype=torch.bool, device=values.device), good, values.clone()

    def restart(self) -> None:
        """The next epoch begins."""
        self.step = 0
        for sums in (self.values, self.counts, *(self.finite or ())):
            if sums is not None:
                sums.zero_()
        if self.finite is not None:
            self.finite[0].fill_(True)

    @property
    def cheap(self) -> bool:
        """Whether a read waits for nothing."""
        return self.finite is not None and self.finite[0].device.type == "cpu"

    def check(self, n: int, rates: str) -> None:
        """Raise UserError, which names the learning `rates`, if a step of this epoch, n, gave something else than
        numbers. Reads the device.
        """
        if self.finite is None or (good := int(self.finite[1])) == self.step:
            return
        terms = zip(self.names, self.finite[2].tolist(), strict=True)
        text = ", ".join(f"{name} {value:.4g}" for name, value in terms)
        raise UserError(f"{rates}: not a number in step {good + 1} of epoch {n} ({text}); {remedy(n)}")

    def totals(self) -> dict[str, Tensor]:
        """The sums by name, for a checkpoint: 0-d ones, and the counts of pseudo-labels as `pseudo`."""
        scalars = dict(zip(self.names, self.values.unbind(), strict=True))
        return scalars if self.counts is None else scalars | {"pseudo": self.counts}

    def means(self) -> dict[str, float]:
        """Means of the 0-d logs over the steps so far, as numbers, in one read of the device. That of `acc_selected` is
        over the selected images, and 0 where there is none (published code).
        """
        means = self.values / self.step
        if "acc_selected" in self.names and self.counts is not None:
            selected, right = (self.counts[ROWS.index(name)].sum() for name in ("selected", "right_selected"))
            means[self.names.index("acc_selected")] = right / selected.clamp(min=1)
        numbers: list[float] = means.tolist()
        return dict(zip(self.names, numbers, strict=True))

    def over_ranks(self) -> tuple[dict[str, float], Tensor | None]:
        """Of the whole epoch, over all ranks: its `means`, and the sums of the counts of pseudo-labels, int64 (rows, C)
        on the host, None for a method without any.
        """
        mean_over_ranks([self.values])
        if self.counts is None:
            return self.means(), None
        share = self.counts.double()
        mean_over_ranks([share])
        self.counts.copy_((share * world_size()).round())
        return self.means(), self.counts.cpu().clone()


def totals_of(checkpoint: dict[str, Any]) -> Totals:
    """What a checkpoint has of an epoch that isn't whole. Counts, which are summed over the ranks, go to rank 0."""
    totals = dict(checkpoint.get("totals", {}))
    if rank() and "pseudo" in totals:
        totals["pseudo"] = torch.zeros_like(totals["pseudo"])
    return Totals(checkpoint.get("step", 0), totals)


def remedy(n: int) -> str:
    """What to do where epoch n goes wrong."""
    kept = f"; the checkpoint is of before, epoch {n - 1}" if n > 1 else ""
    return f"start anew with a lower learning rate{kept}"

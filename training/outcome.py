"""What came out of a finished run, in words."""

import math
from typing import Any

import torch

from dataset.held_out import HELD_OUT, TEST
from training.schema import History

_FEW, _LONG = 0.01, 5  # share of the pseudo-labels that is as good as none; epochs

WHERE = {TEST: "the test set", HELD_OUT: "the held-out part itself"}


def outcome(summary: dict[str, Any]) -> str:
    """The last printed lines, out of what `summary.json` says of a finished run."""
    last, mean, best = summary["last_epoch"], summary["last_20_mean"], summary["best"]
    n, on = summary["epochs_averaged"], summary.get("evaluated_on", TEST)
    name = "balanced accuracy" if on == TEST else f"{on} balanced accuracy"
    lines = (
        f"last epoch: {name} {last['balanced']:.2f} %, {_others(last)}\n"
        f"mean {name} of the last {n} {'epoch' if n == 1 else 'epochs'}: {mean['balanced']:.2f} % "
        f"(best {best['balanced']:.2f} % in epoch {best['epoch']}, chosen on {WHERE[on]}), {_others(mean)}"
    )
    if chosen := summary.get("chosen"):
        place = f"epoch {chosen['epoch']}, chosen on the held-out part"
        lines += f"\n{place}: {name} {chosen['balanced']:.2f} % on the test set, {_others(chosen)}"
    return lines


def hardly_any_selected(history: History) -> bool:
    """Whether a method that selects its pseudo-labels has used less than 1 % of them in each of five epochs."""
    mask = history["train"].get("mask", torch.empty(0))[-_LONG:]
    return len(mask) == _LONG and bool((mask < _FEW).all())


def _others(figures: dict[str, Any]) -> str:
    """What is told beside balanced accuracy; top-1 is the same on a balanced test set."""
    words = f"geometric mean {figures['gm']:.2f} %"
    same = math.isclose(figures["top1"], figures["balanced"], abs_tol=1e-6)
    return words if same else f"{words}, top-1 {figures['top1']:.2f} %"

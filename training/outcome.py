"""What came out of a finished run, in words."""

import math
from typing import Any

import torch

from dataset.held_out import HELD_OUT, TEST
from methods.pseudo_labels import ROWS
from training.schema import Facts, History
from utils.text import printable

_FEW, _SHORT, _LONG = 0.01, 3, 5  # share of the pseudo-labels that is as good as none; epochs
_NEARLY_ALL = 0.9  # share of the pseudo-labels

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


def doubts(history: History, facts: Facts, tau: float | None, epochs: int) -> list[str]:
    """What is wrong with the pseudo-labels, a line each: hardly any used in five epochs, or all of a run of three or
    four, by a method that selects them; nearly all of one class in five; a collapsed estimate of their distribution.
    tau, epochs: of the flags.
    """
    found, train, n = list[str](), history["train"], max(_SHORT, min(_LONG, epochs))
    mask = train.get("mask", torch.empty(0))[-n:]
    if len(mask) == n and bool((mask < _FEW).all()):
        words = f"in the last {n} epochs less than 1 % of the pseudo-labels were used"
        found.append(f"--tau {tau}: {words}; lower --tau, or train longer")
    counts, labelled = history.get("counts", torch.empty(0))[-_LONG:], torch.tensor(facts["labelled_counts"]).double()
    if len(counts) == _LONG and (labelled / labelled.sum()).max() <= _NEARLY_ALL:
        guessed, used = (counts[:, ROWS.index(name)].double() for name in ("guessed", "selected"))
        enough = used.sum(dim=1) >= _FEW * guessed.sum(dim=1)
        if (enough & (used.amax(dim=1) > _NEARLY_ALL * used.sum(dim=1))).all():
            name = printable(facts["classes"][int(used[-1].argmax())])
            found.append(
                f"in the last {_LONG} epochs more than 90 % of the pseudo-labels used were of one class, {name}"
            )
    if "prior_collapsed" in train and train["prior_collapsed"][-1] > 0:  # for a step or more
        problem = "the estimated class distribution of the unlabelled images has collapsed, and was not relied on"
        found.append(f"{problem}; give a longer --warm_prior, or another method")
    return found


def _others(figures: dict[str, Any]) -> str:
    """What is told beside balanced accuracy; top-1 is the same on a balanced test set."""
    words = f"geometric mean {figures['gm']:.2f} %"
    same = math.isclose(figures["top1"], figures["balanced"], abs_tol=1e-6)
    return words if same else f"{words}, top-1 {figures['top1']:.2f} %"

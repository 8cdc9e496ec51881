"""What a run tells of its pseudo-labels and of its test figures per class: columns of the log, and `diagnostics.npz`.

Shape legend: C classes, E epochs; counts (K, C) are the sums over an epoch of `methods.pseudo_labels.tally`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.pseudo_labels import ROWS
from training.schema import Facts, History
from utils.files import replacing
from utils.metrics import mean_of, thirds


def shares(counts: Tensor, selects: bool = True) -> dict[str, Tensor]:
    """Percentages per class, float64 (..., C), NaN where undefined, of counts (..., K, C).

    mask_rate: of the guesses of a class, those that the loss used; left out unless the method `selects`. Where the
    truth is known: precision, of these, those that were right; recall, of the images of a class, those with a right
    guess that the loss used.
    """
    named = dict(zip(ROWS, counts.double().unbind(-2), strict=False))
    figures = {"mask_rate": named["selected"] / named["guessed"]} if selects else {}
    if "present" in named:
        figures["precision"] = named["right_selected"] / named["selected"]
        figures["recall"] = named["right_selected"] / named["present"]
    return {name: 100 * value for name, value in figures.items()}


def selects(logs: Mapping[str, Any]) -> bool:
    """Whether the method with these logs uses only some of its guesses: see `pseudo_labels.quality`."""
    return "mask" in logs


def divergence(guessed: Tensor, true: Tensor) -> Tensor:
    """Kullback-Leibler divergence () in nats of the distribution of the guesses from the true one; counts (C,) of both.

    One image is added to each true class, so that guesses of a class without images cost a finite amount.
    """
    p, q = guessed / guessed.sum(), (true + 1) / (true + 1).sum()
    return (p.xlogy(p) - p.xlogy(q)).sum()


def pseudo_columns(counts: Tensor, facts: Facts, selects: bool = True) -> dict[str, float]:
    """What an epoch's log says of its pseudo-labels: `pl_mask_many`, ..., `pl_precision_...`, `pl_recall_...`, means of
    `shares` over the classes by training frequency where they are defined, and `pl_kl`, the divergence of those that
    the loss used from the unlabelled set.

    facts: of the data, with `labelled_counts` and `unlabelled_counts`; what isn't known is left out, and `pl_mask_...`
    for a method that uses all its guesses.
    """
    groups = thirds(torch.tensor(facts["labelled_counts"]))
    figures = {
        f"pl_{name.removesuffix('_rate')}_{group}": float(mean_of(values, chosen & ~values.isnan()))
        for name, values in shares(counts, selects).items()
        for group, chosen in groups.items()
    }
    if facts["unlabelled_counts"] is not None:
        selected, true = counts[ROWS.index("selected")].double(), torch.tensor(facts["unlabelled_counts"])
        figures["pl_kl"] = float(divergence(selected, true.double()))
    return figures


def write_diagnostics(path: Path, history: History, last: int) -> None:
    """Write NumPy arrays: the counts, int64 (E, C), by the names of `methods.pseudo_labels.ROWS`; their `shares` (E, C)
    in percent (without `mask_rate` for a method that uses all its guesses); `epoch` (E,); `test_recall` (E, C) in
    percent; and the `confusion` (C, C) of the last epoch.

    history: of epochs, the latest of which is `last`.
    """
    recall = history["test"]["recall"].numpy()
    arrays: dict[str, Any] = {"epoch": np.arange(last - len(recall), last) + 1, "test_recall": recall}
    arrays["confusion"] = history["confusion"].numpy()
    if "counts" in history:
        counts = history["counts"]
        named = dict(zip(ROWS, counts.unbind(1), strict=False)) | shares(counts, selects(history["train"]))
        arrays |= {name: value.numpy() for name, value in named.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)

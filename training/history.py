"""The history of a run, a row per epoch (see training.schema): `log.txt`, and the figures of `summary.json`.

Shape legend: C classes.
"""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from training.schema import Row
from utils.files import atomic_write_text, jsonable

SCALARS = ("loss", "top1", "balanced", "gm", "many", "medium", "few", "ece")
LOWEST = ("loss", "ece")  # of these the lowest is the best


def log_columns(row: Row) -> dict[str, float]:
    """The figures of an epoch by their names in `log.txt`; the test set's loss is `test_loss`."""
    test: dict[str, Any] = {name: value for name, value in row["test"].items() if name != "recall"}
    return row["train"] | {"test_loss": test.pop("loss")} | test | row.get("pseudo", {})


def write_log(path: Path, history: Sequence[Row], last: int) -> None:
    """Tab-separated, a header and a line per epoch up to `last`; written anew, so that it is whole at any moment."""
    lines = ["\t".join(["epoch", *log_columns(history[-1])])]
    for epoch, row in enumerate(history, last - len(history) + 1):
        lines.append("\t".join([str(epoch), *(f"{figure:.6g}" for figure in log_columns(row).values())]))
    atomic_write_text(path, "\n".join(lines) + "\n")


def averaged_epochs(epochs: int) -> int:
    """Over how many of a run's last epochs its figures are averaged: the published 20, or a fifth of a shorter run, so
    that its climb stays out of the mean; at least 1.
    """
    return max(1, min(20, epochs // 5))


def summarise(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the last epochs, which is what published results are, the last epoch, and the best one.

    history: per epoch the figures in percent (loss: nats) and `recall`, a list of C percentages or None.
    Returns `epochs_averaged`, see `averaged_epochs`; `last_20_mean` over these; `last_epoch`; and `best`: the best
    value of each figure, whichever epoch it is from, the `epoch` (from 1) of the best balanced accuracy and the
    `recall` of that epoch. Undefined figures are None, so are all three parts before the first epoch.
    """
    if not history:
        return {"epochs_averaged": 0, "last_20_mean": None, "last_epoch": None, "best": None}
    tail = history[-averaged_epochs(len(history)) :]
    # float64 arrays turn None into NaN, and `jsonable` turns it back.
    scalars = {name: np.array([epoch[name] for epoch in history], dtype=float) for name in SCALARS}
    recalls = np.array([epoch["recall"] for epoch in tail], dtype=float)
    mean: dict[str, Any] = {name: values[-len(tail) :].mean() for name, values in scalars.items()}
    best = {name: _best(values, lowest=name in LOWEST) for name, values in scalars.items()}
    top = best["balanced"]
    highest: dict[str, Any] = {name: scalars[name][index] for name, index in best.items()}
    summary: dict[str, Any] = {
        "epochs_averaged": len(tail),
        "last_20_mean": mean | {"recall": recalls.mean(axis=0).tolist()},
        "last_epoch": {name: history[-1][name] for name in (*SCALARS, "recall")},
        "best": highest | {"recall": history[top]["recall"], "epoch": top + 1},
    }
    found: dict[str, Any] = jsonable(summary)
    return found


def _best(values: np.ndarray, lowest: bool) -> int:
    """Index of the first best entry; NaN (a diverged epoch) never wins over a number."""
    return int(np.argmax(np.nan_to_num(-values if lowest else values, nan=-np.inf)))


def versions() -> dict[str, str | int | None]:
    """Versions of what decides a run's numbers (None: not installed), and the machine: its kind, its CPUs."""
    packages = {name: _version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    machine = {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()}
    return {"python": platform.python_version()} | packages | machine


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

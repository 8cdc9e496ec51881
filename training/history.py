"""The history of a run, a tensor per figure (see training.schema): `log.txt`, and the figures of `summary.json`.

Shape legend: E epochs, C classes.
"""

import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.schema import History, Row
from utils.files import atomic_write_text, jsonable

SCALARS = ("loss", "top1", "balanced", "gm", "many", "medium", "few", "ece")
LOWEST = ("loss", "ece")  # of these the lowest is the best


def length(history: History | None) -> int:
    """The number of epochs E."""
    return 0 if history is None else len(history["test"]["loss"])


def extended(history: History | None, row: Row) -> History:
    """The history with one more epoch, in new tensors. It has the figures of that epoch; of one that is new, those of
    the epochs before are NaN.
    """
    before: Any = history or {}
    unknown = torch.full((length(history),), math.nan, dtype=torch.float64)
    longer: Any = {"confusion": row["confusion"]}
    for part, figures in row.items():
        if isinstance(figures, dict):
            columns = before.get(part, {})
            # An array turns None into NaN.
            rows = {name: torch.from_numpy(np.array([value], dtype=float)) for name, value in figures.items()}
            longer[part] = {name: torch.cat([columns.get(name, unknown), value]) for name, value in rows.items()}
    if "counts" in row:
        counts = row["counts"][None]
        longer["counts"] = torch.cat([before["counts"], counts]) if before else counts
    found: History = longer
    return found


def log_columns(row: Row | History) -> dict[str, Any]:
    """The figures of an epoch, or of all, by their names in `log.txt`; the test set's loss is `test_loss`, and figures
    of the held-out part beside it are `held_out_NAME`.
    """
    test: dict[str, Any] = {name: value for name, value in row["test"].items() if name != "recall"}
    held_out = {f"held_out_{name}": value for name, value in row.get("held_out", {}).items() if name != "recall"}
    return {**row["train"], "test_loss": test.pop("loss"), **test, **held_out, **row.get("pseudo", {})}


class Log:
    """`log.txt`: tab-separated, a header and a line per epoch, each of which is made once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def write(self, history: History, last: int) -> None:
        """The epochs up to `last`; the file is written anew, so that it is whole at any moment."""
        columns = log_columns(history)
        header = "\t".join(["epoch", *columns])
        if self.lines[:1] != [header]:
            self.lines = [header]
        done = len(self.lines) - 1
        epochs = range(last - length(history) + 1 + done, last + 1)
        for epoch, *figures in zip(epochs, *(column[done:].tolist() for column in columns.values()), strict=True):
            self.lines.append("\t".join([str(epoch), *(f"{figure:.6g}" for figure in figures)]))
        atomic_write_text(self.path, "\n".join(self.lines) + "\n")


def averaged_epochs(epochs: int) -> int:
    """Over how many of a run's last epochs its figures are averaged: the published 20, or a fifth of a shorter run, so
    that its climb stays out of the mean; at least 1.
    """
    return max(1, min(20, epochs // 5))


def summarise(history: History | None) -> dict[str, Any]:
    """The mean over the last epochs, which is what published results are, the last epoch, and the best one.

    Returns, of the test figures in percent (loss: nats) and `recall`, a list of C percentages: `epochs_averaged`, see
    `averaged_epochs`; `last_20_mean` over these; `last_epoch`; and `best`: the best value of each figure, whichever
    epoch it is from, the `epoch` (from 1) of the best balanced accuracy and the `recall` of that epoch; and where a
    held-out part is beside the test set `chosen`: `chosen_epoch` likewise. Undefined figures are None, so are the first
    three parts before the first epoch.
    """
    if history is None:
        return {"epochs_averaged": 0, "last_20_mean": None, "last_epoch": None, "best": None}
    columns = {name: history["test"][name].numpy() for name in (*SCALARS, "recall")}
    n = averaged_epochs(length(history))
    best = {name: _best(columns[name], lowest=name in LOWEST) for name in SCALARS}
    top = best["balanced"]
    summary: dict[str, Any] = {
        "epochs_averaged": n,
        "last_20_mean": {name: values[-n:].mean(axis=0).tolist() for name, values in columns.items()},
        "last_epoch": {name: values[-1].tolist() for name, values in columns.items()},
        "best": {name: columns[name][index].tolist() for name, index in (best | {"recall": top}).items()},
    }
    summary["best"]["epoch"] = top + 1
    if "held_out" in history:
        n = chosen_epoch(history)
        summary["chosen"] = {name: values[n].tolist() for name, values in columns.items()} | {"epoch": n + 1}
    found: dict[str, Any] = jsonable(summary)
    return found


def chosen_epoch(history: History) -> int:
    """Index of the epoch of the highest balanced accuracy on the held-out part, of equal ones the first. Where that is
    evaluated as the test set, these are the test figures.
    """
    return _best(history.get("held_out", history["test"])["balanced"].numpy(), lowest=False)


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

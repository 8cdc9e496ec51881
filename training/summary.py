"""What a finished run leaves in `summary.json`: its figures over the epochs, and the versions it ran with.

Shape legend: C classes; a history holds one dict per epoch, with at least the keys of `metrics.evaluate`.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from utils.files import jsonable

SCALARS = ("loss", "top1", "balanced", "gm", "many", "medium", "few", "ece")
LOWEST = ("loss", "ece")  # of these the lowest is the best


def summarise(history: list[dict[str, Any]], last: int = 20) -> dict[str, Any]:
    """The mean over the last epochs, which is what published results are, and the best epoch.

    history: per epoch the figures in percent (loss: nats) and `recall`, a list of C percentages or None. Epochs of
    older versions lack `ece`, which then is undefined.
    Returns `epochs`; `epochs_averaged` (fewer than `last` in a short run); `last_20_mean`; and `best`: the
    best value of each figure, whichever epoch it is from, the `epoch` (from 1) of the best balanced accuracy
    and the `recall` of that epoch. Undefined figures are None. Raises ValueError for an empty history.
    """
    if not history:
        raise ValueError("no epoch to summarise")
    tail = history[-last:]
    # float64 arrays turn None into NaN, and `jsonable` turns it back.
    scalars = {name: np.array([epoch.get(name) for epoch in history], dtype=float) for name in SCALARS}
    recalls = np.array([epoch["recall"] for epoch in tail], dtype=float)
    mean = {name: values[-last:].mean() for name, values in scalars.items()}
    best = {name: _best(values, lowest=name in LOWEST) for name, values in scalars.items()}
    top = best["balanced"]
    summary = {
        "epochs": len(history),
        "epochs_averaged": len(tail),
        f"last_{last}_mean": mean | {"recall": recalls.mean(axis=0).tolist()},
        "best": {name: scalars[name][index] for name, index in best.items()}
        | {"recall": history[top]["recall"], "epoch": top + 1},
    }
    return jsonable(summary)


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

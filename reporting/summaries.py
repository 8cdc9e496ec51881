"""What the report takes from a run's `summary.json`, checked; and the like of it for the published code's folders.

Shape legend: E epochs, C classes.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from reporting.origin import method_of
from training.summary import SCALARS

NEEDED = ("method", "classes", "labelled_counts", "epochs_averaged", "last_20_mean", "best")
KINDS = {
    "method": str,
    "classes": list,
    "labelled_counts": list,
    "last_20_mean": dict,
    "best": dict,
    "arguments": dict,
    "versions": dict,
    "start_epoch": int,
    "wall_seconds": (int, float),
    "epochs": int,
    "epochs_averaged": int,
}
PUBLISHED = "(published code)"  # ends its methods' names
RECIPES = {"fix": "FixMatch", "mix": "MixMatch", "remix": "ReMixMatch"}  # as the names of scripts call the methods
NUMBERS = (
    "manualSeed",
    "epochs",
    "num_max",
    "ratio",
    "imb_ratio_l",
    "imb_ratio_u",
    "labeled_percent",
    "img_size",
)


def read_summary(path: Path) -> dict[str, Any]:
    """Raises ValueError, with the rest of a sentence about the file, where it is not what a finished run leaves."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)  # which NaN, not JSON, is not
    except (OSError, ValueError, RecursionError):
        raise ValueError("is not readable JSON") from None
    if not isinstance(summary, dict):
        raise ValueError("is not that of a run")
    if missing := [name for name in NEEDED if summary.get(name) is None]:
        raise ValueError(f"lacks {', '.join(missing)}")
    summary = {name: value for name, value in summary.items() if value is not None}
    if name := damaged(summary):
        raise ValueError(f"is damaged, see its {name}")
    for part in ("last_20_mean", "best"):
        summary[part].setdefault("ece", None)  # which runs of older versions lack
        if not all(key in summary[part] and _number(summary[part][key]) for key in SCALARS):
            raise ValueError(f"is damaged, see its figures of {part}")
        if not _numbers(summary[part].get("recall"), len(summary["classes"])):
            raise ValueError(f"is damaged, see its recall of {part}")
    return summary


def damaged(about: dict[str, Any]) -> str | None:
    """The first entry, of those that the report calculates with, that can't be a run's; absent ones are no damage."""
    given = {name: about[name] for name in KINDS if about.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, KINDS[name]) or (not isinstance(value, (str, list, dict)) and not _number(value)):
            return name
    classes, counts = given.get("classes", []), given.get("labelled_counts")
    if not all(isinstance(name, str) for name in classes):
        return "classes"
    if counts is not None and not (_numbers(counts, len(classes)) and all(isinstance(n, int) for n in counts)):
        return "labelled_counts"
    arguments = given.get("arguments", {})
    return next((f"argument {name}" for name in NUMBERS if not _number(arguments.get(name))), None)


def read_arguments(path: Path, problems: list[str]) -> dict[str, Any]:
    """What the user tells of a folder of the published code, whose files don't: `arguments`, by our names, and from its
    `recipe` the `method`; empty without the file. Appends to `problems` if the file can't be used.
    """
    if not path.exists():
        return {}
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)
    except (OSError, ValueError, RecursionError):
        problems.append(f"{path.name} is not readable JSON")
        return {}
    if not isinstance(arguments, dict) or any(isinstance(value, (dict, list)) for value in arguments.values()):
        problems.append(f"{path.name} is not a value for each argument")
        return {}
    told = {"arguments": arguments, "start_epoch": arguments.pop("start_epoch", None)}
    if name := damaged(told):
        problems.append(f"{path.name} is damaged, see its {name}")
        return {}
    parts = str(arguments.get("recipe", "")).removesuffix(".py").split("_")
    method = next((name for part, name in RECIPES.items() if part in parts), None)
    return told | ({"method": f"{method}{'+CoSSL' * ('cossl' in parts)} {PUBLISHED}"} if method else {})


def _number(value: Any) -> bool:
    """Whether it is a number, none (undefined figures are) included; no run has one of 10^12."""
    return value is None or (type(value) in (int, float) and abs(value) < 1e12)


def _numbers(values: Any, length: int) -> bool:
    return isinstance(values, list) and len(values) == length and all(map(_number, values))


def published_summary(columns: dict[str, list[float]], state: dict[str, Any]) -> dict[str, Any]:
    """The same for a folder of the published code, from its log's columns (E,) and the keys of its checkpoint.

    It doesn't tell its arguments; figures that its log lacks are None, all of them where it has no accuracies.
    """
    network = state["state_dict"] if isinstance(state.get("state_dict"), dict) else {}
    weights = [network[key] for key in ("output.weight", "fc.weight") if key in network]
    classes = weights[0].shape[0] if weights else 0
    last, best = (dict.fromkeys(SCALARS) | {"recall": [None] * classes} for _ in range(2))
    for name, column in {"top1": "top1", "gm": "gm", "loss": "test_loss"}.items():
        if values := columns.get(column):
            last[name] = fmean(values[-20:])
            best[name] = min(values) if name == "loss" else max(values)
    epochs = len(columns.get("epoch", []))
    return {
        "method": f"{method_of(state) if state else 'unknown method'} {PUBLISHED}",
        "classes": [str(c) for c in range(classes)],
        "labelled_counts": None,
        "epochs": state.get("epoch", epochs),
        "epochs_averaged": min(20, epochs),
        "last_20_mean": last,
        "best": best,
    }

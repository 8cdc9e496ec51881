"""What the report takes from a run's `summary.json`, checked; and the like of it for the published code's folders.

Shape legend: E epochs, C classes.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from utils.summary import SCALARS

KINDS = {
    "method": str, "classes": list, "labelled_counts": list, "epochs_averaged": int, "last_20_mean": dict, "best": dict,
}  # fmt: skip
NUMBERS = (
    "manualSeed", "epochs", "num_max", "ratio", "imb_ratio_l", "imb_ratio_u", "labeled_percent", "img_size",
)  # fmt: skip
OPTIONAL = {"arguments": dict, "versions": dict, "start_epoch": int, "wall_seconds": (int, float), "epochs": int}


def read_summary(path: Path) -> dict[str, Any]:
    """Raises ValueError, with the rest of a sentence about the file, where it is not what a finished run leaves."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)  # which NaN, not JSON, is not
    except (OSError, ValueError, RecursionError):
        raise ValueError("is not readable JSON") from None
    if not isinstance(summary, dict):
        raise ValueError("is not that of a run")
    if missing := [name for name in KINDS if name not in summary]:
        raise ValueError(f"lacks {', '.join(missing)}")
    given = {name: kind for name, kind in (KINDS | OPTIONAL).items() if summary.get(name) is not None}
    if wrong := [name for name, kind in given.items() if not isinstance(summary[name], kind)]:
        raise ValueError(f"is damaged, see its {', '.join(wrong)}")
    if not sound(summary.get("arguments") or {}):
        raise ValueError("is damaged, see its arguments")
    classes = len(summary["classes"])
    for name in ("last_20_mean", "best"):
        part = summary[name]
        recall = part.get("recall")
        if not all(key in part and _number(part[key]) for key in SCALARS) or not isinstance(recall, list):
            raise ValueError(f"is damaged, see the figures of its {name}")
        if len(recall) != classes or not all(map(_number, recall)):
            raise ValueError(f"is damaged, see the recall of its {name}")
    counts = summary["labelled_counts"]
    if len(counts) != classes or not all(isinstance(count, int) for count in counts):
        raise ValueError("is damaged, see its labelled_counts")
    optional = {name: summary[name] for name in OPTIONAL if summary.get(name) is None and name in summary}
    return {name: value for name, value in summary.items() if name not in optional}


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def sound(arguments: dict[str, Any]) -> bool:
    """Whether those arguments are numbers that the report calculates with."""
    return all(_number(arguments.get(name)) for name in NUMBERS)


def published_summary(columns: dict[str, list[float]], state: dict[str, Any]) -> dict[str, Any]:
    """The same for a folder of the published code, from its log's columns (E,) and the keys of its checkpoint.

    It doesn't tell its arguments; figures that its log lacks are None, all of them where it has no accuracies.
    """
    network = state.get("state_dict", {})
    weights = [network[key] for key in ("output.weight", "fc.weight") if key in network]
    classes = weights[0].shape[0] if weights else 0
    base = "ReMixMatch" * ("emp_distb_u" in state)
    method = "+".join(part for part in (base, "CoSSL" * ("teacher_head" in state)) if part)
    last, best = (dict.fromkeys(SCALARS) | {"recall": [None] * classes} for _ in range(2))
    for name, column in {"top1": "top1", "gm": "gm", "loss": "test_loss"}.items():
        if values := columns.get(column):
            last[name] = fmean(values[-20:])
            best[name] = min(values) if name == "loss" else max(values)
    epochs = len(columns.get("epoch", []))
    return {
        "method": f"{method or ('pre-training' if state else 'unknown method')} (published code)",
        "classes": [str(c) for c in range(classes)],
        "labelled_counts": None,
        "epochs": epochs,
        "epochs_averaged": min(20, epochs),
        "last_20_mean": last,
        "best": best,
    }

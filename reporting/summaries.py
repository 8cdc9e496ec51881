"""What the report takes from a run's `summary.json`; and the like of it for the published code's folders.

Shape legend: E epochs, C classes.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

from training.history import SCALARS, averaged_epochs
from training.schema import Arguments, Summary, fault
from utils.files import read_json
from utils.flags import FLAGS

PUBLISHED = "published code"
STATISTICS = {
    "last_20_mean": "mean of the last epochs",
    "last_epoch": "last epoch",
    "best": "best epoch, chosen on the test set",
}
RECIPES = {"fix": "FixMatch", "mix": "MixMatch", "remix": "ReMixMatch"}  # as the names of scripts call the methods


def read_summary(path: Path) -> dict[str, Any]:
    """Raises ValueError, with the rest of a sentence about the file, where it is not what a run leaves."""
    summary = read_json(path)
    if wrong := fault(summary, Summary, "content") or _wrong_argument(summary["arguments"]):
        raise ValueError(f"can't be used: {wrong}")
    if (summary["best"] is None) != (summary["last_20_mean"] is None) or (
        summary["status"] == "finished" and summary["best"] is None
    ):
        raise ValueError("can't be used: it lacks figures")
    recalls = [summary[part]["recall"] for part in STATISTICS if summary.get(part)]
    if any(len(values) != len(summary["classes"]) for values in (summary["labelled_counts"], *recalls)):
        raise ValueError("can't be used: its figures are of other classes than its classes")
    return summary


def _wrong_argument(arguments: dict[str, Any]) -> str | None:
    """An argument that should be a number and isn't, in words."""
    for name, value in arguments.items():
        default = FLAGS[name].options["default"] if name in FLAGS else None
        if (isinstance(default, (int, float)) or name == "start_epoch") and isinstance(value, str):
            return f"its argument {name} is damaged"
    return None


def read_arguments(path: Path, problems: list[str]) -> dict[str, Any]:
    """What the user tells of a folder of the published code, whose files don't: `arguments`, by our names, and from its
    `recipe` the `method`; empty without the file. Appends to `problems` if the file can't be used.
    """
    if not path.exists():
        return {}
    try:
        arguments = read_json(path)
        if wrong := fault(arguments, Arguments, "content") or _wrong_argument(arguments):
            raise ValueError(f"can't be used: {wrong}")
    except ValueError as error:
        problems.append(f"{path.name} {error}")
        return {}
    found = {"arguments": arguments, "start_epoch": arguments.pop("start_epoch", None)}
    parts = str(arguments.get("recipe", "")).removesuffix(".py").split("_")
    if (method := next((name for part, name in RECIPES.items() if part in parts), None)) is not None:
        found["method"] = f"{method}+CoSSL ({PUBLISHED})" if "cossl" in parts else f"{method} ({PUBLISHED})"
    return found


def published_method(state: dict[str, Any]) -> str:
    """A published checkpoint tells ReMixMatch by its running mean, and CoSSL by its head."""
    names = [name for key, name in (("emp_distb_u", "ReMixMatch"), ("ema_teacher", "CoSSL")) if key in state]
    return "+".join(names) or "pre-training"


def published_summary(columns: dict[str, list[float]], state: dict[str, Any]) -> dict[str, Any]:
    """The same for a folder of the published code, from its log's columns (E,) and its checkpoint, or {}.

    It doesn't tell its arguments; figures that its log lacks are None, all of them where it has no accuracies.
    """
    network = state.get("state_dict", {})
    weights = [network[key] for key in ("output.weight", "fc.weight") if key in network]
    classes = weights[0].shape[0] if weights else 0
    last: dict[str, Any] = dict.fromkeys(SCALARS) | {"recall": [None] * classes}
    best, final, epochs = dict(last), dict(last), len(columns.get("epoch", []))
    averaged = averaged_epochs(epochs)
    for name, column in {"top1": "top1", "gm": "gm", "loss": "test_loss"}.items():
        if values := columns.get(column):
            last[name], final[name] = fmean(values[-averaged:]), values[-1]
            best[name] = min(values) if name == "loss" else max(values)
    return {
        "method": f"{published_method(state) if state else 'unknown method'} ({PUBLISHED})",
        "classes": [str(c) for c in range(classes)],
        "labelled_counts": None,
        "epochs": state.get("epoch", epochs),
        "epochs_averaged": averaged,
        "last_20_mean": last,
        "last_epoch": final,
        "best": best,
    }

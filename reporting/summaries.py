"""What the report takes from a run's `summary.json`."""

from pathlib import Path
from typing import Any

from training.faults import fault
from training.schema import Summary
from utils.files import read_json
from utils.flags import FLAGS

STATISTICS = {
    "last_20_mean": "mean of the last epochs",
    "last_epoch": "last epoch",
    "best": "best epoch, chosen on the test set",
}


def read_summary(path: Path) -> dict[str, Any]:
    """Raises ValueError, with the rest of a sentence about the file, where it is not what a run leaves."""
    summary = read_json(path)
    if wrong := fault(summary, Summary, "content") or wrong_argument(summary["arguments"]):
        raise ValueError(f"can't be used: {wrong}")
    if (summary["best"] is None) != (summary["last_20_mean"] is None) or (
        summary["status"] == "finished" and summary["best"] is None
    ):
        raise ValueError("can't be used: it lacks figures")
    recalls = [summary[part]["recall"] for part in STATISTICS if summary.get(part)]
    if any(len(values) != len(summary["classes"]) for values in (summary["labelled_counts"], *recalls)):
        raise ValueError("can't be used: its figures are of other classes than its classes")
    return summary


def wrong_argument(arguments: dict[str, Any]) -> str | None:
    """An argument that should be a number and isn't, in words."""
    for name, value in arguments.items():
        default = FLAGS[name].options["default"] if name in FLAGS else None
        if (isinstance(default, (int, float)) or name == "start_epoch") and isinstance(value, str):
            return f"its argument {name} is damaged"
    return None

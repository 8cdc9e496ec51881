"""Finding the folders of runs, and reading what each holds: finished, unfinished, broken, or of the published code.

Shape legend: E epochs, C classes.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting.extras import read_diagnostics, read_shifted
from reporting.logs import read_log
from utils import checkpoint
from utils.errors import UserError
from utils.summary import SCALARS

FILES = ("summary.json", "log.txt", checkpoint.NAME)
KINDS = {
    "method": str, "classes": list, "labelled_counts": list, "epochs_averaged": int, "last_20_mean": dict, "best": dict,
}  # fmt: skip
NUMBERS = (
    "manualSeed", "epochs", "num_max", "ratio", "imb_ratio_l", "imb_ratio_u", "labeled_percent", "img_size",
)  # fmt: skip
OPTIONAL = {"arguments": dict, "versions": dict, "start_epoch": int, "wall_seconds": (int, float), "epochs": int}


@dataclass
class Run:
    """One folder. status: finished, unfinished, broken, published code; problems: in words, one each.

    about: what `summary.json` says, else what the checkpoint does; figures: {"last_20_mean", "best"}: {name: number
    or None, "recall": (C,)}, None unless finished; columns: {name: (E,)} of `log.txt`; diagnostics, shifted: the
    contents of diagnostics.npz and shifted.json, None without.
    """

    folder: str
    status: str
    problems: list[str]
    about: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] | None = None
    columns: dict[str, list[float]] = field(default_factory=dict)
    diagnostics: dict[str, Any] | None = None
    shifted: dict[str, Any] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        return self.about.get("arguments", {})

    @property
    def seed(self) -> int | None:
        return self.arguments.get("manualSeed")


def find(roots: list[Path]) -> list[Run]:
    """All runs in the folders and below, in the order of their paths, each folder once. UserError for no folder."""
    found: dict[str, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give folders of runs, or one that they lie in")
        for folder in _folders(root):
            found.setdefault(os.path.realpath(folder), folder)
    return [read_run(folder) for folder in found.values()]


def _folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below.sort()
        if any(name in files for name in FILES):
            yield Path(folder)


def read_run(folder: Path) -> Run:
    """Whatever the folder holds, of which nothing need be whole; never raises for what is in the files."""
    run = Run(str(folder), "finished", [])
    run.columns, log_problems, foreign = read_log(folder / "log.txt")
    summary = folder / "summary.json"
    if not foreign and summary.exists():
        try:
            run.about = read_summary(summary)
            run.figures = {name: run.about[name] for name in ("last_20_mean", "best")}
        except ValueError as error:
            run.status, run.problems = "broken", [f"summary.json {error}"]
    if not (folder / checkpoint.NAME).exists():
        run.problems.append("no checkpoint")
    if run.figures is None:
        _from_checkpoint(run, folder / checkpoint.NAME, foreign)
    run.problems += log_problems
    run.diagnostics = read_diagnostics(folder, len(run.about.get("classes", [])), run.problems)
    run.shifted = read_shifted(folder, run.problems)
    return run


def read_summary(path: Path) -> dict[str, Any]:
    """Raises ValueError, with the rest of a sentence about the file, where it is not what a finished run leaves."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=float.fromhex)  # NaN isn't JSON
    except (OSError, ValueError, RecursionError):
        raise ValueError("is not readable JSON") from None
    if not isinstance(summary, dict):
        raise ValueError("is not that of a run")
    if missing := [name for name in KINDS if name not in summary]:
        raise ValueError(f"lacks {', '.join(missing)}")
    given = {name: kind for name, kind in (KINDS | OPTIONAL).items() if summary.get(name) is not None}
    if wrong := [name for name, kind in given.items() if not isinstance(summary[name], kind)]:
        raise ValueError(f"is damaged, see its {', '.join(wrong)}")
    if not _sound(summary.get("arguments") or {}):
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


def _sound(arguments: dict[str, Any]) -> bool:
    return all(_number(arguments.get(name)) for name in NUMBERS)


def _from_checkpoint(run: Run, path: Path, foreign: bool) -> None:
    """Complete a run without a summary by what its last checkpoint says."""
    state = {}
    if path.exists():
        try:
            state = checkpoint.read(path, "", ())
        except UserError:
            run.problems.append(f"{path.name} is damaged, or of another program")
    published = foreign or ("state_dict" in state and "arguments" not in state)
    if published:
        _published(run, state)
        return
    arguments, facts = state.get("arguments", {}), state.get("facts", {})
    if not _sound(arguments) or not isinstance(facts.get("classes", []), list):
        run.problems.append(f"{path.name}: its arguments or facts are damaged")
        arguments, facts = {}, {}
    run.about = facts | {"arguments": arguments, "wall_seconds": state.get("seconds")}
    done = state.get("epoch", int(run.columns["epoch"][-1]) if run.columns else 0)
    run.about["epochs"] = done
    if run.status == "finished":  # no summary
        run.status = "unfinished"
        run.problems.insert(0, f"stopped after epoch {done} of {arguments.get('epochs', 'an unknown number')}")


def _published(run: Run, state: dict[str, Any]) -> None:
    """A folder of the published code: it doesn't say its arguments, and the epochs' figures are in `log.txt` only."""
    run.status = "published code" if run.status == "finished" else run.status
    network = state.get("state_dict")
    weight = next((network[key] for key in ("output.weight", "fc.weight") if key in network), None) if network else None
    classes = len(weight) if weight is not None else 0
    remix = "ReMixMatch" if "emp_distb_u" in state else ""
    method = f"{remix}{'+' * bool(remix)}CoSSL" if "teacher_head" in state else remix or "pre-training"
    method += " (published code)"
    run.about = {"method": method, "classes": [str(c) for c in range(classes)], "labelled_counts": None}
    columns = {name: run.columns[name] for name in ("top1", "gm", "test_loss") if name in run.columns}
    if "top1" not in columns:
        run.status = "broken"
        run.problems.append("log.txt has no column of accuracies")
        return
    tail = {name: values[-20:] for name, values in columns.items()}
    mean = {name: sum(values) / len(values) for name, values in tail.items()}
    best = {name: (min if name == "test_loss" else max)(values) for name, values in columns.items()}
    run.about |= {"epochs": len(columns["top1"]), "epochs_averaged": len(tail["top1"])}
    empty = dict.fromkeys(SCALARS) | {"recall": [None] * classes}
    rename = lambda part: {"loss" if name == "test_loss" else name: value for name, value in part.items()}
    run.figures = {"last_20_mean": empty | rename(mean), "best": empty | rename(best)}

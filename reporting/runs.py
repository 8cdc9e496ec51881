"""Finding the folders of runs, and reading what each holds: finished, unfinished, failed, broken, or published code.

Shape legend: E epochs, C classes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting.extras import read_diagnostics, read_shifted
from reporting.logs import read_log
from reporting.origin import dataset_of
from reporting.summaries import damaged, published_summary, read_arguments, read_summary
from training import checkpoint, failure
from utils.errors import UserError

FILES = ("summary.json", "log.txt", checkpoint.NAME, failure.NAME)


@dataclass
class Run:
    """One folder. status: finished, unfinished, failed, broken, published code; problems: in words, one each.

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
    def last_epoch(self) -> int | None:
        """Of the run's last model, by its log (of which the end may be damaged) or its summary or checkpoint."""
        told = [*self.columns.get("epoch", [])[-1:], self.about.get("epochs")]
        return max((int(epoch) for epoch in told if epoch is not None), default=None)

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
    if summary.exists():
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
    run.shifted = read_shifted(folder, run.last_epoch, dataset_of(run.arguments), run.problems)
    return run


def _from_checkpoint(run: Run, path: Path, foreign: bool) -> None:
    """Complete a run without a summary by what its last checkpoint says."""
    state = {}
    if path.exists():
        try:
            state = checkpoint.read(path, "", ())
        except UserError as error:
            run.problems.append(path.name + str(error).removeprefix(str(path)))
            if run.status == "finished" and not run.columns:  # no summary, and no log either
                run.status = "broken"
    if (foreign or ("state_dict" in state and "arguments" not in state)) and run.status == "finished":
        run.status, run.about = "published code", published_summary(run.columns, state)
        run.about |= read_arguments(path.with_name("arguments.json"), run.problems)
        if "top1" not in run.columns:
            run.status = "broken"
            run.problems.append("log.txt has no accuracies")
            return
        run.figures = {name: run.about[name] for name in ("last_20_mean", "best")}
        return
    arguments = state.get("arguments", {})
    done = state.get("epoch", int(run.columns["epoch"][-1]) if run.columns else 0)
    run.about = state.get("facts", {}) | {"arguments": arguments, "wall_seconds": state.get("seconds"), "epochs": done}
    run.about["versions"] = state.get("versions")  # which checkpoints of older versions lack
    if name := damaged(run.about):
        run.problems.append(f"{path.name} is damaged, see its {name}")
        run.about, arguments = {}, {}
    if run.status == "finished":  # no summary
        run.status = "unfinished"
        if state or run.columns:
            run.problems.insert(0, f"stopped after epoch {done} of {arguments.get('epochs', 'an unknown number')}")
        if (reason := _failure(path.with_name(failure.NAME))) is not None:
            run.status = "failed"
            run.problems.insert(0, reason)


def _failure(path: Path) -> str | None:
    """Why the run ended, by its own words; None if it didn't fail."""
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or "its failed.txt is empty"
    except (OSError, UnicodeDecodeError):
        return "its failed.txt is not readable"

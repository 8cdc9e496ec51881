"""Finding the folders of runs, and reading what each holds.

Shape legend: E epochs, C classes.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting.logs import read_log
from reporting.published_code import EVEN_TESTS, LOG, PUBLISHED, is_log, last_files, published_summary, read_arguments
from reporting.side_files import read_diagnostics, read_shifted
from reporting.summaries import STATISTICS, read_summary
from training.checkpoint import LATEST, read_checkpoint
from training.folder import SUMMARY, in_use
from utils.errors import UserError
from utils.files import walk


@dataclass
class FinishedRun:
    """One folder. status: finished, running, unfinished, failed, broken, published code; problems: in words, one each.

    about: what `summary.json` says; figures: statistic -> {name: number or None, "recall": (C,)}, None unless
    finished; columns: {name: (E,)} of `log.txt`; diagnostics, shifted: the contents of diagnostics.npz and
    shifted.json, None without.
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
        """Of the run's last model, by its log (of which the end may be damaged) or its summary."""
        known = [*self.columns.get("epoch", [])[-1:], self.about.get("epochs")]
        return max((int(epoch) for epoch in known if epoch is not None), default=None)

    @property
    def balanced(self) -> bool | None:
        """Whether its test set is balanced, which makes top-1 and balanced accuracy the same; None where not known."""
        pairs = [(figures.get("top1"), figures.get("balanced")) for figures in (self.figures or {}).values()]
        pairs += zip(self.columns.get("top1", []), self.columns.get("balanced", []), strict=False)
        known = [pair for pair in pairs if None not in pair and all(map(math.isfinite, pair))]
        return all(abs(a - b) < 1e-3 for a, b in known) if known else None  # a log has six digits

    @property
    def is_floor(self) -> bool:
        """Whether it is one of `floor.py`, which has no epochs and leaves no checkpoint."""
        return self.about.get("floor", False)

    @property
    def seed(self) -> int | None:
        return self.arguments.get("manualSeed")


def _held(name: str) -> bool:
    """Whether a folder that holds a file of this name is that of a run."""
    return name in (SUMMARY, LATEST) or is_log(name)


def find_runs(roots: list[Path]) -> list[FinishedRun]:
    """All runs in the folders and below, in the order of their paths, each folder once; see `walk` for links. What
    can't be looked into is a broken run. UserError for no folder.
    """
    found: dict[str, tuple[Path, str]] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give folders of runs, or one that they lie in")
        folders, problems = walk(root)
        runs = {folder: "" for folder, names in folders.items() if any(map(_held, names))}
        for path, problem in problems.items():
            runs |= {path.parent: ""} if _held(path.name) else {path: problem}
        for path, problem in sorted(runs.items()):
            found.setdefault(os.path.realpath(path), (path, problem))
    places = found.values()
    return [FinishedRun(str(path), "broken", [why]) if why else read_run(path) for path, why in places]


def read_run(folder: Path) -> FinishedRun:
    """Whatever the folder holds, of which nothing need be whole; never raises for what is in the files."""
    run = FinishedRun(str(folder), "broken", [])
    log, checkpoint = last_files(folder)
    run.columns, log_problems, published_log = read_log(log)
    if (folder / SUMMARY).exists():
        _ours(run, folder)
    else:
        _published(run, checkpoint, published_log, log.name != LOG)
    if not checkpoint.exists() and not run.is_floor:
        run.problems.append("no checkpoint")
    if run.columns or run.status == "broken" or run.about.get("epochs"):
        run.problems += log_problems
    if run.status == "broken":
        return run
    run.diagnostics = read_diagnostics(folder / "diagnostics.npz", len(run.about["classes"]), run.problems)
    run.shifted = read_shifted(folder / "shifted.json", run.last_epoch, run.arguments.get("dataset"), run.problems)
    return run


def _ours(run: FinishedRun, folder: Path) -> None:
    """Complete a run with a summary."""
    try:
        run.about = read_summary(folder / SUMMARY)
    except ValueError as error:
        run.problems.append(f"{SUMMARY} {error}")
        return
    status, done, wanted = (run.about[name] for name in ("status", "epochs", "arguments"))
    if status == "finished":
        run.status, run.figures = status, {name: run.about.get(name) or {} for name in STATISTICS}
    elif status == "running" and in_use(folder):
        run.status = status
        run.problems.append(f"after epoch {done} of {wanted.get('epochs')}")
    else:
        run.status = "failed" if status == "failed" else "unfinished"
        run.problems.append(f"stopped after epoch {done} of {wanted.get('epochs')}")
        if status == "failed":
            run.problems.append(run.about.get("reason", "for a reason that it doesn't tell"))


def _published(run: FinishedRun, checkpoint: Path, published_log: bool, crest: bool) -> None:
    """Complete a run of the published code, which leaves no summary."""
    state = {}
    if checkpoint.exists():
        try:
            state = read_checkpoint(checkpoint, "")
        except UserError as error:
            run.problems.append(checkpoint.name + str(error).removeprefix(str(checkpoint)))
    if "arguments" in state or not (published_log or state):
        run.problems.insert(0, f"no {SUMMARY}")
        return
    known = read_arguments(checkpoint.parent / "arguments.json", run.problems)
    if known.get("arguments", {}).get("dataset") in EVEN_TESTS:  # its log has one of the two
        either = run.columns.get("top1") or run.columns.get("balanced")
        run.columns |= {"top1": either, "balanced": either} if either else {}
    run.about = published_summary(run.columns, state, crest) | known
    if not run.columns.keys() & {"top1", "balanced"}:
        run.problems.append("its log has no accuracies")
        return
    run.status, run.figures = PUBLISHED, {name: run.about.get(name) or {} for name in STATISTICS}

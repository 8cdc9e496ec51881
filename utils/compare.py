"""Compare finished runs: `python -m utils.compare RUN_DIR [RUN_DIR ...] --out DIR [--title TEXT]`.

Prints a table, writes DIR/summary.json, DIR/curves.png and DIR/per_class.png. A run folder holds
`summary.json` and `log.txt`, as every training script leaves them.
Shape legend: E epochs of a run, C classes.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from utils.errors import UserError, run_main
from utils.figures import PANELS, curves, per_class
from utils.summary import SCALARS, atomic_write_text, to_json

HEADINGS = {
    "top1": "top-1",
    "balanced": "balanced accuracy",
    "gm": "geometric mean",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
NEEDED = ("method", "classes", "labelled_counts", "epochs_averaged", "last_20_mean", "best")


def load_run(folder: Path) -> dict[str, Any]:
    """Read a run: `folder`, `label` (its method), `summary`, `epochs` (E,), `columns` ((E,) per panel).

    A run that went on from another one (CoSSL) counts its epochs from where it left that one: `start_epoch`.
    Raises UserError where a file is missing, broken or incomplete.
    """
    summary = _read_summary(folder / "summary.json")
    columns = _read_log(folder / "log.txt", ("epoch", *PANELS))
    start = summary.get("start_epoch") or 0
    epochs = [start + epoch for epoch in columns.pop("epoch")]
    learner = ", cRT" if summary.get("arguments", {}).get("classifier") == "crt" else ""
    found = {"folder": str(folder), "label": summary["method"] + learner, "summary": summary}
    return found | {"epochs": epochs, "columns": columns}


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path} can't be read: give the folder of a finished run") from None
    except ValueError:
        raise UserError(f"{path} isn't valid JSON: leave the folder out, or train again") from None
    missing = [key for key in NEEDED if not isinstance(summary, dict) or key not in summary]
    if not missing:
        missing = [key for key in (*SCALARS, "recall") if key not in summary["last_20_mean"]]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: give the folder of a finished run")
    return summary


def _read_log(path: Path, names: tuple[str, ...]) -> dict[str, list[float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} can't be read: give the folder of a finished run") from None
    try:
        return {name: [float(row[name]) for row in rows] for name in names}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} needs numbers in its columns {', '.join(names)}") from None


def load_runs(folders: list[Path]) -> list[dict[str, Any]]:
    """Read the runs; a method that occurs twice gets its folder's name added. UserError if classes differ."""
    runs = [load_run(folder) for folder in folders]
    methods = [run["label"] for run in runs]
    for folder, run in zip(folders, runs, strict=True):
        if run["summary"]["classes"] != runs[0]["summary"]["classes"]:
            raise UserError(f"{folder} has other classes than {folders[0]}: compare runs of one data set")
        if methods.count(run["label"]) > 1:
            run["label"] += f" ({folder.resolve().name})"
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown table, one row per run: percent, mean of the last 20 epochs or of as many as were run."""
    rows = [["method", *HEADINGS.values(), "epochs averaged"]]
    for run in runs:
        mean = run["summary"]["last_20_mean"]
        figures = ["-" if mean[name] is None else f"{mean[name]:.2f}" for name in HEADINGS]
        rows.append([run["label"], *figures, str(run["summary"]["epochs_averaged"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    columns = [f"{{:>{width}}}" for width in widths]
    columns[0] = f"{{:<{widths[0]}}}"
    line = f"| {' | '.join(columns)} |"
    return "\n".join(line.format(*row) for row in rows)


def side_by_side(runs: list[dict[str, Any]], title: str) -> dict[str, Any]:
    """What DIR/summary.json holds: each run's figures, and last run minus first run (points; loss: nats)."""
    first, last = (run["summary"]["last_20_mean"] for run in (runs[0], runs[-1]))
    difference: dict[str, Any] = {name: _minus(last[name], first[name]) for name in SCALARS}
    difference["recall"] = [_minus(b, a) for a, b in zip(first["recall"], last["recall"], strict=True)]
    return {
        "title": title,
        "classes": runs[0]["summary"]["classes"],
        "runs": [{"label": run["label"], "folder": run["folder"]} | run["summary"] for run in runs],
        "last_20_mean_last_minus_first": difference,
    }


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def main(arguments: list[str] | None = None) -> None:
    """Read every run before anything is written, then print the table and write the three files."""
    parser = argparse.ArgumentParser(prog="python -m utils.compare", description="Compare finished runs.")
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", type=Path, help="folder of a finished run")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the comparison")
    parser.add_argument("--title", metavar="TEXT", default="", help="heading of the table and the figures")
    args = parser.parse_args(arguments)
    if args.out.resolve() in [folder.resolve() for folder in args.runs]:
        raise UserError(f"--out {args.out} is a run's folder, whose summary.json would be lost: name another")
    runs = load_runs(args.runs)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        curves(runs, args.title, args.out / "curves.png")
        per_class(runs, args.title, args.out / "per_class.png")
        atomic_write_text(args.out / "summary.json", to_json(side_by_side(runs, args.title)))
    except OSError as error:
        raise UserError(f"--out {args.out} can't be written: {error.strerror}") from None
    if args.title:
        print(args.title)
    print("Test figures of the EMA model in percent, last-20 mean (over all epochs where fewer were run)\n")
    print(table(runs))


if __name__ == "__main__":
    run_main(main)

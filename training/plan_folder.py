"""The folder of train_folder.py: its plan, a folder of each run and of each floor, and results."""

from contextlib import suppress
from pathlib import Path

from training.folder import SUMMARY, Lock, discard_run, written
from utils.files import read_json

PLAN = "plan.json"
SCRIPT_OF = {"supervised": "train_cifar_supervised", "fix": "train_cifar_fix", "cossl": "train_cifar_fix_cossl"}
RESULTS = (  # in the folder, beside the runs
    *("features.npy", "features.json", "shown.csv", "predictions.csv", "gallery.html"),
    *("report/report.html", "report/tables.md", "report/tables.tex", "report/figures.csv", "report/classes.csv"),
)


def run_folders(out: Path) -> list[Path]:
    """Of trained parts and floors, those that are there."""
    return [folder for folder in (*(out / part for part in SCRIPT_OF), *(out / "floor").glob("*/")) if folder.is_dir()]


def held_by(out: Path) -> list[Path]:
    """Files of runs and results that a new plan would take for its own, or replace."""
    results = [out / name for name in RESULTS if (out / name).exists()]
    return [file for folder in run_folders(out) for file in written(folder)] + results


def discard(out: Path) -> None:
    """Remove the plan that --out holds, its runs and their results. Raises UserError for a run in use."""
    folders = run_folders(out)
    locks = [Lock(folder) for folder in folders]  # of all, before anything is removed
    for folder, lock in zip(folders, locks, strict=True):
        discard_run(folder)
        lock.file.close()
    for file in held_by(out):
        file.unlink()
    (out / PLAN).unlink(missing_ok=True)  # last: without it, what is left would be nobody's


def is_finished(folder: Path) -> bool:
    """Whether what is trained there, or the floor, has come to its end."""
    with suppress(ValueError, LookupError, TypeError):  # a damaged summary counts for nothing
        return bool(read_json(folder / SUMMARY)["status"] == "finished")
    return False

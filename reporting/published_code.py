"""What the published code leaves in a folder of its own: which files, how its log calls things, whose run it was.

Its scripts save no arguments. Shape legend: E epochs, C classes.
"""

import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any

from reporting.summaries import wrong_argument
from training.checkpoint import LATEST
from training.faults import fault
from training.history import SCALARS, averaged_epochs
from training.schema import Arguments
from utils.files import read_json

PUBLISHED = "published code"
LOG = "log.txt"
# What its logs call the columns. A tab ends each line, and no column counts the epochs.
COLUMNS = {
    "Train Loss": "loss",
    "Train Loss X": "loss_x",
    "Train Loss U": "loss_u",
    "Train Loss Teacher": "loss_head",
    "Mask": "mask",
    "Total Acc.": "acc_u",
    "Used Acc.": "acc_selected",
    "Teacher Acc.": "acc_head",
    "Test Loss": "test_loss",
    "Avg. Recall": "balanced",
    "Test Acc.": "top1",
    "Test GM.": "gm",
}
OF_ONE = ("balanced", "gm")  # of 1 there
SCRIPTS = {"fix": "FixMatch", "mix": "MixMatch", "remix": "ReMixMatch"}  # as the names of scripts call them
DATASETS = {"food": "food101", "small": "small_imagenet127"}  # whose scripts have no --dataset
EVEN_TESTS = ("cifar10", "cifar100", "fashion_mnist", "food101")  # as many test images of each class


def is_log(name: str) -> bool:
    """Whether a file of this name is a log: CReST's generations have one each."""
    return name == LOG or re.fullmatch(r"log_gen\d+\.txt", name) is not None


def last_files(folder: Path) -> tuple[Path, Path]:
    """The log and the checkpoint that count: of CReST's generations the last one's."""
    logs = [path for path in folder.iterdir() if is_log(path.name)]
    if folder / LOG in logs or not logs:
        return folder / LOG, folder / LATEST
    number = max(int(path.stem.removeprefix("log_gen")) for path in logs)
    return folder / f"log_gen{number}.txt", folder / f"checkpoint_gen{number}.pth.tar"


def in_percent(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """Columns (E,) of a published log, shares as percent. As `Test Acc.`, the co-learning scripts of Food-101 and
    Small-ImageNet-127 log the mean recall, a share of 1; all others the top-1, percent.
    """
    highest = max((value for value in columns.get("top1", []) if math.isfinite(value)), default=math.inf)
    if {"mask", "acc_head"} <= columns.keys() and highest <= 1:
        columns = {"balanced" if name == "top1" else name: values for name, values in columns.items()}
    return {name: [100 * v for v in values] if name in OF_ONE else values for name, values in columns.items()}


def read_arguments(path: Path, problems: list[str]) -> dict[str, Any]:
    """What the user tells of a folder of the published code, whose files don't: `arguments`, by our names, and from its
    `recipe` the `method`; empty without the file. Appends to `problems` if the file can't be used.
    """
    if not path.exists():
        return {}
    try:
        arguments = read_json(path)
        if wrong := fault(arguments, Arguments, "content") or wrong_argument(arguments):
            raise ValueError(f"can't be used: {wrong}")
    except ValueError as error:
        problems.append(f"{path.name} {error}")
        return {}
    found = {"arguments": arguments, "start_epoch": arguments.pop("start_epoch", None)}
    parts = str(arguments.get("recipe", "")).removesuffix(".py").split("_")
    if (dataset := next((name for part, name in DATASETS.items() if part in parts), None)) is not None:
        arguments.setdefault("dataset", dataset)
    if (method := next((name for part, name in SCRIPTS.items() if part in parts), None)) is not None:
        found["method"] = f"{method}{_learner('cossl' in parts, 'crest' in parts)} ({PUBLISHED})"
    return found


def _learner(cossl: bool, crest: bool) -> str:
    return "+CoSSL" if cossl else "+CReST+" if crest else ""


def published_method(state: dict[str, Any], columns: dict[str, list[float]], crest: bool = False) -> str:
    """The method of a published run, by the keys of its checkpoint or {}, and the columns of its log or {}.

    FixMatch has a mask; ReMixMatch a running mean, and an optimiser that has moved the head for rotations, too; other
    networks than Wide ResNets are trained with FixMatch alone. Where that leaves several methods, all of them.
    """
    possible = set(SCRIPTS.values())
    if "acc_u" in columns:
        possible &= {"FixMatch"} if "mask" in columns else {"MixMatch", "ReMixMatch"}
    if network := state.get("ema_state_dict"):
        if "init_conv.weight" not in network:
            possible &= {"FixMatch"}
        elif (turned := "emp_distb_u" in state or _all_moved(state["optimizer"])) is not None:
            possible &= {"ReMixMatch"} if turned else {"FixMatch", "MixMatch"}
    cossl = "ema_teacher" in state or "acc_head" in columns
    learner = _learner(cossl, crest or "scheduler" in state)
    if len(possible) in (0, len(SCRIPTS)):
        return learner.removeprefix("+") or ("pre-training" if state else "unknown method")
    return " or ".join(name + learner for name in SCRIPTS.values() if name in possible)


def _all_moved(optimizer: dict[str, Any]) -> bool | None:
    """Whether every weight has had a gradient; None where the optimiser doesn't tell."""
    moved, groups = optimizer.get("state"), optimizer.get("param_groups")
    if not isinstance(moved, dict) or not moved or not isinstance(groups, list):
        return None
    return len(moved) == sum(len(group["params"]) for group in groups)


def published_summary(columns: dict[str, list[float]], state: dict[str, Any], crest: bool) -> dict[str, Any]:
    """The like of summary.json for a folder of the published code, from its log's columns (E,) and checkpoint, or {}.

    It doesn't tell its arguments; figures that its log lacks are None, all of them where it has no accuracies.
    """
    network = state.get("state_dict", {})
    weights = [network[key] for key in ("output.weight", "fc.weight") if key in network]
    classes = weights[0].shape[0] if weights else 0
    last: dict[str, Any] = dict.fromkeys(SCALARS) | {"recall": [None] * classes}
    best, final, epochs = dict(last), dict(last), len(columns.get("epoch", []))
    averaged = averaged_epochs(epochs)
    for name in ("top1", "balanced", "gm", "loss"):
        if values := columns.get("test_loss" if name == "loss" else name):
            last[name], final[name] = fmean(values[-averaged:]), values[-1]
            best[name] = min(values) if name == "loss" else max(values)
    return {
        "method": f"{published_method(state, columns, crest)} ({PUBLISHED})",
        "classes": [str(c) for c in range(classes)],
        "labelled_counts": None,
        "epochs": state.get("epoch", epochs),
        "epochs_averaged": averaged,
        "last_20_mean": last,
        "last_epoch": final,
        "best": best,
    }

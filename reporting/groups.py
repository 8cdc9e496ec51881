"""Runs that differ in nothing but their seed make a group: its mean, standard deviation and n.

A setting is what groups must share to be compared: data set, class counts and imbalance. Within it a row is a method
with its arguments, and the row's name says in which of them it differs from the method's other rows.
Shape legend: C classes.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting.published import Figure, difference, other_budget, published
from reporting.runs import Run
from utils.args import flag
from utils.checkpoint import ADDED, FREE

METRICS = {
    "top1": "top-1",
    "balanced": "balanced accuracy",
    "gm": "geometric mean",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
STATISTICS = {"last_20_mean": "last-20 mean", "best": "best"}
DATA = ("num_max", "ratio", "imb_ratio_l", "imb_ratio_u", "labeled_percent", "img_size")
UNUSED_BY_FOLDER = {"num_max", "ratio", "imb_ratio_l", "imb_ratio_u"}
NOT_PROTOCOL = FREE | {"manualSeed", "recipe", "dataset", "skip_corrupt", "workers"}


@dataclass
class Group:
    """Runs of one protocol, a seed each. figures: statistic -> metric -> Figure or None; recall: (C,) Figures or None.

    finished: whether they enter tables; paper, versus: the published figure and how top-1 differs from it.
    """

    dataset: str
    setting: str
    name: str
    method: str
    protocol: dict[str, Any]
    runs: list[Run]
    finished: bool
    figures: dict[str, dict[str, Figure | None]]
    recall: list[Figure | None]
    paper: Figure | None = None
    versus: str = ""

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs if run.seed is not None)

    @property
    def gap(self) -> float | None:
        """Measured minus published top-1, points."""
        return self.figures["last_20_mean"]["top1"].mean - self.paper.mean if self.paper else None

    @property
    def averaged(self) -> str:
        """Epochs that the last-20 mean is over."""
        return " or ".join(map(str, sorted({run.about["epochs_averaged"] for run in self.runs})))

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.runs[0].about.get("classes", [])]

    @property
    def counts(self) -> list[int] | None:
        return self.runs[0].about.get("labelled_counts")


def dataset_of(run: Run) -> str:
    arguments = run.arguments
    recipe = str(arguments.get("recipe", ""))
    if run.status == "published code" or not arguments:
        return f"{len(run.about.get('classes', [])) or 'unknown'} classes (arguments not known)"
    if "small_imagenet127" in recipe or "food" in recipe:
        return "small_imagenet127" if "small" in recipe else "food101"
    name = str(arguments.get("dataset", "unknown"))
    return f"folder {Path(str(arguments.get('data_root', ''))).name}" if name == "folder" else name


def method_of(run: Run) -> str:
    learner = ", cRT" if run.arguments.get("classifier") == "crt" else ""
    return str(run.about.get("method", "unknown method")) + learner


def protocol_of(run: Run) -> dict[str, Any]:
    """All that decides a run's numbers but its seed; false and none count as not there, as in older versions."""
    arguments = ADDED | run.arguments | {"start_epoch": run.about.get("start_epoch")} if run.arguments else {}
    unused = NOT_PROTOCOL | (UNUSED_BY_FOLDER if arguments.get("dataset") == "folder" else set())
    found = {k: v for k, v in sorted(arguments.items()) if k not in unused and v is not None and v is not False}
    return found or {"folder": run.folder}


def group(runs: Iterable[Run]) -> list[Group]:
    """Groups in the order data set, setting, method; runs with no arguments stand alone. Broken runs are in none.

    Of runs with the same seed the first one counts, and the others' problems say so. Unfinished runs make groups of
    their own.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.status == "broken" or not (run.figures or run.columns):
            continue
        about = [run.about.get("classes"), run.about.get("labelled_counts")]
        key = [dataset_of(run), method_of(run), run.figures is None, protocol_of(run), about]
        members = found.setdefault(json.dumps(key, default=str), [])
        twin = next((other for other in members if other.seed == run.seed), None)
        if twin is None:
            members.append(run)
        else:
            run.problems.append(f"not counted: the same protocol and seed as {twin.folder}")
    groups = [_aggregate(members) for members in found.values()]
    _name(groups)
    return sorted(groups, key=_order)


def _order(group: Group) -> tuple:
    """Methods as in the paper, each before its CoSSL; numbers by size."""
    base, learner = group.method.partition("+")[::2]
    known = ("supervised", "MixMatch", "ReMixMatch", "FixMatch")
    place = known.index(base) if base in known else len(known)
    data = [float(v) if isinstance(v := group.protocol.get(name), (int, float)) else 0.0 for name in DATA]
    unknown = group.protocol.keys() == {"folder"}
    row = not group.finished, place, base, learner, group.name
    return unknown, group.dataset, data, group.setting, *row


def _aggregate(runs: list[Run]) -> Group:
    first = runs[0]
    finished = first.figures is not None
    protocol, dataset, method = protocol_of(first), dataset_of(first), method_of(first)
    figures, recall = {}, []
    if finished:
        figures = {
            statistic: {name: figure_of([run.figures[statistic].get(name) for run in runs]) for name in METRICS}
            for statistic in STATISTICS
        }
        per_run = [run.figures["last_20_mean"]["recall"] for run in runs]
        recall = [figure_of(values) for values in zip(*per_run, strict=True)]
    made = Group(dataset, setting_of(protocol), method, method, protocol, runs, finished, figures, recall)
    if finished and (top := figures["last_20_mean"]["top1"]):
        made.paper = published(method, dataset, protocol)
        made.versus = difference(top, made.paper, other_budget(dataset, protocol)) if made.paper else ""
    return made


def figure_of(values: Iterable[float | None]) -> Figure | None:
    """Mean, sample standard deviation (n - 1; None for one value) and n; None if a run has no such figure."""
    values = list(values)
    if any(value is None for value in values):
        return None
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def setting_of(protocol: dict[str, Any]) -> str:
    """The labelled and unlabelled sets in words, e.g. "γ 100, 1500 labels at most, ratio 2"."""
    words = []
    if (labelled := protocol.get("imb_ratio_l")) is not None:
        unlabelled = protocol.get("imb_ratio_u")
        words.append(f"γ {labelled}" if labelled == unlabelled else f"γ {labelled}, unlabelled {unlabelled}")
    if "num_max" in protocol:
        words += [f"num_max {protocol['num_max']}", f"ratio {protocol.get('ratio', 0):g}"]
    if "labeled_percent" in protocol:
        words.append(f"{100 * protocol['labeled_percent']:g} % labelled")
    if "img_size" in protocol and (protocol.get("dataset") == "folder" or "num_max" not in protocol):
        words.append(f"{protocol['img_size']} pixels")
    return ", ".join(words)


def _name(groups: list[Group]) -> None:
    """Add to each name those arguments, not of the data, in which a method's groups on a data set differ."""
    for one in groups:
        others = [g for g in groups if (g.dataset, g.method) == (one.dataset, one.method)]
        keys = sorted({key for g in others for key in g.protocol} - set(DATA))
        different = [key for key in keys if len({str(g.protocol.get(key)) for g in others}) > 1]
        words = [f"{_word(key)} {one.protocol.get(key, 'off')}" for key in different]
        seeds = ", ".join(f"seed {seed}" for seed in one.seeds)
        words += [f"unfinished{', ' * bool(seeds)}{seeds}"] * (not one.finished)
        one.name = f"{one.method} ({', '.join(words)})" if words else one.method


def _word(key: str) -> str:
    return {"start_epoch": "co-learned from epoch", "folder": "in"}.get(key, flag(key).removeprefix("--"))

"""Runs that differ in nothing but their seed make a group: its mean, standard deviation and n.

A setting is what groups must share to be compared: data set, class counts (C,) and imbalance. Within it a row is a
method with its arguments, and the row's name says in which of them it differs from the method's other rows.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from reporting.means import Figure, difference, figure_of
from reporting.protocol import content_of, dataset_of, method_of, name_datasets, protocol_of, setting_of
from reporting.published import PublishedFigure, compared_metric, other_budget, published
from reporting.published_code import PUBLISHED
from reporting.row_names import row_names
from reporting.runs import FinishedRun
from reporting.summaries import STATISTICS
from utils.args import DATA
from utils.flags import with_role

THIRDS = ("many", "medium", "few")  # of the classes, by their labelled images
METRICS = {"top1": "top-1", "balanced": "balanced accuracy", "gm": "geometric mean"} | {name: name for name in THIRDS}


@dataclass
class Group:
    """Runs of one protocol, a seed each. figures: statistic -> metric -> Figure or None; recall: (C,) Figures or None.

    finished: whether they enter tables; paper, versus: the published figure and how the measured one differs from it.
    """

    dataset: str
    setting: str
    name: str
    method: str
    protocol: dict[str, Any]
    runs: list[FinishedRun]
    finished: bool
    figures: dict[str, dict[str, Figure | None]] = field(default_factory=dict)
    recall: list[Figure | None] = field(default_factory=list)
    paper: PublishedFigure | None = None
    versus: str = ""

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def comparable(self) -> bool:
        """Whether it is known what the runs were asked to do."""
        return self.protocol.keys() != {"folder"}

    @property
    def labelled_only(self) -> bool:
        """Whether its runs learn from labelled images alone, or on frozen features that have seen no unlabelled one."""
        first = self.runs[0]
        trained_by = first.about.get("features_of", "supervised")
        return self.method == "supervised" or (first.is_floor and trained_by == "supervised")

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs if run.seed is not None)

    @property
    def metric(self) -> str:
        """By which its methods are compared with each other and with published figures."""
        return compared_metric(self.dataset)

    @property
    def gap(self) -> float | None:
        """Measured minus published figure, points."""
        return self.figures["last_20_mean"][self.metric].mean - self.paper.figure.mean if self.paper else None

    @property
    def averaged(self) -> str:
        """Over how many epochs the mean of the last ones is."""
        return " or ".join(map(str, sorted({run.about["epochs_averaged"] for run in self.runs})))

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.runs[0].about.get("classes", [])]

    @property
    def counts(self) -> list[int] | None:
        return self.runs[0].about.get("labelled_counts")


def group(runs: Iterable[FinishedRun]) -> list[Group]:
    """Groups in the order data set, setting, method; runs with no arguments stand alone. Broken runs are in none.

    Of runs with the same seed the first one counts, and the others' problems say so. Unfinished runs make groups of
    their own.
    """
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if run.status == "broken" or not (run.figures or run.columns):
            continue
        about = [run.about.get("classes"), run.about.get("labelled_counts")]
        key = [content_of(run), method_of(run), run.figures is None, protocol_of(run), about]
        members = found.setdefault(json.dumps(key, default=str), [])
        twin = next((other for other in members if other.seed == run.seed), None)
        if twin is None:
            members.append(run)
        else:
            run.problems.append(f"not counted: the same protocol and seed as {twin.folder}")
    names = name_datasets(members[0] for members in found.values())
    groups = [_aggregate(members, names[content_of(members[0])]) for members in found.values()]
    for one, name in zip(groups, row_names(groups), strict=True):
        one.name = name
    return sorted(groups, key=_order)


def _order(group: Group) -> tuple:
    """Methods as in the paper, each before its CoSSL; numbers by size."""
    base, learner = group.method.partition("+")[::2]
    known = ("supervised", "MixMatch", "ReMixMatch", "FixMatch")
    place = known.index(base) if base in known else len(known)
    data = [float(v) if isinstance(v := group.protocol.get(name), (int, float)) else 0.0 for name in with_role(DATA)]
    row = not group.finished, place, base, learner, group.name
    return not group.comparable, group.dataset, data, group.setting, *row


def _aggregate(runs: list[FinishedRun], dataset: str) -> Group:
    first = runs[0]
    protocol, method = protocol_of(first), method_of(first)
    setting = setting_of(protocol, first.about.get("unlabelled_counts"))
    made = Group(dataset, setting, method, method, protocol, runs, first.figures is not None)
    if made.finished:
        for statistic in STATISTICS:
            per_run = [run.figures[statistic] for run in runs]
            made.figures[statistic] = {name: figure_of(one.get(name) for one in per_run) for name in METRICS}
        recall = [run.figures["last_20_mean"]["recall"] for run in runs]
        made.recall = [figure_of(values) for values in zip(*recall, strict=True)]
        paper, budget = paper_of(first)
        if paper and (measured := made.figures["last_20_mean"][made.metric]):
            made.paper, made.versus = paper, difference(measured, paper.figure, budget)
    return made


def paper_of(run: FinishedRun) -> tuple[PublishedFigure | None, str]:
    """The published figure to set beside a run, and how the run's length differs from the published one, in words."""
    arguments, dataset = run.arguments | protocol_of(run), dataset_of(run)  # the former with what is false
    method = method_of(run).removesuffix(f" ({PUBLISHED})")
    return published(method, dataset, arguments), other_budget(method, dataset, arguments)

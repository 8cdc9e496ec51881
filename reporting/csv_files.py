"""The report's figures as CSV, with all their digits.

Shape legend: C classes.
"""

import csv
import io

from reporting.groups import METRICS, Group
from reporting.means import Figure
from reporting.protocol import tested_on
from reporting.summaries import STATISTICS


def figures_csv(groups: list[Group]) -> str:
    """A line per group and statistic, numbers with all their digits."""
    measured = [f"{name}_{part}" for name in METRICS for part in ("mean", "sd")]
    names = ["dataset", "setting", "method", "statistic", "epochs_averaged", "n", "seeds", *measured]
    names += [f"published_{part}" for part in ("metric", "mean", "sd", "n", "source")]
    rows = [[*names, "difference", "spread", "folders"]]
    for group in groups:
        for statistic, words in STATISTICS.items():
            words = words.replace("the test set", tested_on(group.runs[0]))
            row = [group.dataset, group.setting, group.name, words]
            row += [group.averaged if statistic == "last_20_mean" else "", group.n, " ".join(map(str, group.seeds))]
            for name in METRICS:
                row += _mean_sd(group.figures[statistic][name])
            paper = group.paper if statistic == "last_20_mean" else None
            row += [group.metric, *_mean_sd(paper.figure), paper.figure.n, paper.source] if paper else [""] * 5
            row += [group.gap, group.versus.partition(" ")[2]] if paper else [""] * 2
            rows.append([*row, "\n".join(run.folder for run in group.runs)])
    return _csv(rows)


def classes_csv(groups: list[Group]) -> str:
    """Recall per class, mean of the last epochs: a line per group and class."""
    rows = [["dataset", "setting", "method", "class", "labelled", "recall_mean", "recall_sd", "n"]]
    for group in groups:
        counts = group.counts or [""] * len(group.classes)
        for name, count, recall in zip(group.classes, counts, group.recall, strict=True):
            rows.append([group.dataset, group.setting, group.name, name, count, *_mean_sd(recall), group.n])
    return _csv(rows)


def _mean_sd(figure: Figure | None) -> list[float | str]:
    return ["", ""] if figure is None else [figure.mean, "" if figure.sd is None else figure.sd]


def _csv(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()

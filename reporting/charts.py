"""What the page's charts show, as plain numbers for line_charts.js and dots_and_confusion.js to draw.

A chart is {"kind": "line", "title", "unit", "xlabel", "names" of the places on the x axis (else it is numbers), "at"
(where these lie, else side by side), "area" (of classes: labelled images), "warning", "lines": [{"series", "x", "y",
"low", "high"}]}, or of kind "dots" or "confusion", see there. A series is a group, by its place in the section.
Shape legend: E epochs, C classes, R ratios.
"""

from typing import Any

import numpy as np

from reporting.confusion import confusion_chart, most_frequent_first
from reporting.groups import THIRDS, Group
from reporting.metrics import metric_beside
from reporting.shifted import few_images, place
from reporting.tables import words_for

CURVES = {"test_loss": "test loss", "loss": "training loss", "ece": "expected calibration error"}
NATS, SHARES = {"test_loss", "loss", "pl_kl"}, {"acc_u", "acc_selected", "mask"}  # in a log; all others are percent
PSEUDO = {
    "acc_u": "right, of all pseudo-labels",
    "acc_selected": "right, of those the loss used",
    "mask": "used by the loss, of all (mask rate)",
    **{f"pl_precision_{third}": f"precision of those used, {third}" for third in THIRDS},
    **{f"pl_recall_{third}": f"recall, {third}" for third in THIRDS},
    **{f"pl_mask_{third}": f"mask rate, {third}" for third in THIRDS},
    "pl_kl": "divergence from the true class distribution",
}
LAST = {
    "precision": "precision of the pseudo-labels used",
    "recall": "recall of the pseudo-labels used",
    "mask_rate": "mask rate",
}


def dots(groups: list[Group], metric: str, name: str) -> list[dict[str, Any]]:
    """{"kind": "dots", "rows"}: the mean of the last epochs of every seed, their mean and deviation, the published."""
    rows = []
    for series, group in enumerate(groups):
        if group.finished and (figure := group.figures["last_20_mean"][metric]):
            seeds = [_short(run.figures["last_20_mean"][metric]) for run in group.runs]
            paper = group.paper.figure.mean if group.paper and metric == metric_beside(groups) else None
            row = {"series": series, "label": group.name, "seeds": seeds, "mean": _short(figure.mean)}
            rows.append(row | {"sd": figure.sd and _short(figure.sd), "paper": paper})
    words = words_for("last_20_mean", [group for group in groups if group.finished]).partition(" (")[0]
    return [{"kind": "dots", "title": f"{name}, {words}", "unit": "%", "rows": rows}] if rows else []


def epochs(groups: list[Group], columns: dict[str, str]) -> list[dict[str, Any]]:
    """A chart over the epochs per column that any run has: mean over seeds, and the lowest and highest of them."""
    charts = []
    for column, title in columns.items():
        lines = [line for series, group in enumerate(groups) for line in _over_epochs(series, group, column)]
        if lines:
            unit = "nats" if column in NATS else "%"
            charts.append({"kind": "line", "title": title, "unit": unit, "xlabel": "epoch", "lines": lines})
    return charts


def _over_epochs(series: int, group: Group, column: str) -> list[dict[str, Any]]:
    columns = [run.columns for run in group.runs if column in run.columns]
    by_epoch = [dict(zip(one["epoch"], one[column], strict=True)) for one in columns]
    common = sorted(set.intersection(*map(set, by_epoch))) if by_epoch else []
    values = np.array([[one[epoch] for epoch in common] for one in by_epoch]) * (100 if column in SHARES else 1)
    if not np.isfinite(values).any():  # also if there are none
        return []
    return [_line(series, [(group.runs[0].about.get("start_epoch") or 0) + epoch for epoch in common], values)]


def per_class(groups: list[Group]) -> list[dict[str, Any]]:
    """Test recall, and the last epoch's pseudo-labels; one chart of each for every list of classes and counts."""
    charts: list[dict[str, Any]] = []
    alike: dict[tuple, dict[int, Group]] = {}
    for series, group in enumerate(groups):
        if group.classes:
            alike.setdefault((tuple(group.classes), tuple(group.counts or ())), {})[series] = group
    for (names, counts), here in alike.items():
        order = most_frequent_first(names, counts)
        base = {"kind": "line", "unit": "%", "xlabel": "class, most frequent first"}
        base |= {"names": [names[i] for i in order], "area": [counts[i] for i in order] if counts else None}
        recall = {s: [r.figures["last_20_mean"]["recall"] for r in g.runs] for s, g in here.items() if g.finished}
        charts.append(base | {"title": "recall, mean of the last epochs", "lines": _over_classes(recall, order)})
        for figure, title in LAST.items():
            last = {s: [values[-1] for values in _diagnostics(g, figure) if len(values)] for s, g in here.items()}
            charts.append(base | {"title": f"{title}, last epoch", "lines": _over_classes(last, order)})
    return [chart for chart in charts if chart["lines"]]


def _diagnostics(group: Group, figure: str) -> list[np.ndarray]:
    """The figure of each run that has it."""
    return [run.diagnostics[figure] for run in group.runs if run.diagnostics and figure in run.diagnostics]


def _over_classes(values: dict[int, list[Any]], order: np.ndarray) -> list[dict[str, Any]]:
    """values: series -> (C,) per run; a series without a number has no line."""
    arrays = {series: np.array(rows, dtype=float) for series, rows in values.items() if len(rows)}
    known = {series: array for series, array in arrays.items() if np.isfinite(array).any()}
    return [_line(series, list(range(len(order))), array[:, order]) for series, array in known.items()]


def shifted(groups: list[Group]) -> list[dict[str, Any]]:
    """Top-1 on the shifted test sets, a chart per list of ratios; band: the seeds' range, of one seed its interval."""
    charts: dict[tuple, dict[str, Any]] = {}
    for series, group in enumerate(groups):
        for ratios in dict.fromkeys(tuple(run.shifted["ratios"]) for run in group.runs if run.shifted):
            found = [run.shifted for run in group.runs if run.shifted and tuple(run.shifted["ratios"]) == ratios]
            line = _line(series, list(range(len(ratios))), np.array([one["top1"] for one in found], dtype=float))
            if len(found) == 1:
                line |= {part: [_short(v) for v in found[0][part]] for part in ("low", "high")}
            base = {"kind": "line", "title": f"top-1 on shifted test sets of {group.dataset}", "unit": "%"}
            base |= {"warning": few_images(found[0]["images"]), "names": list(map(str, ratios))}
            base |= {"at": place(ratios).tolist(), "xlabel": "imbalance ratio, log scale; negative: reversed"}
            charts.setdefault(ratios, base | {"lines": []})["lines"].append(line)
    return list(charts.values())


def confusions(groups: list[Group]) -> list[dict[str, Any]]:
    """Per group, percent of the true class in rows, all seeds: {"kind": "confusion", "names", "cells" (C, C)}."""
    charts = []
    for series, group in enumerate(groups):
        if found := _diagnostics(group, "confusion"):
            counts = np.sum(found, axis=0, dtype=float)
            charts.append(confusion_chart(group.name, series, counts, group.classes, group.counts))
    return charts


def _line(series: int, x: list[float], values: np.ndarray) -> dict[str, Any]:
    """values: (runs, X) -> their mean, and their range where there are several, over the runs that have a number there;
    None where none has.
    """
    known = np.ma.masked_invalid(values)
    parts = {"y": known.mean(axis=0)}
    if len(values) > 1:
        parts |= {"low": known.min(axis=0), "high": known.max(axis=0)}
    return {"series": series, "x": x} | {part: [_short(v) for v in y.filled(np.nan)] for part, y in parts.items()}


def _short(value: float) -> float | None:
    """Four digits are more than a chart shows, and half the page's size."""
    return float(f"{value:.4g}") if np.isfinite(value) else None

"""What the page's charts show, as plain numbers for line_charts.js and dots_and_confusion.js to draw.

A chart is {"kind": "line", "title", "unit", "xlabel", "names" of the places on the x axis (else it is numbers), "at"
(where these lie, else side by side), "area" (of classes: labelled images), "lines": [{"series", "x", "y", "low",
"high"}]}, or of kind "dots" or "confusion", see there. A series is a group, by its place in the section.
Shape legend: E epochs, C classes, R ratios.
"""

from typing import Any

import numpy as np

from reporting.groups import METRICS, Group
from reporting.shifted import place

THIRDS = {"many": "many", "medium": "medium", "few": "few"}
CURVES = METRICS | {"test_loss": "test loss", "loss": "training loss", "ece": "expected calibration error"}
NATS = {"test_loss", "loss", "pl_kl"}
PSEUDO = {
    "acc_u": "right, of all pseudo-labels",
    "acc_selected": "right, of those the loss used",
    "mask": "used by the loss, of all (mask rate)",
    **{f"pl_precision_{third}": f"precision of those used, {third}" for third in THIRDS},
    **{f"pl_recall_{third}": f"recall, {third}" for third in THIRDS},
    **{f"pl_mask_{third}": f"mask rate, {third}" for third in THIRDS},
    "pl_kl": "divergence from the true class distribution",
}
SHARES = {"acc_u", "acc_selected", "mask"}  # the log has shares of 1


def dots(groups: list[Group], metric: str) -> list[dict[str, Any]]:
    """Last-20 mean of every seed, their mean and standard deviation, the published figure: {"kind": "dots", "rows"}."""
    rows = []
    for series, group in enumerate(groups):
        figure = group.finished and group.figures["last_20_mean"][metric]
        if figure:
            seeds = [_short(run.figures["last_20_mean"][metric]) for run in group.runs]
            paper = group.paper.mean if group.paper and metric == "top1" else None
            rows.append(
                {
                    "series": series,
                    "label": group.name,
                    "seeds": seeds,
                    "mean": _short(figure.mean),
                    "sd": figure.sd and _short(figure.sd),
                    "paper": paper,
                }
            )
    title = f"{METRICS[metric]}, last-20 mean"
    return [{"kind": "dots", "title": title, "unit": "%", "rows": rows}] * bool(rows)


def epochs(groups: list[Group], columns: dict[str, str]) -> list[dict[str, Any]]:
    """A chart over the epochs per column that any run has: mean over seeds, and the lowest and highest of them."""
    charts = []
    for column, title in columns.items():
        lines = [line for series, group in enumerate(groups) for line in _over_epochs(series, group, column)]
        unit = "nats" if column in NATS else "%"
        if lines:
            charts.append({"kind": "line", "title": title, "unit": unit, "xlabel": "epoch", "lines": lines})
    return charts


def _over_epochs(series: int, group: Group, column: str) -> list[dict[str, Any]]:
    runs = [run.columns for run in group.runs if column in run.columns]
    if not runs:
        return []
    common = sorted(set.intersection(*(set(columns["epoch"]) for columns in runs)))
    if not common:
        return []
    at = [dict(zip(columns["epoch"], columns[column], strict=True)) for columns in runs]
    values = np.array([[one[epoch] for epoch in common] for one in at]) * (100 if column in SHARES else 1)
    if not np.isfinite(values).any():
        return []
    start = group.runs[0].about.get("start_epoch") or 0
    return [_line(series, [start + epoch for epoch in common], values)]


def per_class(groups: list[Group]) -> list[dict[str, Any]]:
    """Charts over the classes, most frequent first: test recall, and the last epoch's pseudo-labels; one of each for
    every list of classes and counts.
    """
    charts = []
    kinds = list(dict.fromkeys((tuple(g.classes), tuple(g.counts or ())) for g in groups if g.classes))
    for names, counts in kinds:
        order = np.argsort(-np.array(counts or [0] * len(names)), kind="stable")
        here = [(s, g) for s, g in enumerate(groups) if (tuple(g.classes), tuple(g.counts or ())) == (names, counts)]
        base = {
            "kind": "line",
            "unit": "%",
            "xlabel": "class, most frequent first",
            "names": [names[i] for i in order],
            "area": [counts[i] for i in order] if counts else None,
        }
        recall = {s: [r.figures["last_20_mean"]["recall"] for r in g.runs] for s, g in here if g.finished}
        charts.append(base | {"title": "test recall, last-20 mean", "lines": _classes(recall, order)})
        for figure, title in _LAST.items():
            last = {s: _last(g, figure) for s, g in here}
            charts.append(base | {"title": f"{title}, last epoch", "lines": _classes(last, order)})
    return [chart for chart in charts if chart["lines"]]


_LAST = {
    "precision": "precision of the pseudo-labels used",
    "recall": "recall of the pseudo-labels used",
    "mask_rate": "mask rate",
}


def _last(group: Group, figure: str) -> list[np.ndarray]:
    """The figure in the last epoch, (C,) per run that has it."""
    known = [run.diagnostics[figure] for run in group.runs if run.diagnostics and figure in run.diagnostics]
    return [values[-1] for values in known if len(values)]


def _classes(values: dict[int, list[Any]], order: np.ndarray) -> list[dict[str, Any]]:
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
            base = {
                "kind": "line",
                "title": "top-1 on shifted test sets",
                "unit": "%",
                "names": list(map(str, ratios)),
                "at": place(ratios).tolist(),
                "lines": [],
                "xlabel": "imbalance ratio, log scale; negative: reversed",
            }
            charts.setdefault(ratios, base)["lines"].append(line)
    return list(charts.values())


def confusions(groups: list[Group]) -> list[dict[str, Any]]:
    """Per group, percent of the true class in rows, all seeds: {"kind": "confusion", "names", "cells" (C, C)}."""
    charts = []
    for series, group in enumerate(groups):
        found = [r.diagnostics["confusion"] for r in group.runs if r.diagnostics and "confusion" in r.diagnostics]
        if not found:
            continue
        counts = np.array(group.counts or [0] * len(group.classes))
        order = np.argsort(-counts, kind="stable")
        total = np.sum(found, axis=0, dtype=float)[np.ix_(order, order)]
        cells = 100 * total / np.maximum(total.sum(axis=1, keepdims=True), 1)
        cells = np.round(cells, 1 if len(order) <= 20 else 0).tolist()
        names = [group.classes[i] for i in order]
        charts.append({"kind": "confusion", "title": group.name, "series": series, "names": names, "cells": cells})
    return charts


def _line(series: int, x: list[float], values: np.ndarray) -> dict[str, Any]:
    """values: (runs, X) -> their mean, and their range where there are several, over the runs that have a number there;
    None where none has.
    """
    known = np.ma.masked_invalid(values)
    over_runs = lambda figure: [_short(v) for v in figure.filled(np.nan)]
    line = {"series": series, "x": x, "y": over_runs(known.mean(axis=0))}
    if len(values) > 1:
        line |= {"low": over_runs(known.min(axis=0)), "high": over_runs(known.max(axis=0))}
    return line


def _short(value: float) -> float | None:
    """Four digits are more than a chart shows, and half the page's size."""
    return float(f"{value:.4g}") if np.isfinite(value) else None

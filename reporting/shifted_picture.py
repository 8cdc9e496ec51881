"""shifted.png: top-1 over the ratios of shifted test sets, a curve for the seeds of a method.

Shape legend: R ratios. Records: see reporting/shifted_files.py.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reporting.figures import COLOURS, finish, tidy
from reporting.protocol import colour_of
from reporting.shifted import CONFIDENCE, few_images, place

MARKERS = "osD^vP*X"  # of the curves of a method, which share its colour
Records = list[dict[str, Any]]


def shifted_curves(records: Records, path: Path) -> None:
    """Draw to `path` (PNG) the mean of the runs that differ only in their seed, between the lowest and the highest of
    them; of a single run, its interval. A method has one colour; dashed with known prior.
    """
    rows = seeds_together(records)
    figure = Figure(figsize=(11, 6 + 0.15 * len(rows)), layout="constrained")
    axes = figure.subplots()
    numbers = [colour_of(row[0]["method"]) for row in rows]
    for index, (row, label) in enumerate(zip(rows, _labels(rows), strict=True)):
        colour, marker = COLOURS[numbers[index]], MARKERS[numbers[:index].count(numbers[index]) % len(MARKERS)]
        x, style = place(row[0]["ratios"]), {"color": colour, "marker": marker, "markersize": 4}
        y, low, high = _mean_and_band(row)
        axes.plot(x, y, label=label, **style)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if row[0]["known_prior"]:
            axes.plot(x, np.mean([one["known_prior"]["top1"] for one in row], axis=0), linestyle="--", **style)
    named = [ratio for ratio in records[0]["ratios"] if ratio != 150]  # too close to 128
    axes.set_xticks(place(named), map(str, named))
    axis = "imbalance ratio of the test set (log scale; above 1: as in training; negative: reversed)"
    axes.set_xlabel(f"{axis}\n{_key(rows)}")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_ylim(0, 100)
    tidy(axes)
    warning = few_images(records[0]["images"])
    finish(figure, axes, title_of(records) + (f"\n{warning}" if warning else ""), path)


def seeds_together(records: Records) -> list[Records]:
    """The records by rows: of runs that differ only in their seed. A run whose arguments aren't known stands alone, as
    does another one with the same seed.
    """
    rows: dict[str, Records] = {}
    for record in records:
        about = [record["method"], record["epoch"], record["protocol"] or record["checkpoint"]]
        key = json.dumps(about, sort_keys=True)
        if any(one["seed"] == record["seed"] for one in rows.get(key, [])):
            key = json.dumps([*about, record["checkpoint"]], sort_keys=True)
        rows.setdefault(key, []).append(record)
    return list(rows.values())


def _mean_and_band(row: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper end of the band, percent, (R,) each."""
    top1 = np.array([one["top1"] for one in row])
    if len(row) == 1:
        return top1[0], np.array(row[0]["low"]), np.array(row[0]["high"])
    return top1.mean(axis=0), top1.min(axis=0), top1.max(axis=0)


def _key(rows: list[Records]) -> str:
    """What bands and dashes are, in words."""
    several, interval = "line: mean, band: lowest to highest seed", f"{CONFIDENCE} % interval"
    alone = {len(row) == 1 for row in rows}
    words = f"band: {interval}" if alone == {True} else several
    words += f"; of one run its {interval}" if len(alone) > 1 else ""
    return words + ("; dashed: with known prior" if rows[0][0]["known_prior"] else "")


def title_of(records: Records) -> str:
    """Names the data set: of one's own images by their folder."""
    first = records[0]
    folder = f" {Path(first['data_root']).name}" if first["dataset"] == "folder" else ""
    return f"Shifted test sets of {first['dataset']}{folder}"


def _labels(rows: list[Records]) -> list[str]:
    """The rows' methods, where one occurs twice what tells the paths of the first runs apart, and how many seeds."""
    methods, paths = [row[0]["method"] for row in rows], [Path(row[0]["run"]).absolute() for row in rows]
    common = os.path.commonpath(paths)
    labels = []
    for method, path, row in zip(methods, paths, rows, strict=True):
        words = [os.path.relpath(path, common)] if methods.count(method) > 1 else []
        words += [f"{len(row)} seeds"] if len(row) > 1 else []
        labels.append(f"{method} ({', '.join(words)})" if words else method)
    return [label.replace("$", r"\$") for label in labels]  # no formula

"""The two figures of `utils.compare`: test curves over the epochs, and recall per class.

Shape legend: E epochs of a run, C classes. `utils.compare.load_run` makes the runs.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.summary import replacing

# Okabe and Ito's colours, safe for the colour-blind; their yellow, too pale for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MOST_BARS = 30  # bars of more classes would be hairlines
FEW_EPOCHS = 30  # curves of so few points show the points

PANELS = {
    "balanced": "Balanced accuracy",
    "test_loss": "Test loss",
    "many": "Many (most frequent third)",
    "medium": "Medium (middle third)",
    "few": "Few (rarest third)",
}


def curves(runs: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw test curves of the EMA model over the epochs to `path` (PNG).

    runs: dicts with `label`, `summary`, `epochs` (E,) on the common x axis, and `columns`, one (E,) list of
    percentages (test_loss: nats) per name of PANELS.
    """
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    below = ["many", "many", "medium", "medium", "few", "few"]
    axes = figure.subplot_mosaic([["balanced"] * 3 + ["test_loss"] * 3, below])
    for name, heading in PANELS.items():
        _curve_panel(axes[name], runs, name)
        axes[name].set_title(heading, fontsize=12)
    for name in ("medium", "few"):
        axes[name].sharey(axes["many"])
    axes["balanced"].set_ylabel("mean recall (%)")
    axes["test_loss"].set_ylabel("cross-entropy (nats)")
    axes["many"].set_ylabel("mean recall (%)")
    steps = {run["summary"].get("steps_per_epoch") for run in runs}
    unit = f" (of {steps.pop()} steps)" if len(steps) == 1 and None not in steps else ""
    figure.supxlabel(f"epoch{unit}", fontsize=11)
    finish(figure, axes["balanced"], title, path)


def _curve_panel(axes: Axes, runs: list[dict[str, Any]], name: str) -> None:
    for index, run in enumerate(runs):
        marker = "o" if len(run["epochs"]) <= FEW_EPOCHS else None
        colour = COLOURS[index % len(COLOURS)]
        style = {"color": colour, "marker": marker, "markersize": 4, "label": run["label"]}
        axes.plot(run["epochs"], run["columns"][name], **style)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    tidy(axes)


def per_class(runs: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw each run's last-20 mean recall per class to `path` (PNG), most frequent class first.

    Up to MOST_BARS classes as bars over the class names and their labelled images, more as lines over the
    class's rank, with the labelled images on a second, logarithmic axis. A class absent from the test set
    stays empty. Order and counts are those of the first run.
    """
    first = runs[0]["summary"]
    counts = np.array(first["labelled_counts"])
    order = np.argsort(-counts, kind="stable")
    recalls = [np.array(run["summary"]["last_20_mean"]["recall"], dtype=float)[order] for run in runs]
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    if len(counts) <= MOST_BARS:
        _bars(axes, runs, recalls)
        _name_classes(axes, [first["classes"][index] for index in order], counts[order])
    else:
        _lines(axes, runs, recalls)
        _count_axis(axes, counts[order])
    axes.set_ylim(0, 100)
    averaged = sorted({run["summary"]["epochs_averaged"] for run in runs})
    axes.set_ylabel(f"recall (%), mean of the last {' or '.join(map(str, averaged))} epochs")
    tidy(axes)
    finish(figure, axes, title, path)


def _bars(axes: Axes, runs: list[dict[str, Any]], recalls: list[np.ndarray]) -> None:
    width = 0.8 / len(runs)
    for index, (run, recall) in enumerate(zip(runs, recalls, strict=True)):
        middle = np.arange(len(recall)) + (index - (len(runs) - 1) / 2) * width
        colour = COLOURS[index % len(COLOURS)]
        axes.bar(middle, recall, width, color=colour, label=run["label"])
    axes.set_xlim(-0.6, len(recalls[0]) - 0.4)


def _name_classes(axes: Axes, names: list[str], counts: np.ndarray) -> None:
    upright = len(names) * max(map(len, names)) <= 110  # characters that fit side by side
    form = "{}\n{}" if upright else "{} ({})"
    labels = [form.format(name, count) for name, count in zip(names, counts, strict=True)]
    slant = {} if upright else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), labels, **slant)
    axes.set_xlabel("class and its labelled training images, most frequent first")


def _lines(axes: Axes, runs: list[dict[str, Any]], recalls: list[np.ndarray]) -> None:
    rank = np.arange(1, len(recalls[0]) + 1)
    for index, (run, recall) in enumerate(zip(runs, recalls, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        style = {"color": colour, "linewidth": 1.2, "marker": "o", "markersize": 3, "label": run["label"]}
        axes.plot(rank, recall, clip_on=False, **style)
    axes.set_xlim(0, len(rank) + 1)
    axes.set_xlabel("class, by rank of its labelled training images (1: most frequent)")


def _count_axis(axes: Axes, counts: np.ndarray) -> None:
    right = axes.twinx()
    rank, floor = np.arange(1, len(counts) + 1), 0.8  # an axis of logarithms has no zero
    right.fill_between(rank, np.maximum(counts, floor), floor, step="mid", color="0.9")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.set_ylim(bottom=floor)
    right.set_ylabel("labelled training images (log scale, grey area)")
    right.spines["top"].set_visible(False)
    # The area goes behind the lines: the left axes are drawn last, on a see-through ground.
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)


def tidy(axes: Axes) -> None:
    """Horizontal grid lines behind the data, no frame on top and right."""
    axes.grid(axis="y", color="0.85", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure: Figure, axes: Axes, title: str, path: Path) -> None:
    """Legend of `axes` and title above the figure, then write it to `path` (PNG)."""
    handles, labels = axes.get_legend_handles_labels()
    fitting = 106 // (max(map(len, labels)) + 6)  # columns; six characters' room for the line and the gap
    look = {"frameon": False, "fontsize": 11, "title_fontsize": 14, "ncols": max(1, min(len(labels), 4, fitting))}
    # The title belongs to the legend: only so are the two laid out one above the other.
    figure.legend(handles, labels, title=title or None, loc="outside upper center", **look)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)

"""How this project's figures look: colours, grid, title and legend."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, safe for the colour-blind; their yellow, too pale for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4B23", "#6A51A3", "#000000")


def tidy(axes: Axes) -> None:
    """Horizontal grid lines behind the data, no frame on top and right."""
    axes.grid(axis="y", color="0.85", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure: Figure, axes: Axes, title: str, path: Path) -> None:
    """Add title and legend (of what `axes` shows), and write the PNG."""
    handles, labels = axes.get_legend_handles_labels()
    fitting = 106 // (max(map(len, labels)) + 6)  # columns; six characters' room for the line and the gap
    look = {"frameon": False, "fontsize": 11, "title_fontsize": 14, "ncols": max(1, min(len(labels), 4, fitting))}
    # The title belongs to the legend: only so are the two laid out one above the other.
    figure.legend(handles, labels, title=title or None, loc="outside upper center", **look)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    figure.savefig(path, format="png", dpi=130)

"""How this project's figures look: colours, grid, title and legend."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The page's on a light ground: Okabe and Ito's, safe for the colour-blind; pale ones darker, without their yellow; then
# brown and violet.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c0609a", "#3fa3dc", "#c98a00", "#7a4b23", "#6a51a3", "#000")


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

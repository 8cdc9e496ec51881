"""The report's tables, made once and written as Markdown and LaTeX (and HTML, see reporting.page).

Shape legend: C classes.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from reporting.groups import METRICS, STATISTICS, Group
from reporting.published import Figure


class Cell(NamedTuple):
    """What is shown; what it is sorted by; whether it is the best of its column."""

    text: str
    value: float | None = None
    best: bool = False


class Table(NamedTuple):
    """rows: one Cell per heading; the first column names the row."""

    caption: str
    headings: list[str]
    rows: list[list[Cell]]


def show(figure: Figure | None) -> str:
    """Mean and standard deviation with two decimals; a dash without a figure, no deviation for one run."""
    if figure is None:
        return "–"
    return f"{figure.mean:.2f}" + (f" ± {figure.sd:.2f}" if figure.sd is not None else "")


def _best(column: Iterable[Figure | None]) -> float | None:
    """The highest mean as it is shown; of equal ones all are the best, of one alone none is."""
    means = [round(figure.mean, 2) for figure in column if figure is not None]
    return max(means) if len(means) > 1 else None


def _cells(column: list[Figure | None], groups: list[Group]) -> list[Cell]:
    """The figures of a column, whose best is told only where it is known that the groups can be compared."""
    best = _best(column) if all(group.comparable for group in groups) else None
    return [Cell(show(f), f and f.mean, f is not None and round(f.mean, 2) == best) for f in column]


def _beside(groups: list[Group | None]) -> list[list[Cell]]:
    """Two columns: the published top-1, and how the measured one differs from it."""
    known = [group if group and group.paper else None for group in groups]
    paper = [Cell(show(g.paper), g.paper.mean) if g else Cell("–") for g in known]
    return [paper, [Cell(g.versus, g.gap) if g else Cell("–") for g in known]]


def figure_table(groups: list[Group], statistic: str) -> Table:
    """All figures of a setting's groups; for the last-20 mean also the published top-1 and the difference."""
    averaged = sorted({run.about["epochs_averaged"] for group in groups for run in group.runs})
    caption = f"Test figures in percent, {STATISTICS[statistic]}, mean ± standard deviation over n seeds"
    if statistic == "best":
        caption += " (each figure from its own best epoch)"
    elif averaged[0] < 20:
        caption += f" (over {' or '.join(map(str, averaged))} epochs, fewer than 20 where fewer were run)"
    columns = [[Cell(group.name) for group in groups], [Cell(str(group.n), group.n) for group in groups]]
    columns += [_cells([group.figures[statistic][name] for group in groups], groups) for name in METRICS]
    headings = ["method", "n", *METRICS.values()]
    if statistic == "last_20_mean" and any(group.paper for group in groups):
        headings[3:3] = ["published", "difference"]  # beside top-1
        columns[3:3] = _beside(groups)
    return Table(caption, headings, [list(row) for row in zip(*columns, strict=True)])


def overview(groups: list[Group]) -> Table:
    """The paper's table of a data set: top-1, last-20 mean; a row per method, columns per setting."""
    settings = list(dict.fromkeys(group.setting for group in groups))
    common = set.intersection(*(set(setting.split(", ")) for setting in settings))
    names = list(dict.fromkeys(group.name for group in groups))
    headings, columns = ["method"], [[Cell(name) for name in names]]
    for setting in settings:
        here = {group.name: group for group in groups if group.setting == setting}
        column = [here[name].figures["last_20_mean"]["top1"] if name in here else None for name in names]
        cells = _cells(column, list(here.values()))
        counted = [
            cell._replace(text=f"{cell.text} (n = {here[name].n})") if cell.value is not None else cell
            for name, cell in zip(names, cells, strict=True)
        ]
        headings.append(", ".join(word for word in setting.split(", ") if word not in common) or "top-1")
        columns.append(counted)
        if any(group.paper for group in here.values()):
            headings += ["published", "difference"]
            columns += _beside([here.get(name) for name in names])
    caption = "Top-1 accuracy in percent, last-20 mean, mean ± standard deviation over n seeds"
    caption += f"; {', '.join(word for word in settings[0].split(', ') if word in common)}" * bool(common)
    return Table(caption, headings, [list(row) for row in zip(*columns, strict=True)])


def markdown(table: Table) -> str:
    """A caption and an aligned table; the best of a column is bold."""
    clean = lambda text: re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(text.split()))
    rows = [[f"**{clean(c.text)}**" if c.best else clean(c.text) for c in row] for row in table.rows]
    rows.insert(0, [clean(name) for name in table.headings])
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    align = lambda row: [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    lines = [f"| {' | '.join(align(row))} |" for row in rows]
    return "\n".join([clean(table.caption), "", *lines])


_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "γ": r"$\gamma$",
    "–": "--",
    "|": "$|$",
    '"': "''",
}


def latex(table: Table) -> str:
    """A tabular with booktabs' rules; the best of a column is bold."""

    def clean(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))

    lines = [" & ".join(map(clean, table.headings)) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = [rf"\textbf{{{clean(c.text)}}}" if c.best else clean(c.text) for c in row]
        lines.append(" & ".join(cells) + r" \\")
    begin = [r"\begin{table}", r"\centering", rf"\caption{{{clean(table.caption)}}}"]
    begin += [rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}", r"\toprule"]
    return "\n".join([*begin, *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])

"""The tables of a section of the report: of one with several settings the paper's table."""

import statistics
from collections.abc import Iterator

from reporting.groups import METRICS, Group
from reporting.means import Figure
from reporting.metrics import sources
from reporting.summaries import STATISTICS
from reporting.tables import Cell, Table, figure_cells, figure_table, published_cells, words_for


def overview(groups: list[Group]) -> Table:
    """The paper's table of a data set: its metric, mean of the last epochs; a row per method, columns per setting, and
    for methods that have them all their mean and the worst.
    """
    settings, metric = list(dict.fromkeys(group.setting for group in groups)), groups[0].metric
    common = set.intersection(*(set(setting.split(", ")) for setting in settings))
    names = list(dict.fromkeys(group.name for group in groups))
    headings, columns, found = ["method"], [[Cell(name) for name in names]], []
    for setting in settings:
        by_name = {group.name: group for group in groups if group.setting == setting}
        here = [by_name.get(name) for name in names]
        column = [group.figures["last_20_mean"][metric] if group else None for group in here]
        counted = [
            cell._replace(text=f"{cell.text} (n = {group.n})") if group and cell.value is not None else cell
            for group, cell in zip(here, figure_cells(column, here), strict=True)
        ]
        headings.append(", ".join(word for word in setting.split(", ") if word not in common) or METRICS[metric])
        columns.append(counted)
        found.append(column)
        if any(group and group.paper for group in here):
            headings += ["published", "difference"]
            columns += published_cells(here)
    last = {group.name: group for group in groups}
    for heading, whole in _over_settings(found):
        headings.append(heading)
        columns.append(figure_cells(whole, [last[name] for name in names]))
    words = words_for("last_20_mean", groups)
    name = {"top1": "Top-1 accuracy", "balanced": "Balanced accuracy"}[metric]
    caption = f"{name} in percent, {words}, mean ± standard deviation over n seeds"
    if common:
        caption += f"; {', '.join(word for word in settings[0].split(', ') if word in common)}"
    caption += sources(groups)
    return Table(caption, headings, [list(row) for row in zip(*columns, strict=True)])


def _over_settings(found: list[list[Figure | None]]) -> Iterator[tuple[str, list[Figure | None]]]:
    """Mean and worst of the methods that have a figure in all settings. found: by setting, those of all methods."""
    means = [[figure.mean for figure in row if figure] for row in zip(*found, strict=True)]
    for heading, over in (("mean", statistics.fmean), ("worst", min)):
        yield heading, [Figure(over(row), None, 1) if len(row) == len(found) else None for row in means]


def section_tables(groups: list[Group], several: bool) -> list[Table]:
    """Of finished groups with several settings the paper's table, else all figures; none without groups."""
    if several and groups:
        return [overview(groups)]
    return [figure_table(groups, statistic) for statistic in STATISTICS if groups]

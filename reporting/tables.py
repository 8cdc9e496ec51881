"""The report's tables, made once; written in Markdown, in LaTeX, and on the page."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from reporting.groups import Group
from reporting.means import Figure
from reporting.metrics import metric_beside, metrics_of, sources
from reporting.protocol import dataset_of, intermediate, method_of, tested_on
from reporting.runs import FinishedRun
from reporting.summaries import STATISTICS


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

    @property
    def columns_of_words(self) -> list[bool]:
        """Whether a column holds no number, but something else than dashes."""
        columns = list(zip(*self.rows, strict=True))
        return [all(c.value is None for c in column) and any(c.text != "–" for c in column) for column in columns]


def show(figure: Figure | None) -> str:
    """Mean and standard deviation with two decimals; a dash without a figure, no deviation for one run."""
    if figure is None:
        return "–"
    return f"{figure.mean:.2f}" if figure.sd is None else f"{figure.mean:.2f} ± {figure.sd:.2f}"


def _best(column: Iterable[Figure | None]) -> float | None:
    """The highest mean as it is shown; of equal ones all are the best, of one alone none is."""
    means = [round(figure.mean, 2) for figure in column if figure is not None]
    return max(means) if len(means) > 1 else None


def figure_cells(column: list[Figure | None], groups: Sequence[Group | None]) -> list[Cell]:
    """The figures of a column, whose best is told only where it is known that the groups can be compared."""
    pairs = [(f, None if g and intermediate(g.method) else f) for f, g in zip(column, groups, strict=True)]
    best = _best(f for _, f in pairs) if all(group.comparable for group in groups if group) else None
    return [Cell(show(f), f and f.mean, one is not None and round(one.mean, 2) == best) for f, one in pairs]


def published_cells(groups: list[Group | None]) -> list[list[Cell]]:
    """Two columns: the published figure, and how the measured one differs from it."""
    known = [group if group and group.paper else None for group in groups]
    paper = [Cell(show(g.paper.figure), g.paper.figure.mean) if g else Cell("–") for g in known]
    return [paper, [Cell(g.versus, g.gap) if g else Cell("–") for g in known]]


def words_for(statistic: str, groups: list[Group]) -> str:
    """What a statistic is in runs that are shown together."""
    averaged = sorted({run.about["epochs_averaged"] for group in groups for run in group.runs if not run.is_floor})
    if statistic != "last_20_mean" or (groups and not averaged):
        return STATISTICS[statistic].replace("the test set", tested_on(groups[0].runs[0]))
    words = f"mean of the last {' or '.join(map(str, averaged))} {'epoch' if averaged == [1] else 'epochs'}"
    return words if averaged == [20] else f"{words} (a fifth of the run, 20 at most)"


def figure_table(groups: list[Group], statistic: str) -> Table:
    """All figures of a setting's groups; the mean of the last epochs with the published figure and the difference."""
    on = tested_on(groups[0].runs[0])
    caption = "Test figures" if on == "the test set" else f"Figures of {on}"
    caption += f" in percent, {words_for(statistic, groups)}, mean ± standard deviation over n seeds"
    if statistic == "best":
        caption += " (each figure from its own best epoch)"
    columns = [[Cell(group.name) for group in groups], [Cell(str(group.n), group.n) for group in groups]]
    metrics = metrics_of(groups)
    columns += [figure_cells([group.figures[statistic][name] for group in groups], groups) for name in metrics]
    headings = ["method", "n", *metrics.values()]
    if statistic == "last_20_mean" and any(group.paper for group in groups):
        place = 3 + list(metrics).index(metric_beside(groups))
        headings[place:place] = ["published", "difference"]
        columns[place:place] = published_cells(groups)
        caption += sources(groups)
    return Table(caption, headings, [list(row) for row in zip(*columns, strict=True)])


def sections(groups: list[Group]) -> Iterator[tuple[str, list[Group], bool]]:
    """Heading, groups, and whether they have several settings: each such data set as a whole, then each setting."""
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        settings = list(dict.fromkeys(group.setting for group in here))
        if len(settings) > 1:
            yield dataset, here, True
        for setting in settings:
            heading = f"{dataset}, {setting}" if setting else dataset
            yield heading, [group for group in here if group.setting == setting], False


def run_table(runs: list[FinishedRun]) -> Table:
    headings = ["run", "status", "data set", "method", "seed", "epochs", "time", "problem"]
    rows = []
    for run in runs:
        seconds = run.about.get("wall_seconds")
        done, wanted = run.about.get("epochs", 0), run.arguments.get("epochs")
        count = f"{done} of {wanted}" if run.status in ("running", "unfinished", "failed") and wanted else str(done)
        time = "–" if seconds is None else str(timedelta(seconds=round(seconds)))
        words = [run.folder, run.status, dataset_of(run), method_of(run)]
        numbers = [Cell("–" if run.seed is None else str(run.seed), run.seed), Cell(count, done), Cell(time, seconds)]
        rows.append([*map(Cell, words), *numbers, Cell("; ".join(run.problems) or "–")])
    return Table("Every run found", headings, rows)

"""The page: one HTML file that holds its style, its scripts and its numbers, and asks the network for nothing.

This file prepares plain data; page.html.j2 says how they look, and escapes them.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reporting.charts import CURVES, PSEUDO, confusions, dots, epochs, per_class, shifted
from reporting.groups import Group
from reporting.headline import headline
from reporting.metrics import metrics_of
from reporting.overview import section_tables
from reporting.protocol import colour_of, method_of, tested_on
from reporting.runs import FinishedRun
from reporting.tables import Table, run_table, sections
from utils.files import jsonable

HERE = Path(__file__).parent
DOTS = ("top1", "balanced", "few")  # metrics that are shown seed by seed


class Section(NamedTuple):
    """groups: the legend's, to which the charts' series refer; charts: kind -> places in the page's list of charts."""

    name: str
    tables: list[Table]
    groups: list[Group]
    charts: dict[str, range]

    @property
    def tested(self) -> str:
        """What its test figures are of, in words."""
        return tested_on(self.groups[0].runs[0]) if self.groups else ""

    @property
    def looks(self) -> list[str]:
        """Of each group, for the style sheet: a method has one colour on the whole page, its rows have other dashes."""
        colours = [colour_of(group.method) for group in self.groups]
        dashes = [f"dash{colours[:i].count(colour) % 6}" for i, colour in enumerate(colours)]
        rows = zip(self.groups, colours, dashes, strict=True)
        return [f"c{colour} {dash if group.finished else 'unfinished'}" for group, colour, dash in rows]


def page(runs: list[FinishedRun], groups: list[Group]) -> str:
    """The whole page. Equal runs give equal pages."""
    charts: list[dict[str, Any]] = []
    shown = [*by_setting(groups, charts), Section("Runs", [run_table(runs)], [], add_charts([], charts))]
    return from_template(
        "page.html.j2",
        counts=Counter(run.status for run in runs),
        with_problems=[run for run in runs if run.problems],
        headline=headline(groups),
        datasets=list(dict.fromkeys(group.dataset for group in groups)),
        sections=shown,
        configurations=[(run.folder, method_of(run), configuration(run)) for run in runs],
        charts=jsonable(charts),
    )


def from_template(template: str, **values: Any) -> str:
    """A page by its template, which escapes the values."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(asset=asset, **values)


def asset(name: str) -> str:
    """A style sheet or script that the page holds."""
    return (HERE / name).read_text(encoding="utf-8")


def by_setting(groups: list[Group], charts: list[dict[str, Any]]) -> Iterator[Section]:
    """The sections of the groups; what they show in charts is appended to `charts`."""
    for heading, here, several in sections(groups):
        tables = section_tables([group for group in here if group.finished], several)
        drawn = [] if several else here
        if tables or drawn:
            yield Section(heading, tables, drawn, add_charts(drawn, charts))


def add_charts(groups: list[Group], charts: list[dict[str, Any]]) -> dict[str, range]:
    """Append all charts of the groups to `charts`; kind -> their places there."""
    metrics = metrics_of(groups)
    new = {
        "dots": [chart for name in DOTS if name in metrics for chart in dots(groups, name, metrics[name])],
        "curves": epochs(groups, metrics | CURVES),
        "classes": per_class(groups),
        "confusion": confusions(groups),
        "pseudo": epochs(groups, PSEUDO),
        "shifted": shifted(groups),
    }
    places = {}
    for kind, some in new.items():
        places[kind] = range(len(charts), len(charts) + len(some))
        charts += some
    return places


def configuration(run: FinishedRun) -> dict[str, Any]:
    """All arguments and versions of a run."""
    return run.arguments | {
        f"version of {name}": version for name, version in (run.about.get("versions") or {}).items()
    }

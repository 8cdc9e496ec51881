"""The page: one HTML file that holds its style, its scripts and its numbers, and asks the network for nothing."""

import json
from datetime import timedelta
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from reporting.charts import CURVES, PSEUDO, confusions, dots, epochs, per_class, shifted
from reporting.groups import Group
from reporting.protocol import dataset_of, method_of
from reporting.runs import Run
from reporting.tables import Cell, Table, figure_table, overview
from utils.files import jsonable

HERE = Path(__file__).parent
COLOURS = 7
NOTES = {
    "dots": "Dots: seeds; upright line: their mean, also at the right; bar: one standard deviation to both sides; "
    "diamond: the figure of the paper.",
    "curves": "Of the averaged model on the test set, unless training is named. Lines: mean over seeds; bands: lowest "
    "to highest seed; dotted: unfinished. Co-learning counts its epochs from where pre-training left off.",
    "classes": "Points: mean over seeds; whiskers: lowest to highest seed; grey: labelled images, log scale.",
    "confusion": "Rows: true class, most frequent first; columns: predicted class, in the same order. Percent of the "
    "row, in the last epoch, all seeds together.",
    "pseudo": "What needs the true labels of the unlabelled images is there where they are known. Many, medium, few: "
    "of all pseudo-labels of an epoch, class by class, then the mean over a third of the classes; the divergence: of "
    "all of an epoch; the others: means over its steps. Lines: mean over seeds; bands: lowest to highest seed.",
    "shifted": "Each doubling of the ratio has the same width. Band: lowest to highest seed; of a single one, its 95 % "
    "interval.",
}


def page(runs: list[Run], groups: list[Group]) -> str:
    """The whole page. Equal runs give equal pages."""
    charts: list[dict[str, Any]] = []
    sections = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        settings = list(dict.fromkeys(group.setting for group in here))
        done = [group for group in here if group.finished]
        if len(settings) > 1 and done:
            sections.append((dataset, table_html(overview(done))))
        for setting in settings:
            part = [group for group in here if group.setting == setting]
            sections.append((f"{dataset}, {setting}" if setting else dataset, section(part, charts)))
    sections.append(("Runs", table_html(run_table(runs))))
    sections.append(("Configurations and versions", "\n".join(map(configuration, runs))))
    links = "".join(f'<a href="#s{i}">{escape(name)}</a>' for i, (name, _) in enumerate(sections))
    body = "\n".join(
        f'<section id="s{i}"><h2>{escape(name)}</h2>\n{content}</section>' for i, (name, content) in enumerate(sections)
    )
    read = lambda name: (HERE / name).read_text(encoding="utf-8")
    # Within <script>, "<" might begin "</script>"; JSON may spell it otherwise.
    data = json.dumps(jsonable(charts), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {"lead": lead(runs), "links": links, "body": body, "data": data}
    parts |= {"css": read("page.css"), "js": "".join(map(read, ("line_charts.js", "dots_and_confusion.js", "page.js")))}
    return Template(read("page.html")).substitute(parts)


def lead(runs: list[Run]) -> str:
    """How many runs there are of each kind, and below it what is wrong with which."""
    kinds = ("finished", "published code", "unfinished", "failed", "broken")
    counts = {kind: sum(run.status == kind for run in runs) for kind in kinds}
    tiles = "".join(f"<li><b>{count}</b> {kind}</li>" for kind, count in counts.items() if count)
    items = "".join(
        f"<li><b>{run.status}</b> <code>{escape(run.folder)}</code>: {escape('; '.join(run.problems))}</li>"
        for run in runs
        if run.problems
    )
    is_open = " open" * any(counts[kind] for kind in ("unfinished", "failed", "broken"))
    notes = f"<details class=problems{is_open}><summary>Problems and remarks</summary><ul>{items}</ul></details>"
    return f"<ul class=tiles>{tiles}</ul>{notes if items else ''}"


def section(groups: list[Group], charts: list[dict[str, Any]]) -> str:
    """Tables and charts of a setting; what the charts show is appended to `charts`."""
    done = [group for group in groups if group.finished]
    parts = [legend(groups)]
    first = dots(groups, "top1")
    if any(group.finished and group.figures["last_20_mean"]["balanced"] for group in groups):
        first += dots(groups, "balanced") + dots(groups, "few")
    parts.append(figures("", "dots", first, charts))
    if done:
        parts += [table_html(figure_table(done, "last_20_mean")), table_html(figure_table(done, "best"))]
    parts.append(figures("Training curves", "curves", epochs(groups, CURVES), charts))
    parts.append(figures("Per class", "classes", per_class(groups), charts, wide=True))
    parts.append(figures("Confusion", "confusion", confusions(groups), charts))
    parts.append(figures("Pseudo-labels", "pseudo", epochs(groups, PSEUDO), charts))
    parts.append(figures("Shifted test sets", "shifted", shifted(groups), charts, wide=True))
    return "\n".join(part for part in parts if part)


def legend(groups: list[Group]) -> str:
    line = "<svg width=26 height=10 aria-hidden=true><line x1=1 x2=25 y1=5 y2=5 /></svg>"
    buttons = "".join(
        f'<button type=button aria-pressed=true data-series={i} class="{series_class(i, group)}">{line}'
        f"{escape(group.name)}</button>"
        for i, group in enumerate(groups)
    )
    return f'<div class=legend role=group aria-label="Shown in the charts">{buttons}</div>'


def series_class(i: int, group: Group) -> str:
    dash = "unfinished" if not group.finished else f"dash{i // COLOURS % 3}"
    return f"series c{i % COLOURS} {dash}"


def figures(heading: str, note: str, new: list[dict[str, Any]], charts: list[dict[str, Any]], wide=False) -> str:
    """A grid of charts under a heading, if there is one, and a note; empty without charts."""
    if not new:
        return ""
    frames = "".join(f"<figure class=chart data-chart={len(charts) + i}></figure>" for i in range(len(new)))
    charts += new
    head = f"<h3>{heading}</h3>" if heading else ""
    return f"{head}<p class=note>{NOTES[note]}</p><div class='grid{' wide' * wide}'>{frames}</div>"


def table_html(table: Table) -> str:
    """A table whose columns are sorted by clicking on their headings."""
    columns = zip(*table.rows, strict=True)
    left = [all(c.value is None for c in column) and any(c.text != "–" for c in column) for column in columns]
    heads = "".join(
        f"<th scope=col{' class=left' * words}><button type=button>{escape(name)}</button></th>"
        for name, words in zip(table.headings, left, strict=True)
    )
    lines = [[_cell(cell, i == 0, left[i]) for i, cell in enumerate(row)] for row in table.rows]
    rows = "".join(f"<tr>{''.join(line)}</tr>\n" for line in lines)
    scroll = f'<div class=scroll tabindex=0 role=region aria-label="{escape(table.caption)}">'
    caption = f"<caption><span>{escape(table.caption)}</span></caption>"
    return f"{scroll}<table>{caption}<thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>"


def _cell(cell: Cell, first: bool, left: bool) -> str:
    if first:
        return f"<th scope=row>{escape(cell.text)}</th>"
    value = "" if cell.value is None else f' data-value="{cell.value:g}"'
    kind = f' class="{" ".join(names)}"' if (names := ["left"] * left + ["words"] * (len(cell.text) > 24)) else ""
    return f"<td{value}{kind}>{f'<b>{escape(cell.text)}</b>' if cell.best else escape(cell.text)}</td>"


def run_table(runs: list[Run]) -> Table:
    headings = ["run", "status", "data set", "method", "seed", "epochs", "time", "problem"]
    rows = []
    for run in runs:
        seconds = run.about.get("wall_seconds")
        done, wanted = run.about.get("epochs", 0), run.arguments.get("epochs")
        count = f"{done} of {wanted}" if run.status in ("unfinished", "failed") and wanted else str(done)
        time = "–" if seconds is None else str(timedelta(seconds=round(seconds)))
        words = [run.folder, run.status, dataset_of(run), method_of(run)]
        numbers = [Cell("–" if run.seed is None else str(run.seed), run.seed), Cell(count, done), Cell(time, seconds)]
        rows.append([*map(Cell, words), *numbers, Cell("; ".join(run.problems) or "–")])
    return Table("Every run found", headings, rows)


def configuration(run: Run) -> str:
    """All arguments and versions of a run, folded."""
    values = run.arguments | {f"version of {k}": v for k, v in (run.about.get("versions") or {}).items()}
    items = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
    return (
        f"<details><summary><code>{escape(run.folder)}</code> {escape(method_of(run))}</summary>"
        f"{f'<dl>{items}</dl>' if items else '<p>Not known: neither a summary nor a checkpoint tells.</p>'}</details>"
    )

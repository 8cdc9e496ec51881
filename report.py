"""Report of many runs: tables like the paper's, with the published figures beside them, and a page to look at.

    python report.py RESULTS_DIR... --out report

Finds every run in the folders and below, ours and the published code's, finished or not. Runs that differ only in their
seed are one row: mean, standard deviation (n - 1), n. Writes report.html (one file, needs no network), tables.md,
tables.tex, figures.csv and classes.csv; prints the tables, and whether the
floor wins.
"""

from utils.start import run_main

from pathlib import Path

from reporting.csv_files import classes_csv, figures_csv
from reporting.groups import Group, group
from reporting.headline import floor_verdict
from reporting.markdown_latex import latex, markdown
from reporting.overview import section_tables
from reporting.page import page
from reporting.runs import FinishedRun, find_runs
from reporting.tables import sections
from utils.args import Parser
from utils.errors import UserError
from utils.files import check_writable, replacing_all
from utils.flag_types import path
from utils.text import printable


def main() -> None:
    parser = Parser("Report of many runs: tables with the published figures beside them, and a page to look at.")
    add = parser.add_argument
    add("results", metavar="RESULTS_DIR", nargs="+", type=path, help="folder of a run, or one that runs lie below")
    add("--out", type=path, default=Path("report"), help="folder for report.html and the tables")
    args = parser.parse_args()

    check_writable(args.out)
    runs = find_runs(args.results)
    if not runs:
        raise UserError(f"{' '.join(map(printable, args.results))}: no runs there; give the folders that --out named")
    groups = group(runs)
    if not groups:
        problems = "; ".join(f"{printable(run.folder)}: {', '.join([run.status, *run.problems])}" for run in runs)
        raise UserError(f"nothing to report, no run is whole: {problems}")
    write(args.out, runs, groups)


def write(out: Path, runs: list[FinishedRun], groups: list[Group]) -> None:
    """Write every file of the report, and print its tables, its problems and where it is."""
    finished = [one for one in groups if one.finished]
    tables = {heading: section_tables(part, several) for heading, part, several in sections(finished)}
    out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(f"## {name}\n\n" + "\n\n".join(map(markdown, part)) for name, part in tables.items())
    floats = ["% needs \\usepackage{booktabs}", *(latex(table) for part in tables.values() for table in part)]
    files = {
        "report.html": page(runs, groups),
        "tables.md": text + "\n",
        "tables.tex": "\n\n".join(floats) + "\n",
        "figures.csv": figures_csv(finished),
        "classes.csv": classes_csv(finished),
    }
    with replacing_all([out / name for name in files]) as temporaries:
        for temporary, content in zip(temporaries, files.values(), strict=True):
            temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
    print(text.encode(errors="backslashreplace").decode() + "\n")
    for run in runs:
        if run.status != "finished" or run.problems:
            print(f"{printable(run.folder)}: {'; '.join([run.status, *map(printable, run.problems)])}")
    print(f"report of {len(runs)} {'runs' if len(runs) > 1 else 'run'}: {printable(out / 'report.html')}")
    if verdict := floor_verdict(groups):
        print(printable(verdict))


if __name__ == "__main__":
    run_main(main)

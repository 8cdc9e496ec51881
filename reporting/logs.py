"""Reading `log.txt`, ours and the published code's: tab-separated, names of the columns first, a line per epoch.

Shape legend: E epochs.
"""

import math
from pathlib import Path

from reporting.published_code import COLUMNS, in_percent


def read_log(path: Path) -> tuple[dict[str, list[float]], list[str], bool]:
    """Columns (E,) by our names, with `epoch`; what is wrong, in words; whether it is the published code's file.

    A line that isn't whole (another number of cells, no number, no end of line) is left out. Test figures are in
    percent. A file that can't be read gives no columns.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, [f"no {path.name}"], False
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{path.name} can't be read ({type(error).__name__})"], False
    first, *lines = text.split("\n")
    headings = [name.strip() for name in first.rstrip("\r\t ").split("\t")]
    names = [COLUMNS.get(name, name) for name in headings]
    whole, broken = _rows(lines, names)
    columns = {name: [row[i] for row in whole] for i, name in reversed(list(enumerate(names)))}
    columns.setdefault("epoch", [float(n) for n in range(1, len(whole) + 1)])
    foreign = names != headings
    if foreign:
        columns = in_percent(columns)
    problems = [f"{path.name}: line {', '.join(map(str, broken))} not whole, left out"] if broken else []
    if not whole:
        problems.append(f"{path.name} has no whole line of figures")
    return columns if whole else {}, problems, foreign


def _rows(lines: list[str], names: list[str]) -> tuple[list[list[float]], list[int]]:
    """Whole lines as numbers, and the line numbers (from 1, the headings being 1) of the others."""
    rows, broken = [], []
    for number, line in enumerate(lines, 2):
        ended, line = number < len(lines) + 1, line.rstrip("\r\t ")
        if not line:
            continue
        try:
            row = [float(cell) for cell in line.split("\t")]
        except ValueError:
            row = []
        if ended and len(row) == len(names) and math.isfinite(dict(zip(names, row, strict=True)).get("epoch", 1)):
            rows.append(row)
        else:
            broken.append(number)
    return rows, broken

"""Reading `log.txt`, ours and the published code's: tab-separated, names of the columns first, a line per epoch.

Shape legend: E epochs.
"""

import math
import re
from pathlib import Path

from utils.files import read_regular

# Spellings of the published code, without case and punctuation. What it calls bAcc is plain top-1.
ALIASES = {
    "trainloss": "loss",
    "testloss": "test_loss",
    "testacc": "top1",
    "acc": "top1",
    "bacc": "top1",
    "testbacc": "top1",
    "gm": "gm",
    "testgm": "gm",
}
PERCENT = ("top1", "gm")


def read_log(path: Path) -> tuple[dict[str, list[float]], list[str], bool]:
    """Columns (E,) by our names, with `epoch`; what is wrong, in words; whether it is the published code's file.

    A line that isn't whole (another number of cells, no number, no end of line) is left out. Accuracies of the
    published code in shares of 1 become percent. A file that can't be read gives no columns.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except FileNotFoundError:
        return {}, ["no log.txt"], False
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"log.txt can't be read ({type(error).__name__})"], False
    first, *lines = text.split("\n")
    headings = [name.strip() for name in first.rstrip("\r\t ").split("\t")]
    names = [ALIASES.get(re.sub("[^a-z0-9]", "", name.lower()), name) for name in headings]
    names = ["epoch" if name.lower() == "epoch" else name for name in names]
    whole, broken = _rows(lines, names)
    columns = {name: [row[i] for row in whole] for i, name in reversed(list(enumerate(names)))}
    columns.setdefault("epoch", [float(n) for n in range(1, len(whole) + 1)])
    foreign = names != headings
    if foreign:
        for name in PERCENT:
            if name in columns and max((v for v in columns[name] if math.isfinite(v)), default=2) <= 1:
                columns[name] = [100 * value for value in columns[name]]
    problems = [f"log.txt: line {', '.join(map(str, broken))} not whole, left out"] if broken else []
    if not whole:
        problems.append("log.txt has no whole line of figures")
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

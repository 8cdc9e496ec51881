"""What eval_shifted_test_distribution.py shows and writes: a table, CSV, JSON, a figure, and a file for each run.

Shape legend: R ratios. A record is a run's `run`, `method`, `dataset`, `epoch`, `checkpoint`, `seed`,
`protocol` (the arguments that decide its numbers, empty where not known) and its `shifted_figures`.
"""

import csv
from pathlib import Path
from typing import Any

from reporting.shifted import CONFIDENCE, RESAMPLES, few_images
from reporting.shifted_picture import shifted_curves, title_of
from utils.files import replacing_all, to_json

FIGURES = ("top1", "low", "high", "weighted", "weighted_low", "weighted_high")
KNOWN = tuple(f"known_prior_{name}" for name in FIGURES)
SIDE_BY_SIDE = 3  # runs, in one block of the table


def table(records: list[dict[str, Any]]) -> str:
    """Figures in percent, a line per ratio and below them the worst and the area; for each run top-1 with its interval
    and the weighted figure, and where it is there top-1 with known prior.
    """
    blocks = [f"{title_of(records)}: accuracy in percent; in brackets, the {CONFIDENCE} % interval of top-1"]
    if warning := few_images(records[0]["images"]):
        blocks.append(f"warning: {warning}")
    for start in range(0, len(records), SIDE_BY_SIDE):
        part = records[start : start + SIDE_BY_SIDE]
        names = [f"run {start + i}: {r['method']}, {r['run']}, epoch {r['epoch']}" for i, r in enumerate(part, 1)]
        blocks.append("\n".join([*names, "", _aligned(_rows(part, start))]))
    return "\n\n".join(blocks)


def _rows(records: list[dict[str, Any]], start: int) -> list[list[str]]:
    first = records[0]
    rows = [["ratio", *map(str, first["ratios"]), "worst", "area"], ["images", *map(str, first["images"]), "", ""]]
    for i, record in enumerate(records, start + 1):
        interval = zip(record["top1"], record["low"], record["high"], strict=True)
        cells = [f"{top1:.2f} [{low:.2f}, {high:.2f}]" for top1, low, high in interval]
        rows.append([f"{i}: top-1", *cells, *_worst_and_area(record)])
        rows.append([f"{i}: weighted", *(f"{value:.2f}" for value in record["weighted"]), "", ""])
        if known := record["known_prior"]:
            cells = [f"{value:.2f}" for value in known["top1"]]
            rows.append([f"{i}: known prior", *cells, *_worst_and_area(known)])
    return [list(row) for row in zip(*rows, strict=True)]


def _worst_and_area(figures: dict[str, Any]) -> list[str]:
    return ["{top1:.2f} at {ratio}".format(**figures["worst"]), f"{figures['area']:.2f}"]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * (width - 1) + ":" for width in widths], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str.rjust, row, widths))} |" for row in rows)


def write(out: Path, dataset: str, records: list[dict[str, Any]], folders: dict[Path, int]) -> None:
    """shifted.csv, shifted.json and shifted.png in `out`; and shifted.json in the folders of runs, each for the record
    of that number. None replaces an old file before all are whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = {"dataset": dataset, "confidence": CONFIDENCE, "resamples": RESAMPLES}
    paths = [out / name for name in ("shifted.csv", "shifted.json", "shifted.png")]
    with replacing_all([*paths, *(folder / "shifted.json" for folder in folders)]) as temporaries:
        cells, figures, picture, *of_runs = temporaries
        _write_csv(cells, records)
        figures.write_text(to_json(about | {"runs": records}), encoding="utf-8")
        shifted_curves(records, picture)
        for path, number in zip(of_runs, folders.values(), strict=True):
            record = {name: value for name, value in records[number].items() if name != "run"}
            path.write_text(to_json(record), encoding="utf-8")


def _write_csv(path: Path, records: list[dict[str, Any]]) -> None:
    """A line per run and ratio; the columns of known priors only where one of the runs has them."""
    known = KNOWN if any(record["known_prior"] for record in records) else ()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "method", "dataset", "epoch", "ratio", "images", *FIGURES, *known])
        for record in records:
            about = [record[name] for name in ("run", "method", "dataset", "epoch")]
            for i, (ratio, images) in enumerate(zip(record["ratios"], record["images"], strict=True)):
                values = [record[name][i] for name in FIGURES]
                values += [record["known_prior"][name][i] for name in FIGURES if known]
                writer.writerow([*about, ratio, images, *(f"{value:.4f}" for value in values)])

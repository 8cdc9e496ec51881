"""The table of docs/own-images.md: what comes out of own images in equal minutes, by method, start and data.

    python benchmarks/own_images_table.py --data data --out results/own --plan
    python benchmarks/own_images_table.py --data data --out results/own --seeds 1 2 3
    python benchmarks/own_images_table.py --out results/own --table

`data` holds folders called fashion-SEED and clipart-SEED, see benchmarks/own_images.py, and lite0.pth, see
benchmarks/lite0.py. Each run is `train_folder.py` with a method of its own for all of the time. How many steps that are
is planned by seed 1, on a machine that has nothing else to do, and written to OUT/lengths.csv; then runs may share a
machine. Figures of finished runs are kept in OUT/figures.csv; what stands there is skipped, so that many hours can be
spread over days and machines (docs/own-images.csv and docs/own-images-lengths.csv are ours). --only names parts.
Starts: EfficientNet-Lite0 with ImageNet's weights at 64 pixels, and WRN-10-1 from scratch at 32.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection
from itertools import product, starmap
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.saved import add_rows, markdown_table, mean_and_spread, rows_of
from methods.floors import FLOORS

ROOT = Path(__file__).resolve().parents[1]
STARTS = {
    "scratch": ["--depth", 10, "--width", 1, "--img_size", 32],
    "pre-trained": ["--arch", "timm:tf_efficientnet_lite0", "--img_size", 64, "--weights"],
}
METHODS = ("supervised", "fix", "cossl")
RECORD, PLANNED, LENGTHS = "figures.csv", "lengths.csv", ("steps", "steps_cossl", "evaluations")


class Cell(NamedTuple):
    """Of the table; its seeds take the same steps."""

    images: str
    minutes: str
    start: str
    method: str


def train_folder(args: argparse.Namespace, cell: Cell, seed: int, out: Path, *flags: object) -> None:
    weights = [args.data / "lite0.pth"] if cell.start == "pre-trained" else []
    command = [sys.executable, ROOT / "train_folder.py", args.data / f"{cell.images}-{seed}"]
    command += [*STARTS[cell.start], *weights, "--minutes", cell.minutes, "--method", cell.method, "--no-baseline"]
    command += ["--manualSeed", seed, "--gpu", "cpu", *flags, "--out", out]
    print(" ".join(map(str, command)), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "printed.txt").open("a") as file:
        subprocess.run([*map(str, command)], check=True, stdout=file, stderr=subprocess.STDOUT)


def lengths(args: argparse.Namespace, cell: Cell) -> list[str]:
    """Of `LENGTHS`, as written down, or planned now; "" for a stage that isn't trained."""
    rows = rows_of(args.out / PLANNED)
    if all(cell != of(row) for row in rows):
        out = args.out / "plans" / "-".join(cell)
        train_folder(args, cell, 1, out, "--plan")
        plan = json.loads((out / "plan.json").read_text())
        steps = plan["steps"]
        whole = steps.get("supervised", 0)  # as long as both stages
        first, second = steps.get("fix", whole * 2 // 3), steps.get("cossl", whole - whole * 2 // 3 or "")
        add_rows(args.out / PLANNED, (*Cell._fields, *LENGTHS), [[*cell, first, second, plan["epochs"]]])
        rows = rows_of(args.out / PLANNED)
    return [row[name] for row in rows if cell == of(row) for name in LENGTHS]


def of(row: dict[str, str]) -> Cell:
    return Cell(*(row[name] for name in Cell._fields))


def run(args: argparse.Namespace, cell: Cell, seed: int) -> None:
    """And a row for each part of it: the floors and the stages."""
    out = args.out / "-".join(cell) / str(seed)
    given = zip(LENGTHS, lengths(args, cell), strict=True)
    train_folder(args, cell, seed, out, *(word for name, length in given if length for word in (f"--{name}", length)))
    rows = []
    for path in sorted(out.rglob("summary.json")):
        balanced = json.loads(path.read_text())["last_20_mean"]["balanced"]
        rows.append([*cell, seed, path.parent.name, f"{balanced:.2f}"])
    add_rows(args.out / RECORD, (*Cell._fields, "seed", "part", "balanced"), rows)


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: balanced accuracy, percent, mean and standard deviation over seeds; how many, where some are missing.

    First the floors, then the methods. Differences are seed by seed, of FixMatch+CoSSL.
    """
    found = defaultdict[tuple[str, ...], dict[str, float]](dict)
    for row in rows:
        if row["part"] in (*FLOORS, row["method"]):
            minutes = row["minutes"] if row["part"] in METHODS else ""
            found[row["images"], row["start"], minutes, row["part"]][row["seed"]] = float(row["balanced"])
    seeds = len({row["seed"] for row in rows})

    def cell(values: Collection[float], sign: str = "") -> str:
        return mean_and_spread(list(values), sign) + (f" ({len(values)})" if 0 < len(values) < seeds else "")

    def above(key: tuple[str, ...], other: tuple[str, ...]) -> str:
        ours, theirs = found[(*key, "cossl")], found[other]
        return cell([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())], "+")

    places = sorted({key[:2] for key in found})
    floors = [[*place, *(cell(found[(*place, "", part)].values()) for part in FLOORS)] for place in places]
    trained = []
    for key in sorted({key[:3] for key in found if key[2]}):
        values = [cell(found[(*key, part)].values()) for part in METHODS]
        trained.append([*key, *values, above(key, (*key[:2], "", FLOORS[0])), above(key, (*key, "supervised"))])
    heading = ["images", "start"]
    more = ["minutes", "labelled-only", "FixMatch", "FixMatch+CoSSL", "above the floor", "above labelled-only"]
    return "\n\n".join(
        [
            markdown_table([*heading, "floor: logistic regression", "nearest class mean", "TFE head"], *floors),
            markdown_table([*heading, *more], *trained),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", nargs="+", default=["10", "30"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--only", nargs="+", default=[""], help="parts of NAME-MINUTES-START-METHOD, all of them without"
    )
    parser.add_argument("--plan", action="store_true", help="write down lengths, and run nothing")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    args = parser.parse_args()
    cells = starmap(Cell, product(("fashion", "clipart"), args.minutes, STARTS, METHODS))
    wanted = [cell for cell in cells if any(part in "-".join(cell) for part in args.only) and not args.table]
    if args.plan:
        for cell in wanted:
            lengths(args, cell)
        return
    for seed, cell in product(args.seeds, wanted):
        if all((cell, str(seed)) != (of(row), row["seed"]) for row in rows_of(args.out / RECORD)):
            run(args, cell, seed)
    print(table(rows_of(args.out / RECORD)))


if __name__ == "__main__":
    main()

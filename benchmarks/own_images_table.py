"""The table of docs/own-images.md: what comes out of own images in equal minutes, by method, start and data.

    python benchmarks/own_images_table.py --data data --out results/own --minutes 10 --seeds 1 2 3
    python benchmarks/own_images_table.py --out results/own --table

`data` holds folders called fashion-SEED and clipart-SEED, see benchmarks/own_images.py, and lite0.pth, see
benchmarks/lite0.py. Each run is `train_folder.py` with a method of its own for all of the time, on this machine, which
has nothing else to do while its first seed is planned; the others take the same steps, and may share the machine.
Figures and lengths of finished runs are kept in OUT/figures.csv; what stands there is skipped, so that many hours can
be spread over days and machines (docs/own-images.csv has ours). --only names a part.
Starts: EfficientNet-Lite0 with ImageNet's weights at 64 pixels, and WRN-10-1 from scratch at 32.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.saved import add_rows, markdown_table, mean_and_spread, rows_of

ROOT = Path(__file__).resolve().parents[1]
STARTS = {
    "scratch": ["--depth", 10, "--width", 1, "--img_size", 32],
    "pre-trained": ["--arch", "timm:tf_efficientnet_lite0", "--img_size", 64, "--weights"],
}
METHODS = ("supervised", "fix", "cossl")
RECORD, LENGTHS = "figures.csv", ("steps", "steps_cossl", "evaluations")


def run(args: argparse.Namespace, name: str, seed: int, minutes: int, start: str, method: str) -> None:
    out = args.out / f"{name}-{minutes}-{start}-{method}" / str(seed)
    flags = [*STARTS[start], *([args.data / "lite0.pth"] if start == "pre-trained" else [])]
    flags += ["--minutes", minutes, "--method", method, "--no-baseline", "--manualSeed", seed, "--gpu", "cpu"]
    if (out / "plan.json").exists():  # it goes on as it began
        asked = json.loads((out / "plan.json").read_text())["asked"]
        flags += [word for key in LENGTHS if asked[key] != "None" for word in (f"--{key}", asked[key])]
    else:
        others = [row for row in rows_of(args.out / RECORD) if of_run(row)[:4] == (name, str(minutes), start, method)]
        flags += [word for row in others[:1] for key in LENGTHS for word in (f"--{key}", row[key])]
    command = [sys.executable, ROOT / "train_folder.py", args.data / f"{name}-{seed}", *flags, "--out", out]
    print(" ".join(map(str, command)), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "printed.txt").open("a") as file:
        subprocess.run([*map(str, command)], check=True, stdout=file, stderr=subprocess.STDOUT)
    record(args.out, out, (name, str(minutes), start, method, str(seed)))


def of_run(row: dict[str, str]) -> tuple[str, ...]:
    return row["images"], row["minutes"], row["start"], row["method"], row["seed"]


def record(out: Path, folder: Path, about: tuple[str, ...]) -> None:
    """A row for each part that a run's folder holds: the floors and the stages."""
    plan = json.loads((folder / "plan.json").read_text())
    steps, whole = plan["steps"], "fix" not in plan["parts"]
    first = steps["supervised"] * 2 // 3 if whole else steps["fix"]
    second = steps["supervised"] - first if whole else steps["cossl"]
    rows = []
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text())
        balanced = f"{summary['last_20_mean']['balanced']:.2f}"
        rows.append([*about, path.parent.name, balanced, first, second, plan["epochs"]])
    header = "images", "minutes", "start", "method", "seed", "part", "balanced", *LENGTHS
    add_rows(out / RECORD, header, rows)


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: mean and standard deviation over seeds, of the last epochs, in percent. A floor takes no minutes."""
    found = defaultdict(dict)
    for row in rows:
        trained = row["part"] in METHODS
        if not trained or row["part"] == row["method"]:
            key = row["images"], row["start"], row["minutes"] if trained else "-", row["part"]
            found[key][row["seed"]] = float(row["balanced"])
    rows_shown = [
        [*key, mean_and_spread(list(seeds.values())), str(len(seeds))] for key, seeds in sorted(found.items())
    ]
    return markdown_table(["images", "start", "minutes", "method", "balanced accuracy", "seeds"], *rows_shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", default="", help="part of NAME-MINUTES-START-METHOD")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    args = parser.parse_args()
    if not args.table:
        for seed, minutes, name, start, method in product(
            args.seeds, args.minutes, ("fashion", "clipart"), STARTS, METHODS
        ):
            done = (name, str(minutes), start, method, str(seed)) in map(of_run, rows_of(args.out / RECORD))
            if args.only in f"{name}-{minutes}-{start}-{method}" and not done:
                run(args, name, seed, minutes, start, method)
    print(table(rows_of(args.out / RECORD)))


if __name__ == "__main__":
    main()

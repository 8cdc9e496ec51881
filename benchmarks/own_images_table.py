"""The table of docs/own-images.md: what comes out of own images in equal minutes, by method, start and data.

    python benchmarks/own_images_table.py --data data --out results/own --minutes 10 --seeds 1 2 3
    python benchmarks/own_images_table.py --out results/own --table

`data` holds folders called fashion-SEED and clipart-SEED, see benchmarks/own_images.py, and lite0.pth, see
benchmarks/lite0.py. Each run is `train_folder.py` with a method of its own for all of the time, on this machine, which
has nothing else to do while its first seed is planned; the others take the same steps, and may share the machine.
What is finished is skipped, so that many hours can be spread over days; --only names a part.
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

from benchmarks.saved import mean_and_spread

ROOT = Path(__file__).resolve().parents[1]
STARTS = {
    "scratch": ["--depth", 10, "--width", 1, "--img_size", 32],
    "pre-trained": ["--arch", "timm:tf_efficientnet_lite0", "--img_size", 64, "--weights"],
}
METHODS = ("supervised", "fix", "cossl")


def run(args: argparse.Namespace, name: str, seed: int, minutes: int, start: str, method: str) -> None:
    out = args.out / f"{name}-{minutes}-{start}-{method}" / str(seed)
    if (out / "report" / "report.html").exists():
        return
    flags = [*STARTS[start], *([args.data / "lite0.pth"] if start == "pre-trained" else [])]
    flags += ["--minutes", minutes, "--method", method, "--no-baseline", "--manualSeed", seed, "--gpu", "cpu"]
    flags += lengths_of_another_seed(out)
    command = [sys.executable, ROOT / "train_folder.py", args.data / f"{name}-{seed}", *flags, "--out", out]
    print(" ".join(map(str, command)), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "printed.txt").open("a") as file:
        subprocess.run([*map(str, command)], check=True, stdout=file, stderr=subprocess.STDOUT)


def lengths_of_another_seed(out: Path) -> list[object]:
    """Flags for the lengths that the minutes gave another seed; a run keeps those that it began with."""
    names = ("steps", "steps_cossl", "evaluations")
    if (out / "plan.json").exists():
        asked = json.loads((out / "plan.json").read_text())["asked"]
        return [word for name in names if asked[name] != "None" for word in (f"--{name}", asked[name])]
    plans = sorted(out.parent.glob("*/plan.json"))
    if not plans:
        return []
    plan = json.loads(plans[0].read_text())
    steps = plan["steps"]
    first = steps["fix"] if "fix" in plan["parts"] else steps["supervised"] * 2 // 3
    second = steps["cossl"] if "fix" in plan["parts"] else steps["supervised"] - first
    return [word for name, n in zip(names, (first, second, plan["epochs"]), strict=True) for word in (f"--{name}", n)]


def table(out: Path) -> str:
    """Markdown: mean and standard deviation over seeds, of the last epochs, in percent."""
    found = defaultdict(dict)
    for path in sorted(out.glob("*/*/**/summary.json")):
        summary = json.loads(path.read_text())
        folder, seed = path.relative_to(out).parts[:2]
        name, minutes, *start, method = folder.split("-")
        kind = path.parent.name if summary.get("floor") else method
        if summary["status"] == "finished" and (summary.get("floor") or kind == path.parent.name):
            key = name, "-".join(start), "-" if summary.get("floor") else minutes, kind
            found[key][seed] = summary["last_20_mean"]["balanced"]
    lines = [
        "| images | start | minutes | method | balanced accuracy | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key, seeds in sorted(found.items()):
        lines.append(f"| {' | '.join(key)} | {mean_and_spread(list(seeds.values()))} | {len(seeds)} |")
    return "\n".join(lines)


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
            if args.only in f"{name}-{minutes}-{start}-{method}":
                run(args, name, seed, minutes, start, method)
    print(table(args.out))


if __name__ == "__main__":
    main()

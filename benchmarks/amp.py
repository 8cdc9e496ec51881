"""Is bfloat16 as accurate as float32? FixMatch and FixMatch + CoSSL on Fashion-MNIST-LT, three seeds of each.

    python benchmarks/amp.py --data_root data --out results/amp

WRN-10-1, batch 32, gamma 100, moving averages of 0.99: 16 epochs of 100 steps of pre-training, 4 of co-learning. Two
runs at a time, on one thread each. Prints balanced accuracy on the test set in percent, mean of a run's last four
epochs. A second call goes on where the first one was stopped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.saved import finished, mean_and_spread
from utils.flag_types import path

ROOT = Path(__file__).resolve().parents[1]
LAST, STAGES = 4, {"": "FixMatch", "_cossl": "FixMatch+CoSSL"}
SETTINGS = (
    "--dataset fashion_mnist --imb_ratio_l 100 --imb_ratio_u 100 --num_max 1500 --ratio 2 --depth 10 --width 1 "
    "--batch-size 32 --ema-decay 0.99 --val-iteration 100 --copy_every 15 --gpu cpu"
)


def both_stages(seed: int, flags: str, out: Path, data_root: Path) -> None:
    """Pre-training in `out`/pretrain, co-learning in `out`/pretrain_cossl. Raises CalledProcessError if a run fails."""
    first = out / "pretrain"
    rest = {"": ["--epoch", "16"], "_cossl": ["--epoch", "4", "--max_lam", "0.6"]}
    rest["_cossl"] += ["--resume", str(first / "checkpoint_16.pth.tar")]
    for stage in STAGES:
        command = [sys.executable, f"train_cifar_fix{stage}.py", *SETTINGS.split(), *flags.split(), *rest[stage]]
        command += ["--manualSeed", str(seed), "--data_root", str(data_root), "--out", f"{first}{stage}"]
        if not finished(Path(f"{first}{stage}")):
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def balanced(folder: Path) -> float:
    """Mean balanced accuracy of the last epochs in a run's `log.txt`."""
    head, *rows = [line.split("\t") for line in (folder / "log.txt").read_text().splitlines()]
    (column,) = [i for i, name in enumerate(head) if name.strip() == "balanced"]
    return statistics.mean(float(row[column]) for row in rows[-LAST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flags", default="--amp", help="what is compared with no flags")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--data_root", type=path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--out", type=path, default=Path("results/amp"), help="folder of the runs")
    args = parser.parse_args()
    began, out, kinds = time.monotonic(), args.out.resolve(), ("", args.flags)
    folders = {
        (flags, seed): out / f"{flags.replace(' ', '') or 'float32'}-{seed}"
        for flags, seed in product(kinds, args.seeds)
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [
            pool.submit(both_stages, key[1], key[0], folder, args.data_root.resolve())
            for key, folder in folders.items()
        ]
    for run in runs:
        run.result()
    table = {}
    for stage, flags in product(STAGES, kinds):
        figures = [balanced(folders[flags, seed] / f"pretrain{stage}") for seed in args.seeds]
        table[f"{STAGES[stage]} {flags}".strip()] = figures
        seeds = ", ".join(f"{value:.1f}" for value in figures)
        print(f"{STAGES[stage]:15} {flags or 'float32':24} {mean_and_spread(figures)}   per seed: {seeds}")
    (out / "balanced.json").write_text(json.dumps(table, indent=2) + "\n")
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()

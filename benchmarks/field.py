"""All methods in one protocol, in four settings of the unlabelled images: the table of docs/field.md.

    python benchmarks/field.py --data_root data --out results/field --seeds 1 2 3
    python benchmarks/field.py --out results/field --table

Fashion-MNIST-LT (gamma 100, 1,500 labels in the largest class), WRN-10-1, batches of 32, the short schedule, bfloat16,
2,000 steps in all: 20 epochs of 100 steps, or 16 and 4 for methods of two stages, whose head has 400 steps of warm-up
besides. The figures of every finished run are kept in OUT/figures.csv; what stands there is skipped, so that many hours
can be spread over days and machines (docs/field.csv has ours). --only names settings or methods. The methods
`oracle: ...` know what no method knows (benchmarks/oracles.py): how much better could a part of a method be?
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.saved import add_rows, finished, markdown_table, mean_and_spread, rows_of
from reporting.logs import read_log

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "consistent": ["--imb_ratio_u", 100, "--unlabelled", "included"],
    "uniform": ["--imb_ratio_u", 1, "--unlabelled", "included"],
    "reversed disjoint": ["--imb_ratio_u", -100, "--unlabelled", "disjoint"],
    "reversed included": ["--imb_ratio_u", -100, "--unlabelled", "included"],
}
COMMON = ["--dataset", "fashion_mnist", "--num_max", 1500, "--ratio", 2, "--imb_ratio_l", 100, "--depth", 10]
COMMON += ["--width", 1, "--batch-size", 32, "--val-iteration", 100, "--schedule", "short", "--amp", "--channels_last"]
STAGES = {"whole": 20, "first": 16, "second": 4}  # epochs
RECORD, FIGURES = "figures.csv", ("mean", "gm", "best")  # balanced accuracy and geometric mean of the last epochs


class Way(NamedTuple):
    """A method: its script's name, flags of its own, and the way whose run it starts from, if it has two stages."""

    script: str
    flags: tuple[object, ...] = ()
    after: str = ""
    oracle: str = ""


PRIOR_COSSL, WAIT = "train_cifar_fix_prior_cossl", ("--warm_prior", 4)
COSSL = "--max_lam", 0.6, "--warm_tfe", 4
NOW = *COSSL, "--warm_prior", 0  # network and head are warm
PLAIN, HEAD_U = "--plain_student", ("--lam_h", 1)
FIRST = {
    "fix": Way("train_cifar_fix"),
    "la": Way("train_cifar_fix_prior", ("--preset", "la")),
    "simpro": Way("train_cifar_fix_prior", ("--preset", "simpro", *WAIT)),
}
WAYS = {
    "supervised": Way("train_cifar_supervised"),
    "FixMatch": FIRST["fix"],
    "LA": FIRST["la"],
    "SimPro": FIRST["simpro"],
    "ADELLO": Way("train_cifar_fix_prior", ("--preset", "adello", *WAIT)),
    "ABC": Way("train_cifar_fix_abc", WAIT),
    "CDMAD": Way("train_cifar_fix_cdmad"),
    "ACR": Way("train_cifar_fix_acr", WAIT),
    "CReST+": Way("train_cifar_fix_crest", ("--num_generation", 2, "--epochs", 10)),
    "CoSSL": Way("train_cifar_fix_cossl", COSSL, "fix"),
    "CoSSL after LA": Way("train_cifar_fix_cossl", COSSL, "la"),
    "CoSSL after SimPro": Way("train_cifar_fix_cossl", COSSL, "simpro"),
    "CoSSL with a prior": Way(PRIOR_COSSL, ("--kappa", 0.5, *HEAD_U, *NOW), "simpro"),
    "CoSSL, CAA": Way("train_cifar_fix_cossl", (*COSSL, "--classifier", "caa"), "fix"),
    "CoSSL with a prior, kappa fitted": Way(PRIOR_COSSL, ("--kappa", "fit", *HEAD_U, *NOW), "simpro"),
    "only kappa": Way(PRIOR_COSSL, ("--kappa", 0.5, PLAIN, *NOW), "fix"),
    "only the student's offsets": Way(PRIOR_COSSL, NOW, "fix"),
    "only the student's offsets, after SimPro": Way(PRIOR_COSSL, NOW, "simpro"),
    "only the head's unlabelled": Way(PRIOR_COSSL, (*HEAD_U, PLAIN, *NOW), "fix"),
    "oracle: true prior in the labels": Way(PRIOR_COSSL, ("--kappa", 1, PLAIN, *NOW), "fix", "prior"),
    "oracle: true prior in the student's offsets": Way(PRIOR_COSSL, NOW, "fix", "prior"),
    "oracle: true labels for the head": Way(PRIOR_COSSL, (*HEAD_U, PLAIN, *NOW), "fix", "labels"),
}


def run(args: argparse.Namespace, out: Path, way: Way, epochs: int, setting: str, seed: int) -> None:
    """Unless it has been run."""
    if finished(out) or finished(out / "generation_1"):
        return
    start = ["-m", "benchmarks.oracles", way.oracle] if way.oracle else []
    command = [*start, f"{way.script}.py", *COMMON, *SETTINGS[setting], "--data_root", args.data_root.resolve()]
    command += ["--manualSeed", seed, "--gpu", args.gpu, "--epochs", epochs, *way.flags, "--out", out]
    if way.after:
        first = out.parents[1] / f"first stage, {way.after}" / str(seed)
        run(args, first, FIRST[way.after], STAGES["first"], setting, seed)
        command += ["--resume", first / "checkpoint.pth.tar"]
    out.mkdir(parents=True, exist_ok=True)
    print(" ".join(map(str, command)), flush=True)
    with (out / "printed.txt").open("a") as file:
        subprocess.run(list(map(str, [sys.executable, *command])), check=True, cwd=ROOT, stdout=file, stderr=file)


Found = dict[tuple[str, str], dict[str, dict[str, float]]]  # (setting, method) -> seed -> figures, percent


def recorded(out: Path) -> Found:
    found: Found = defaultdict(dict)
    for row in rows_of(out / RECORD):
        found[row["setting"], row["method"]][row["seed"]] = {name: float(row[name]) for name in FIGURES}
    return found


def record(out: Path, setting: str, method: str, seed: int) -> None:
    folder = out / setting / method / str(seed)
    summary = json.loads(max(folder.rglob("summary.json")).read_text())  # of the last generation, if there are some
    mean, best = summary["last_20_mean"], summary["best"]
    figures = [f"{figure:.2f}" for figure in (mean["balanced"], mean["gm"], best["balanced"])]
    add_rows(out / RECORD, ("setting", "method", "seed", *FIGURES), [[setting, method, seed, *figures]])


def table(found: Found) -> str:
    """Markdown: balanced accuracy by setting, and over the settings."""
    rows = []
    for method in WAYS:
        seeds = [[figures["mean"] for figures in found.get((setting, method), {}).values()] for setting in SETTINGS]
        means = [statistics.mean(s) for s in seeds if s]
        whole = len(means) == len(SETTINGS)
        overall = [f"{statistics.mean(means):.1f}", f"{min(means):.1f}"] if whole else ["", ""]
        if means:
            numbers = "/".join(str(len(s)) for s in seeds)
            rows.append([method, *map(mean_and_spread, seeds), *overall, numbers])
    return markdown_table(["method", *SETTINGS, "mean", "worst", "seeds"], *rows)


def others(found: Found) -> str:
    """Markdown: by setting the geometric mean, and balanced accuracy in the best epoch."""
    rows = []
    for method in WAYS:
        seeds = [found.get((setting, method), {}).values() for setting in SETTINGS]
        gm, best = ([mean_and_spread([figures[name] for figures in s]) for s in seeds] for name in ("gm", "best"))
        cells = [f"{g}; {b}" for g, b in zip(gm, best, strict=True)]
        if any(seeds):
            rows.append([method, *cells])
    return markdown_table(["method", *SETTINGS], *rows)


def differences(found: Found, base: str = "CoSSL") -> str:
    """Markdown: balanced accuracy above that of another method with the same seed and setting, in points."""
    rows = []
    for method in WAYS:
        pairs = [(found.get((setting, method), {}), found.get((setting, base), {})) for setting in SETTINGS]
        above = [[own[s]["mean"] - other[s]["mean"] for s in own if s in other] for own, other in pairs]
        if method != base and any(above):
            rows.append([method, *(mean_and_spread(values, "+") for values in above)])
    return markdown_table([f"method, above {base}", *SETTINGS], *rows)


def pseudo_labels(out: Path) -> str:
    """Markdown: means over the runs that OUT still holds, in the last epoch, by setting: total variation between the
    estimated and the true distribution; percent of the pseudo-labels that are used; percent of the frequent, medium and
    rare classes' images that have a right one which is used.
    """
    rows = []
    for method in WAYS:
        cells = []
        for setting in SETTINGS:
            logs = [sorted(folder.rglob("log.txt")) for folder in (out / setting / method).glob("*/")]
            cells.append(_told([read_log(found[-1])[0] for found in logs if found]))
        if any(cells):
            rows.append([method, *cells])
    return markdown_table(["method", *SETTINGS], *rows) if rows else ""


def _told(logs: list[dict[str, list[float]]]) -> str:
    """A cell; empty without runs, or where they have no pseudo-labels."""
    logs = [log for log in logs if "mask" in log]
    if not logs:
        return ""

    def mean(name: str) -> float:
        return statistics.fmean(log[name][-1] for log in logs)

    recalls = "/".join(f"{mean(f'pl_recall_{third}'):.0f}" for third in ("many", "medium", "few"))
    estimate = f"{mean('prior_tv'):.2f}; " if "prior_tv" in logs[0] else ""
    return f"{estimate}{100 * mean('mask'):.0f}; {recalls}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data_root", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of 'SETTING, METHOD', all of them without")
    parser.add_argument("--gpu", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    args = parser.parse_args()
    if not args.table:
        for seed, setting, (method, way) in product(args.seeds, SETTINGS, WAYS.items()):
            wanted = any(part in f"{setting}, {method}" for part in args.only)
            if wanted and str(seed) not in recorded(args.out)[setting, method]:
                epochs = STAGES["second" if way.after else "whole"]
                run(args, args.out.resolve() / setting / method / str(seed), way, epochs, setting, seed)
                record(args.out, setting, method, seed)
    found = recorded(args.out)
    print("\n\n".join(filter(None, (table(found), others(found), differences(found), pseudo_labels(args.out)))))


if __name__ == "__main__":
    main()

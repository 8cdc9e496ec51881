"""Accuracy over steps, `--schedule published` against `short`: FixMatch and FixMatch+CoSSL.

    python benchmarks/schedule_curves.py --data_root data --out results/schedules
    python benchmarks/schedule_curves.py --digits --out results/schedules_digits        # the same, small

Of a reference of 8,000 + 2,000 steps (Fashion-MNIST-LT, gamma 100, WRN-10-1, batch 32) both stages take 1/20, 1/10,
1/5, 1/2 and all. Where rates don't depend on how long a run is, one pre-training serves all lengths; otherwise each has
its own. Balanced accuracy on the test set after the last step, mean and standard deviation over seeds. What is done is
skipped, so that a second call goes on where the first one was stopped. A dash is a run that is missing.

    python benchmarks/schedule_curves.py --list
    python benchmarks/schedule_curves.py --candidates published "cosine, warm-up" --shares 0.05 --seeds 1    # try some
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.saved import finished, mean_and_spread
from benchmarks.schedule_candidates import CANDIDATES, ROOT
from reporting import figures
from utils.flag_types import path

STAGES = "FixMatch", "FixMatch+CoSSL"
SHARES = 0.05, 0.1, 0.2, 0.5, 1.0
EPOCHS = 20  # of each stage, of the reference
_SHARED = "--depth 10 --width 1 --copy_every 1"


class Setting(NamedTuple):
    """flags: of both recipes; steps: of an epoch of each stage."""

    flags: str
    steps: tuple[int, int]


_FASHION = "--dataset fashion_mnist --num_max 1500 --imb_ratio_l 100 --imb_ratio_u 100 --batch-size 32"
_DIGITS = "--dataset digits --num_max 40 --imb_ratio_l 20 --imb_ratio_u 20 --batch-size 16"
FASHION, DIGITS = Setting(f"{_FASHION} {_SHARED}", (400, 100)), Setting(f"{_DIGITS} {_SHARED}", (20, 5))


class Run(NamedTuple):
    """One recipe's run, as far as this share of the reference. until: to which it goes on; folder: where it is."""

    candidate: str
    share: float
    until: float
    seed: int
    stage: int
    folder: Path

    @property
    def epochs(self) -> int:
        return round(EPOCHS * self.share)

    def balanced(self) -> float | None:
        """Balanced accuracy after its last step, percent; None if it isn't that far."""
        log = self.folder / "log.txt"
        rows = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
        found = [row[rows[0].index("balanced")] for row in rows[1:] if int(row[0]) == self.epochs]
        return float(found[0]) if found else None


def both_stages(candidate: str, share: float, longest: float, seed: int, out: Path) -> list[Run]:
    """Pre-training, and co-learning from there. longest: of the shares."""
    until = share if CANDIDATES[candidate].rate else longest
    place = out / candidate.replace(" ", "_").replace(",", "").replace(":", "to") / f"seed{seed}"
    first = Run(candidate, share, until, seed, 0, place / f"until_{until:g}")
    return [first, Run(candidate, share, share, seed, 1, place / f"{share:g}_cossl")]


def commands(run: Run, first: Path, setting: Setting, common: list[str]) -> Iterator[list[str]]:
    """What trains it; nothing if that is done. first: the folder of its pre-training."""
    if run.balanced() is not None and (run.stage == 0 or finished(run.folder)):
        return
    flags = ["--epochs", round(EPOCHS * run.until), "--val-iteration", setting.steps[run.stage], "--out", run.folder]
    flags += ["--manualSeed", run.seed, *setting.flags.split(), *common]
    if run.stage:
        flags += ["--max_lam", 0.6, "--resume", first / f"checkpoint_{run.epochs}.pth.tar"]
    script = ("train_cifar_fix.py", "train_cifar_fix_cossl.py")[run.stage]
    module = [sys.executable, "-m", "benchmarks.schedule_candidates"]
    yield [*module, run.candidate, script, *map(str, flags)]


def train(pairs: list[list[Run]], setting: Setting, common: list[str]) -> None:
    """All of one candidate and seed, in turn. Raises CalledProcessError if a run fails."""
    for first, second in pairs:
        for run in (first, second):
            for command in commands(run, first.folder, setting, common):
                print(f"{run.candidate}, seed {run.seed}: {STAGES[run.stage]}, {run.share:g}", flush=True)
                environment = {"OMP_NUM_THREADS": "1"} | os.environ
                subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


Curves = dict[tuple[int, str], list[list[float]]]  # (stage, candidate) -> of each share its seeds' accuracies


def curves(candidates: list[str], shares: list[float], seeds: list[int], out: Path) -> Curves:
    found: Curves = {}
    for candidate in candidates:
        for stage in range(len(STAGES)):
            runs = [
                [both_stages(candidate, share, max(shares), seed, out)[stage] for seed in seeds] for share in shares
            ]
            values = [[run.balanced() for run in row] for row in runs]
            found[stage, candidate] = [[value for value in row if value is not None] for row in values]
    return found


def table(found: Curves, shares: list[float], setting: Setting) -> str:
    """In Markdown; a column for each length, in steps of both stages."""
    lengths = [" + ".join(f"{round(EPOCHS * share) * n:,}" for n in setting.steps) for share in shares]
    lines = [f"| | schedule | {' | '.join(lengths)} |", f"| --- | --- |{' --- |' * len(shares)}"]
    for (stage, candidate), rows in sorted(found.items(), key=lambda item: item[0][0]):
        lines.append(f"| {STAGES[stage]} | {candidate} | {' | '.join(map(mean_and_spread, rows))} |")
    return "\n".join(lines)


def picture(found: Curves, shares: list[float], setting: Setting, file: Path) -> None:
    """Mean and standard deviation over the steps, a panel for each stage."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(STAGES), sharey=True)
    for stage, axes in enumerate(panels):
        steps = [EPOCHS * share * sum(setting.steps[: stage + 1]) for share in shares]
        names = [name for at, name in found if at == stage]
        for colour, name in zip(figures.COLOURS, names, strict=False):
            done = [(x, row) for x, row in zip(steps, found[stage, name], strict=True) if row]
            spread = [statistics.stdev(row) if len(row) > 1 else 0 for _, row in done]
            means = [statistics.mean(row) for _, row in done]
            axes.errorbar([x for x, _ in done], means, spread, color=colour, label=name, marker="o", capsize=3)
        axes.set(xscale="log", xlabel="steps of both stages" if stage else "steps", title=STAGES[stage])
        axes.set_xticks(steps, [f"{n:,.0f}" for n in steps])
        axes.minorticks_off()
        figures.tidy(axes)
    panels[0].set_ylabel("balanced accuracy, %")
    figures.finish(figure, panels[0], "", file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--candidates", nargs="+", default=["published", "short"], choices=CANDIDATES, metavar="NAME")
    add("--list", action="store_true", help="print the names of the candidates, and end")
    add("--shares", type=float, nargs="+", default=SHARES, help="of the reference's steps; multiples of 1/20")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--digits", action="store_true", help="scikit-learn's digits, 400 + 100 steps")
    add("--jobs", type=int, default=1, help="runs at a time, on one thread each unless OMP_NUM_THREADS says otherwise")
    add("--gpu", default="cpu", help="as of the recipes")
    add("--flags", default="", help="of the recipes, such as '--graph --tf32'")
    add("--data_root", type=path, default=Path("data"), help="folder of the data sets")
    add("--out", type=path, default=Path("results/schedules"), help="folder of the runs")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.list:
        print(*CANDIDATES, sep="\n")
        return
    setting, out, longest = DIGITS if args.digits else FASHION, args.out.resolve(), max(args.shares)
    common = ["--gpu", args.gpu, "--data_root", str(args.data_root.resolve()), *args.flags.split()]
    with ThreadPoolExecutor(args.jobs) as pool:
        queues = [
            pool.submit(train, [both_stages(name, share, longest, seed, out) for share in args.shares], setting, common)
            for seed in args.seeds
            for name in args.candidates
        ]
    found = curves(args.candidates, args.shares, args.seeds, out)
    text = table(found, args.shares, setting)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text + "\n")
    picture(found, args.shares, setting, out / "curves.png")
    print(text)
    for queue in queues:
        queue.result()


if __name__ == "__main__":
    main()

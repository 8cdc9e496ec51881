"""What a run's features would give a balanced head: class-balanced logistic regression on them, beside its own head.

    python benchmarks/linear_probe.py RUN... --data_root data

For runs on long-tailed CIFAR, Fashion-MNIST and digits. Balanced accuracy on the test set in percent: of the run as it
is evaluated, of logistic regression on the features of the labelled images, and on those of all images by their true
labels, which no method has.
"""

import argparse
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset import load
from dataset.long_tail import long_tailed
from methods.floors import logistic_regression
from methods.method import Network
from reporting.predictor import Predictor
from reporting.trained import load_model
from training.checkpoint import LATEST
from utils.metrics import evaluate

BATCH, load_once = 500, cache(load)


def probe(run: Path, root: Path) -> list[float]:
    """The three figures. root: of the data."""
    model = load_model(run / LATEST, "RUN", torch.device("cpu"))
    predictor, flags = Predictor(model.predict, model.facts), SimpleNamespace(**model.arguments)
    data = load_once(flags.dataset, root)
    members = long_tailed(data, flags, flags.unlabelled == "included")
    everyone = np.union1d(members.labelled, members.unlabelled)

    def features(pixels: np.ndarray) -> Tensor:
        return torch.cat([predictor.features(batch) for batch in torch.from_numpy(pixels).split(BATCH)])

    tested, labels = features(data.test.pixels), torch.from_numpy(data.test.labels)

    def balanced(predict: Network) -> float:
        return float(evaluate(predict, [(tested, labels)], model.facts["labelled_counts"])["balanced"])

    x, y = features(data.train.pixels[everyone]), torch.from_numpy(data.train.labels[everyone])
    found = [balanced(model.predict.output)]
    for rows in (np.searchsorted(everyone, members.labelled), slice(None)):
        found.append(balanced(logistic_regression(x[rows], y[rows], flags.manualSeed)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--data_root", type=Path, default=Path("data"))
    args = parser.parse_args()
    print(f"{'evaluated':>10} {'labelled':>10} {'all, true':>10}  run")
    for run in args.runs:
        print(*(f"{figure:>10.1f}" for figure in probe(run, args.data_root)), f" {run}", flush=True)


if __name__ == "__main__":
    main()

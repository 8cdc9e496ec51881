"""Evaluate trained networks on test sets with shifted class distributions, long-tailed to reversed.

    python eval_shifted_test_distribution.py results/fix results/cossl --gpu 0

RUN is the folder of a run, or a checkpoint; the data set is the one it was trained on, unless --dataset says otherwise.
One pass over the test set answers for all ratios. Source: the published script of this name.

Shape legend: N test images (N, 3, S, S), C classes.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dataset
from dataset.files import ImageFiles
from dataset.folder import load_folder
from dataset.food101 import load_food101
from dataset.image_loader import ImageLoader
from dataset.images import Dataset, Files
from dataset.pixels import Pixels
from dataset.small_imagenet127 import load_small_imagenet127
from dataset.stream import Stream
from reporting.evaluated import Run, agreed, check_classes, prior, read_runs
from reporting.shifted import shifted_figures
from reporting.shifted_files import table, write
from training.checkpoint import NAME
from training.folder import check_writable
from utils.args import Parser, gpu, image_size, path, pick_device, positive_int, spare_cpus
from utils.errors import UserError
from utils.files import printable
from utils.main import run_main

NAMES = (*dataset.NAMES, "small_imagenet127", "food101")
SIDES = {"folder": 32, "small_imagenet127": 32, "food101": 224}  # of images whose size is a choice, unless it is told


def main() -> None:
    parser = Parser("Evaluate trained networks on test sets with shifted class distributions, long-tailed to reversed.")
    add = parser.add_argument
    add("runs", metavar="RUN", type=path, nargs="+", help=f"folder of a run, whose {NAME} is taken; or a checkpoint")
    about = "data set of all runs; unless given, the one they were trained on (published checkpoints don't tell)"
    add("--dataset", choices=NAMES, help=about)
    add("--data_root", type=path, help="folder of the data set; unless given, that of the training, else data")
    about = "side of the images of folder, small_imagenet127 and food101; unless given, that of the training"
    add("--img_size", type=image_size, help=about)
    about = "leave out unreadable images of --dataset folder and food101, and say which"
    add("--skip_corrupt", action="store_true", help=about)
    about = "also correct the logits for the class distribution of each test set, as if it were known"
    add("--known_prior", action="store_true", help=about)
    add("--batch-size", type=positive_int, default=500, help="images at a time")
    add("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    add("--out", type=path, default=Path("results/shifted"), help="folder for the figures of all runs together")
    args = parser.parse_args()

    check_writable(args.out)
    device = pick_device(args.gpu)
    runs = read_runs(args.runs, args.out, device)
    args = with_defaults(args, runs)
    data, order = open_data(args)
    for run in runs:
        check_classes(run, data)
    priors = [prior(run) if args.known_prior else None for run in runs]
    found = [evaluated(run, p, data, order, args, device) for run, p in zip(runs, priors, strict=True)]
    records, times = map(list, zip(*found, strict=True))
    # Before it is printed, for what reads the output may have ended.
    write(args.out, args.dataset, records, {run.folder: i for i, run in enumerate(runs) if run.folder is not None})
    print("\n".join([*times, "", table(records), f"results: {printable(args.out)}"]))


def with_defaults(args: Namespace, runs: list[Run]) -> Namespace:
    """The arguments, with those of the data that aren't given taken from the runs. Raises UserError if these differ."""
    chosen = vars(args).copy()
    chosen["dataset"] = args.dataset or agreed(runs, "dataset", None)
    if chosen["dataset"] is None:
        choices = ", ".join(NAMES)
        raise UserError(f"--dataset: {runs[0].given} doesn't tell what it was trained on; give one of {choices}")
    chosen["data_root"] = args.data_root or Path(agreed(runs, "data_root", "data"))
    if side := SIDES.get(chosen["dataset"]):
        chosen["img_size"] = args.img_size or agreed(runs, "img_size", side)
    chosen["skip_corrupt"] = args.skip_corrupt or any(run.told.get("skip_corrupt") for run in runs)
    return Namespace(**chosen)


def open_data(args: Namespace) -> tuple[Dataset, np.ndarray]:
    """The data set, and its classes (C,) from the most frequent in training to the rarest.

    Where a recipe's flags make the tail, that is the order of their labels.
    """
    if args.dataset == "folder":
        data, split = load_folder(args.data_root, args.img_size, False, args.skip_corrupt)
        return data, np.argsort(-split.counts, kind="stable")
    if args.dataset == "small_imagenet127":
        data = load_small_imagenet127(args.data_root, args.img_size)
        return data, np.argsort(-np.bincount(data.train.labels, minlength=len(data.classes)), kind="stable")
    data = load_food101(args.data_root) if args.dataset == "food101" else dataset.load(args.dataset, args.data_root)
    return data, np.arange(len(data.classes))


@contextmanager
def test_stream(data: Dataset, look: dict[str, Any], args: Namespace, device: torch.device) -> Iterator[Any]:
    """The test set, to be swept."""
    members = np.arange(len(data.test.labels))
    if not isinstance(data.test, Files):
        yield Stream("test", Pixels(data.test, **look, device=device), members, ("plain",), 1, 0)
        return
    with closing(ImageLoader(args.img_size, 0, spare_cpus(), args.skip_corrupt, device)) as loader:
        yield Stream("test", ImageFiles(data.test, **look, loader=loader), members, ("plain",), 1, 0)


def evaluated(
    run: Run, prior: np.ndarray | None, data: Dataset, order: np.ndarray, args: Namespace, device: torch.device
) -> tuple[dict[str, Any], str]:
    """The record of a run: what it is, and `shifted_figures`; and how long that took, in words."""
    began = time.monotonic()
    look = {"mean": tuple(run.facts.get("mean", data.mean)), "std": tuple(run.facts.get("std", data.std))}
    logits, truth, done = [], [], 0
    with torch.no_grad(), test_stream(data, look, args, device) as stream:
        for views, labels in stream.sweep(batch_size=args.batch_size):
            logits.append(run.predict(views[0]))
            truth.append(labels)
            done += len(views[0])
            if sys.stdout.isatty():
                print(f"\r{printable(run.given)}: {done} of {len(data.test.labels)} images", end="", flush=True)
    figures = shifted_figures(torch.cat(logits), torch.cat(truth).cpu().numpy(), order, prior)
    if sys.stdout.isatty():
        print()
    took = f"{printable(run.given)}: {done} images in {time.monotonic() - began:.1f} s"
    about = {"run": printable(run.given), "method": run.method, "dataset": args.dataset, "epoch": run.epoch}
    return about | {"checkpoint": printable(run.checkpoint)} | figures, took


if __name__ == "__main__":
    run_main(main)

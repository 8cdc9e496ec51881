"""Evaluate trained networks on test sets with shifted class distributions, long-tailed to reversed.

    python eval_shifted_test_distribution.py results/fix results/cossl --gpu 0

RUN is the folder of a run, or a checkpoint; the data set is the one it was trained on, unless --dataset says otherwise.
One pass over the test set answers for all ratios. Source: the published script of this name.

Shape legend: N test images (N, 3, S, S), C classes.
"""

from utils.start import run_main

import os
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
from dataset.held_out import HELD_OUT, other_facts
from dataset.image_loader import ImageLoader
from dataset.images import Dataset, Files
from dataset.pixels import Pixels
from dataset.small_imagenet127 import NUM_CLASSES, load_small_imagenet
from dataset.stream import Stream
from reporting.protocol import deciding
from reporting.published_flags import count_list, one_each
from reporting.shifted import shifted_figures
from reporting.shifted_files import table, write
from reporting.trained import Model, load_model, prior_of
from training.checkpoint import LATEST
from utils.args import Parser, ignored
from utils.device import pick_device
from utils.errors import UserError
from utils.files import check_writable
from utils.flag_types import gpu, image_size, non_negative_int, path, positive_int, spare_cpus
from utils.metrics import metrics
from utils.text import printable

NAMES = (*dataset.NAMES, *NUM_CLASSES, "food101")
# Sides of images that have several, unless told.
SIDES = {"folder": 32, **dict.fromkeys(NUM_CLASSES, 32), "food101": 224}


def main() -> None:
    args = command_line()
    if args.labelled_counts is not None and not args.known_prior:
        raise UserError("--labelled_counts: only --known_prior needs it; give that, too, or leave it out")
    check_writable(args.out)
    device = pick_device(args.gpu)
    models = [model_of(given, device) for given in args.runs]
    for model in models if args.labelled_counts is not None else []:
        one_each(args.labelled_counts, "--labelled_counts", model)
    check_folders(models, args.out)
    args = with_defaults(args, models)
    data, order = open_data(args)
    for model in models:
        check_classes(model, data)
    priors = [prior_of(model, args.labelled_counts) if args.known_prior else None for model in models]
    found = [evaluated(model, p, data, order, args, device) for model, p in zip(models, priors, strict=True)]
    records, times = map(list, zip(*found, strict=True))
    # Before it is printed, for what reads the output may have ended.
    write(args.out, args.dataset, records, {model.run: i for i, model in enumerate(models) if model.run is not None})
    print("\n".join([*times, "", table(records), f"results: {printable(args.out)}"]))


def command_line() -> Namespace:
    parser = Parser("Evaluate trained networks on test sets with shifted class distributions, long-tailed to reversed.")
    add = parser.add_argument
    add("runs", metavar="RUN", type=path, nargs="+", help=f"folder of a run, whose {LATEST} is taken; or a checkpoint")
    about = "data set of all runs; unless given, the one they were trained on (published checkpoints don't tell)"
    add("--dataset", choices=NAMES, help=about)
    add("--data_root", type=path, help="folder of the data set; unless given, that of the training, else data")
    about = "side of the images of folder, small_imagenet... and food101; unless given, that of the training"
    add("--img_size", type=image_size, help=about)
    about = "leave out unreadable images of --dataset folder and food101, and say which"
    add("--skip_corrupt", action="store_true", help=about)
    about = "also correct the logits for the class distribution of each test set, as if it were known"
    add("--known_prior", action="store_true", help=about)
    about = "labelled images of each class, for --known_prior with published checkpoints, which don't tell; "
    about += "with commas between them, or a file with one a line"
    add("--labelled_counts", type=count_list, metavar="N,N,...", help=about)
    about = "images at a time; unless given, as many as in the evaluations of the training"
    add("--batch-size", type=positive_int, help=about)
    add("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    seed = ignored("--manualSeed", type=non_negative_int)
    add(*seed.names, **seed.options)
    add("--out", type=path, default=Path("results/shifted"), help="folder for the figures of all runs together")
    return parser.parse_args()


def model_of(given: Path, device: torch.device) -> Model:
    """Of the folder of a run, or of a checkpoint."""
    if given.is_dir() and not (given / LATEST).is_file():
        raise UserError(f"{given}: holds no {LATEST}; give the folder of a run, or a checkpoint")
    return load_model(given / LATEST if given.is_dir() else given, "RUN", device)


def check_folders(models: list[Model], out: Path) -> None:
    """Raise UserError where a model is named twice, or the folder of its run can't be written to."""
    seen = set()
    for model in models:
        if (resolved := model.checkpoint.resolve()) in seen:
            raise UserError(f"{model.checkpoint}: named twice; leave one out")
        seen.add(resolved)
        if (folder := model.run) is None:
            continue
        if folder.resolve() == out.resolve():
            raise UserError(f"--out {out}: the folder of a run; take another --out")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: cannot be written to; make it writable, or copy the checkpoint elsewhere")


def with_defaults(args: Namespace, models: list[Model]) -> Namespace:
    """The arguments, with those of the data that aren't given taken from the runs. Raises UserError if these differ."""
    chosen = vars(args).copy()
    chosen["dataset"] = args.dataset or agreed(models, "dataset")
    if chosen["dataset"] is None:
        choices = ", ".join(NAMES)
        raise UserError(f"--dataset: {models[0].checkpoint} doesn't tell what it was trained on; give one of {choices}")
    chosen["data_root"] = args.data_root or Path(agreed(models, "data_root") or "data")
    if side := SIDES.get(chosen["dataset"]):
        chosen["img_size"] = args.img_size or agreed(models, "img_size") or side
    chosen["skip_corrupt"] = args.skip_corrupt or any(model.arguments.get("skip_corrupt") for model in models)
    # Where runs have no test set, they must share the held-out part.
    held_out = any(model.facts.get("evaluated_on") == HELD_OUT for model in models)
    chosen["holdout"], seed = ((agreed(models, name) if held_out else None) for name in ("holdout", "manualSeed"))
    return Namespace(**chosen, seed=seed or 0)


def agreed(models: list[Model], name: str) -> Any:
    """The value that a flag of their data had in all runs that tell it; None if none does."""
    known = [model for model in models if name in model.arguments]
    for model in known:
        if model.arguments[name] != known[0].arguments[name]:
            given = "" if name in ("holdout", "manualSeed") else f", or give --{name}"
            values = f"{model.arguments[name]}, and that of {known[0].checkpoint} {known[0].arguments[name]}"
            raise UserError(f"{model.checkpoint}: its --{name} is {values}; evaluate them apart{given}")
    return known[0].arguments[name] if known else None


def check_classes(model: Model, data: Dataset) -> None:
    """Raise UserError if the model tells other classes apart than the data set has, or other images are held out."""
    if model.classes != len(data.classes):
        problem = f"tells {model.classes} classes apart, and the data set has {len(data.classes)}"
        raise UserError(f"{model.checkpoint}: {problem}; give the --dataset and --data_root it was trained on")
    if model.facts.get("classes", list(data.classes)) != list(data.classes):
        problem = "trained on other classes than those of --dataset/--data_root; give its own"
        raise UserError(f"{model.checkpoint}: {problem}")
    if data.test is data.held_out:
        held_out = np.bincount(data.test.labels, minlength=model.classes).tolist()
        if other_facts(model.facts, {"held_out_counts": held_out} | (data.files or {})):
            problem = "may have been trained on images that are held out now: there were others at its training"
            raise UserError(f"{model.checkpoint}: {problem}; bring those back, or add test images")


def open_data(args: Namespace) -> tuple[Dataset, np.ndarray]:
    """The data set, and its classes (C,) from the most frequent in training to the rarest.

    Where a recipe's flags make the tail, that is the order of their labels.
    """
    if args.dataset == "folder":
        data, split = load_folder(args.data_root, args.img_size, False, args.skip_corrupt, args.holdout, args.seed)
        if data.test is data.held_out:
            print(f"there is no test set: the figures are of the held-out part, {len(data.test.labels)} images")
        return data, np.argsort(-split.counts, kind="stable")
    if args.dataset == "small_imagenet127":
        data = load_small_imagenet(args.data_root, args.img_size)
        return data, np.argsort(-np.bincount(data.train.labels, minlength=len(data.classes)), kind="stable")
    if args.dataset == "small_imagenet1k":
        data = load_small_imagenet(args.data_root, args.img_size, NUM_CLASSES[args.dataset])
    elif args.dataset == "food101":
        data = load_food101(args.data_root)
    else:
        data = dataset.load(args.dataset, args.data_root)
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
    model: Model, prior: np.ndarray | None, data: Dataset, order: np.ndarray, args: Namespace, device: torch.device
) -> tuple[dict[str, Any], str]:
    """The record of a run: what it is, and `shifted_figures`; and how long that took, in words."""
    began = time.monotonic()
    look = {"mean": tuple(model.facts.get("mean", data.mean)), "std": tuple(model.facts.get("std", data.std))}
    logits, truth, done = [], [], 0
    with torch.no_grad(), test_stream(data, look, args, device) as stream:
        for views, labels in stream.sweep(batch_size=args.batch_size):
            logits.append(model.predict(views[0]))
            truth.append(labels)
            done += len(views[0])
            if sys.stdout.isatty():
                print(f"\r{model.named}: {done} of {len(data.test.labels)} images", end="", flush=True)
    scores, labels = torch.cat(logits), torch.cat(truth)
    figures = shifted_figures(scores, labels.cpu().numpy(), order, prior)
    if sys.stdout.isatty():
        print()
    took = f"{model.named}: {done} images in {time.monotonic() - began:.1f} s"
    # SC-SSL: a balanced classifier can do without its bias.
    bias: Any = 0 if model.debiased else model.predict.get_submodule("output").bias
    pair = [metrics(z, labels, [1] * model.classes)["balanced"].item() for z in (scores, scores - bias)]
    took += "; balanced accuracy {:.2f} %, without the classifier's bias {:.2f} %".format(*pair)
    about = {"run": model.named, "method": model.method, "dataset": args.dataset, "epoch": model.epoch}
    about |= {"seed": model.arguments.get("manualSeed")}
    about |= {"protocol": deciding(model.arguments, model.facts)}
    about |= {"balanced": pair[0], "balanced_without_bias": pair[1]}
    about |= {"data_root": printable(args.data_root.absolute()), "checkpoint": printable(model.checkpoint)}
    return about | figures, took


if __name__ == "__main__":
    run_main(main)

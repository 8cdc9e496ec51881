"""The floor that a trained method has to beat: classifiers on pixels, or on frozen features, in seconds to minutes.

    python floor.py --data_root IMAGES --img_size 32 --out results/floor
    python floor.py --data_root IMAGES --img_size 32 --features FILE.npy --out results/floor-features

Logistic regression with balanced classes, the nearest class mean, and with --features the head of CoSSL (TFE). Each
leaves a folder that report.py reads beside those of the runs on the same images.
"""

from utils.start import run_main

import time
from functools import partial
from pathlib import Path

import torch

from dataset.floor_data import FloorData, floor_data
from dataset.held_out import HELD_OUT, held_out_words
from methods.floors import FLOORS, logistic_regression, nearest_class_mean, tfe_head
from methods.method import Network
from models.library import TIMM
from training.floor_folder import refuse_other_floor, write_floor
from utils.args import plain, recipe_args
from utils.files import check_writable, read_json, sha256_of
from utils.flags import CIFAR, LONG_TAIL, RUN, UNLABELLED
from utils.method_flags import FLOOR
from utils.metrics import evaluate

NAMES = {"data_root", "manualSeed", "out", "overwrite", "dataset", "img_size", "skip_corrupt", "holdout"}
FLAGS = tuple(one for one in (*RUN, *CIFAR) if one.name in NAMES)
BATCH = 1000


def main() -> None:
    groups = FLAGS, LONG_TAIL, (UNLABELLED,), FLOOR
    args = recipe_args(Path(__file__), __doc__, *groups, dataset="folder", unlabelled="disjoint")
    args.features = args.features and args.features.resolve()
    arguments, names = plain(args), FLOORS if args.features else FLOORS[:2]
    check_writable(args.out)
    for name in names:
        if not args.overwrite:
            refuse_other_floor(args.out / name, arguments)
    data = floor_data(args)
    if args.holdout is not None:
        print(held_out_words(args.holdout, data.facts))
    on, trained = ("pixels", {}) if args.features is None else described(args.features)
    for name in names:
        began = time.monotonic()
        figures = tested(fitted(name, data, args.manualSeed), data)
        facts = {"method": f"{name.replace('_', ' ').replace('tfe', 'TFE')} on {on}"} | trained | data.facts
        seconds = time.monotonic() - began
        write_floor(args.out / name, facts, arguments, figures, seconds)
        words = "held-out balanced accuracy" if facts.get("evaluated_on") == HELD_OUT else "balanced accuracy"
        print(f"{facts['method']}: {words} {figures['balanced']:.2f} % in {seconds:.0f} s", flush=True)
    print(f"results: {args.out}")


def described(file: Path) -> tuple[str, dict[str, str]]:
    """The name of the features in a file: of their method or network, else of the file; and what tells two such files
    apart in the report: the protocol of the training, or weights and size of images, or the SHA-256 of the file.
    """
    try:
        key = read_json(file.with_suffix(".json"))
        if method := key.get("method"):
            return f"{method}'s features", {"features_of": method, "features_by": key["protocol"][:12]}
        by = f"{key['weights'][:12]}, {key['img_size']} pixels"
        return str(key["architecture"]).removeprefix(TIMM), {"features_by": by}
    except (ValueError, LookupError, TypeError, AttributeError):
        return file.name, {"features_by": sha256_of(file)[:12]}


def fitted(name: str, data: FloorData, seed: int) -> Network:
    """A floor, by the name of its folder."""
    x, y = data.read(data.labelled), torch.from_numpy(data.labels[data.labelled])
    partners = torch.tensor([*data.labelled, *data.unlabelled]).numpy()
    fit = {
        "logistic_regression": partial(logistic_regression, seed=seed),
        "nearest_class_mean": nearest_class_mean,
        "tfe_head": partial(tfe_head, partners=partners, read=data.read, seed=seed),
    }
    return fit[name](x, y)


def tested(predict: Network, data: FloorData) -> dict:
    """Figures of a floor on the test images, or on the held-out ones; see `evaluate`."""
    labels = torch.from_numpy(data.labels)
    parts = torch.from_numpy(data.tested).split(BATCH)
    return evaluate(predict, ((data.read(part.numpy()), labels[part]) for part in parts), data.facts["labelled_counts"])


if __name__ == "__main__":
    run_main(main)

"""Name the classes of image files with a trained network: any checkpoint of any recipe here.

    python predict.py --checkpoint RUN/checkpoint.pth.tar IMAGE_OR_FOLDER... --out predictions.csv

The CSV has a line per image: its file, the three likeliest classes, their probabilities, and whether the likeliest has
many or few labelled images. What answers is what the recipes evaluate: the momentum encoder, with its own classifier,
or in CoSSL with the balanced head's average. Checkpoints of the published code need --classes.

Shape legend: C classes.
"""

from utils.start import run_main

import csv
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from dataset.image_files import image_files
from reporting.predictions import Predictions, predict_files
from reporting.predictor import Predictor
from reporting.trained import load_model
from reporting.untold import add_untold, facts_of
from utils.args import Parser
from utils.device import pick_device
from utils.errors import UserError
from utils.files import check_writable, replacing
from utils.flag_types import gpu, path, positive_int
from utils.metrics import thirds
from utils.text import csv_cell, printable


def main() -> None:
    args = command_line()
    check_writable(args.out.parent)
    model = load_model(args.checkpoint, "--checkpoint", device := pick_device(args.gpu))
    facts = facts_of(model, args)
    files = find(args.images, args.skip_corrupt)
    if any(args.out.exists() and args.out.samefile(file) for file in (args.checkpoint, *files)):
        raise UserError(f"--out {args.out}: would replace the checkpoint, or an image given; take another file")
    predictor = Predictor(model.predict, facts).to(device)
    predictions = predict_files(predictor, files, args.batch_size, args.skip_corrupt)
    write(args.out, predictions, facts["classes"], groups_of(facts["labelled_counts"]))
    if facts["dataset"]:
        print(f"images prepared as those of {facts['dataset']}, {facts['img_size']} pixels")
    classes, counts = np.unique(predictions.classes[:, 0], return_counts=True)
    found = ", ".join(f"{n} {facts['classes'][c]}" for c, n in zip(classes, counts, strict=True))
    print(printable(found))  # folders' names need not be Unicode
    print(f"results: {printable(args.out)}")


def command_line() -> Namespace:
    parser = Parser("Name the classes of image files with a trained network.")
    add = parser.add_argument
    add("--checkpoint", type=path, required=True, help="checkpoint of any recipe")
    add("images", type=path, nargs="+", help="image files, or folders of them")
    add_untold(parser)
    add("--out", type=path, default=Path("predictions.csv"), help="CSV file to write")
    add("--batch-size", type=positive_int, default=100, help="images at a time")
    add("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    add("--skip_corrupt", action="store_true", help="leave out unreadable images, and say which")
    return parser.parse_args()


def find(paths: list[Path], skip_corrupt: bool) -> list[Path]:
    """The files themselves, and the image files in the folders. Raises UserError for a path where nothing is, and as
    `image_files` does.
    """
    found = []
    for given in paths:
        files = image_files(given, skip_corrupt) if given.is_dir() else [given] if given.is_file() else []
        if not files:
            raise UserError(f"{given}: no such image, or a folder without any; check the path")
        found += files
    return found


def groups_of(counts: list[int] | None) -> list[str]:
    """Of each class whether it is many, medium or few, by its labelled images, (C,); empty where these aren't known."""
    if counts is None:
        return []
    groups = thirds(torch.tensor(counts))
    return [next(name for name, members in groups.items() if members[c]) for c in range(len(counts))]


def write(out: Path, predictions: Predictions, classes: list[str], groups: list[str]) -> None:
    """A CSV of the likeliest classes: file, class, probability, class_2, probability_2, ..., and where it is known the
    group of the likeliest; groups: (C,), or empty.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    suffixes = ["", *(f"_{i}" for i in range(2, predictions.classes.shape[1] + 1))]
    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}  # as the system's: files' names need not be Unicode
    with replacing(out) as temporary, temporary.open("w", newline="", **encoding) as file:
        writer = csv.writer(file)
        headings = [name + suffix for suffix in suffixes for name in ("class", "probability")]
        writer.writerow(["file", *headings, *(["group"] if groups else [])])
        columns = predictions.files, predictions.classes.tolist(), predictions.probabilities.tolist()
        for path, indices, values in zip(*columns, strict=True):
            pairs = zip(indices, values, strict=True)
            row = [str(path), *(cell for c, p in pairs for cell in (classes[c], f"{p:.6f}"))]
            row += [groups[indices[0]]] if groups else []
            writer.writerow(map(csv_cell, row))


if __name__ == "__main__":
    run_main(main)

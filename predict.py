"""Name the classes of image files with a trained network: any checkpoint of any recipe here.

    python predict.py --checkpoint RUN/checkpoint.pth.tar IMAGE_OR_FOLDER... --out predictions.csv

The CSV has a line per image: its file, the three likeliest classes, their probabilities, and whether the likeliest has
many or few labelled images. What answers is what the recipes evaluate: the momentum encoder, with its own classifier,
or in CoSSL with the balanced head's average. Checkpoints of the published code need --classes. --gallery FILE.html
writes a page beside it: the images by class, those to label next, those unlike any class, and the run's mistakes.

Shape legend: C classes.
"""

from utils.start import run_main

import csv
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from dataset.image_csv import listed_images
from dataset.image_files import image_files
from reporting.gallery import gallery
from reporting.predictions import Predictions, predict_files
from reporting.predictor import Predictor
from reporting.published_flags import add_published_flags, facts_of
from reporting.reference import reference_of
from reporting.trained import load_model
from utils.args import Parser
from utils.device import pick_device
from utils.errors import UserError
from utils.files import atomic_write_text, check_writable, replacing
from utils.flag_types import gpu, path, positive_int
from utils.metrics import thirds
from utils.text import printable


def main() -> None:
    args = command_line()
    check_places(args)
    model = load_model(args.checkpoint, "--checkpoint", device := pick_device(args.gpu))
    facts = facts_of(model, args)
    files = find(args.images, args.skip_corrupt)
    refuse_inputs(args, files)
    predictor = Predictor(model.predict, facts).to(device)
    how = args.batch_size, args.skip_corrupt
    reference = reference_of(model, predictor, files, *how) if args.gallery else None
    predictions = predict_files(predictor, files, *how, reference and reference.means)
    page = reference and gallery(predictions, reference, facts, args.label_next, model)
    write(args.out, predictions, facts["classes"], groups_of(facts["labelled_counts"]))
    if page:
        args.gallery.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(args.gallery, page)
    if facts["dataset"]:
        print(f"images prepared as those of {facts['dataset']}, {facts['img_size']} pixels")
    classes, counts = np.unique(predictions.classes[:, 0], return_counts=True)
    found = ", ".join(f"{n} {facts['classes'][c]}" for c, n in zip(classes, counts, strict=True))
    print(printable(found))  # folders' names need not be Unicode
    print(*(f"results: {printable(place)}" for place in (args.out, args.gallery) if place), sep="\n")


def command_line() -> Namespace:
    parser = Parser("Name the classes of image files with a trained network.")
    add = parser.add_argument
    add("--checkpoint", type=path, required=True, help="checkpoint of any recipe")
    add("images", type=path, nargs="+", help="image files, folders of them, or a CSV of them")
    add_published_flags(parser)
    add("--out", type=path, default=Path("predictions.csv"), help="CSV file to write")
    add("--gallery", type=path, metavar="FILE.html", help="page to write: the images by class, doubtful ones, mistakes")
    add("--label_next", type=positive_int, default=5, metavar="N", help="doubtful images on it, of each class at most")
    add("--batch-size", type=positive_int, default=100, help="images at a time")
    add("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    add("--skip_corrupt", action="store_true", help="leave out unreadable images, and say which")
    return parser.parse_args()


def check_places(args: Namespace) -> None:
    """Raise UserError where no file, or no other file, can be written."""
    for flag, place in (("--out", args.out), ("--gallery", args.gallery)):
        if place is not None:
            check_writable(place.parent, flag)
            if place.exists() and not place.is_file():
                raise UserError(f"{flag} {place}: not a file; take another name")
    if args.gallery is not None:
        if args.gallery.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--gallery {args.gallery}: is a page; take a name that ends in .html")
        if args.gallery.resolve() == args.out.resolve():
            raise UserError(f"--gallery {args.gallery}: is --out, too; take another name")


def refuse_inputs(args: Namespace, files: list[Path]) -> None:
    """Raise UserError where what is read would be replaced."""
    read = args.checkpoint, *args.images, *files
    for flag, place in (("--out", args.out), ("--gallery", args.gallery)):
        if place is not None and place.exists() and any(place.samefile(file) for file in read if file.exists()):
            raise UserError(f"{flag} {place}: would replace the checkpoint, an image or a CSV given; take another file")


def find(paths: list[Path], skip_corrupt: bool) -> list[Path]:
    """The files themselves, the image files in the folders, and those that a CSV lists. Raises UserError for a path
    where nothing is, and as `image_files` and `listed_images` do.
    """
    found = []
    for given in paths:
        if given.is_dir():
            files = image_files(given, skip_corrupt)
        elif given.is_file() and given.suffix.lower() == ".csv":
            files = [one.path for one in listed_images(given, skip_corrupt)]
        else:
            files = [given] if given.is_file() else []
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
            writer.writerow(row)


if __name__ == "__main__":
    run_main(main)

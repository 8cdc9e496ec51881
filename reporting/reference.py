"""What predictions are measured by: the images of the run itself where they are still there, else those given.

Shape legend: N images, D features, M class means.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dataset.feature_cache import files_key
from dataset.held_out import HELD_OUT, HELD_OUT_FILES, TEST, TEST_FILES, held_out
from dataset.layouts import Listed, Listing, list_images
from reporting.predictions import Predictions, class_means, predict_files
from reporting.predictor import Predictor
from reporting.trained import Model
from utils.errors import UserError
from utils.text import printable

SAMPLE = 2000  # of the images given, from which class means are computed at most


class Evaluated(NamedTuple):
    """Images that a run is judged by. part: "held-out" or "test"; predictions: N; labels: int64 (N,)."""

    part: str
    predictions: Predictions
    labels: np.ndarray


class Reference(NamedTuple):
    """means: see `class_means`, (M, D); images: how many they are of, labelled ones where `evaluated` is known;
    evaluated: or, in words, why there is none; labelled: the images whose classes are known by now, by real paths.
    """

    means: Tensor
    images: int
    evaluated: Evaluated | str
    labelled: frozenset[Path]


def reference_of(
    model: Model, predictor: Predictor, files: Sequence[Path], batch_size: int, skip_corrupt: bool
) -> Reference:
    """Of the run's labelled images, and of its held-out part (or without one of its test part), less what can't be
    read; where these can't be had, of `files`, by their likeliest classes. Raises UserError as `predict_files` does.
    """
    known = frozenset[Path]()
    try:
        listing = _images_of_run(model)
        known = frozenset(path.resolve() for part in (listing.labelled, listing.test) for path in part.paths)
        learned, part, tested = _parts_of_run(model, listing, predictor)
        means, n = class_means(predictor, learned.paths, learned.labels, batch_size, True)
        predictions = predict_files(predictor, tested.paths, batch_size, True, means)
    except UserError as error:
        sample = files[:: -(-len(files) // SAMPLE)]
        return Reference(*class_means(predictor, sample, None, batch_size, skip_corrupt), printable(error), known)
    label = dict(zip(tested.paths, tested.labels, strict=True))
    labels = np.array([label[path] for path in predictions.files])
    return Reference(means, n, Evaluated(part, predictions, labels), known)


def _images_of_run(model: Model) -> Listing:
    """As they lie there now. Raises UserError, which says why, where they can't be had."""
    arguments, facts = model.arguments, model.facts
    if not facts:
        raise UserError("the checkpoint is of the published code, and doesn't tell its images")
    if arguments.get("dataset") != "folder":
        raise UserError("the network was not trained on a folder of one's own images (--dataset folder)")
    root = Path(str(arguments["data_root"]))
    if not root.exists():
        seen = "" if root.is_absolute() else ", seen from the folder that this was started in"
        raise UserError(f"the run's --data_root {root} is not there{seen}")
    return list_images(root, bool(arguments.get("skip_corrupt")))


def _parts_of_run(model: Model, listing: Listing, predictor: Predictor) -> tuple[Listed, str, Listed]:
    """What it learned from, and by what it is judged. Raises UserError where that isn't there any more."""
    if list(listing.classes) != list(model.facts["classes"]):
        raise UserError(f"the run's --data_root {model.arguments['data_root']} has other classes now")
    labelled, arguments = _labelled_of_run(model, listing.labelled, predictor), model.arguments
    root = Path(str(arguments["data_root"]))
    if "held_out_counts" not in model.facts:
        if model.facts.get(TEST_FILES) != files_key(root, listing.test.paths):
            raise UserError(f"{listing.test.place}: the run's test images are not there any more, or not as they were")
        return labelled, TEST, listing.test
    chosen = held_out(np.array(labelled.labels), float(arguments["holdout"]), int(arguments["manualSeed"]))
    held = labelled.some(np.flatnonzero(chosen))
    if model.facts.get(HELD_OUT_FILES) != files_key(root, held.paths):
        raise UserError(f"{labelled.place}: its files have other names or sizes now; the run held out others of them")
    return labelled.some(np.flatnonzero(~chosen)), HELD_OUT, held


def _labelled_of_run(model: Model, labelled: Listed, predictor: Predictor) -> Listed:
    """The labelled images, all or those that can be read, and so those that the run has held out, too.

    Raises UserError where neither are as many as the run had: then some that it learned from might count as held out.
    """
    wanted = np.add(model.facts["labelled_counts"], model.facts.get("held_out_counts", 0))
    for readable in (False, True) if model.arguments.get("skip_corrupt") else (False,):
        if readable:
            labelled = labelled.some([i for _, rows in predictor.read_batches(labelled.paths, 100, True) for i in rows])
        if (np.bincount(labelled.labels, minlength=len(wanted)) == wanted).all():
            return labelled
    raise UserError(f"{labelled.place} has other numbers of labelled images than the run had")

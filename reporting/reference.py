"""What predictions are measured by: the images of the run itself where they are still there, else those given.

Shape legend: N images, D features, M class means.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dataset.held_out import HELD_OUT, TEST, held_out
from dataset.layouts import Listed, list_images
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
    evaluated: or why it can't be had.
    """

    means: Tensor
    images: int
    evaluated: Evaluated | str


def reference_of(
    model: Model, predictor: Predictor, files: Sequence[Path], batch_size: int, skip_corrupt: bool
) -> Reference:
    """Of the run's labelled images, and of its held-out part (or without one of its test part), less what can't be
    read; where these can't be had, of `files`, by their likeliest classes. Raises UserError as `predict_files` does.
    """
    try:
        labelled, part, tested = _images_of_run(model, predictor)
        means, n = class_means(predictor, labelled.paths, labelled.labels, batch_size, True)
        predictions = predict_files(predictor, tested.paths, batch_size, True, means)
    except UserError as error:
        sample = files[:: -(-len(files) // SAMPLE)]
        return Reference(*class_means(predictor, sample, None, batch_size, skip_corrupt), printable(error))
    label = dict(zip(tested.paths, tested.labels, strict=True))
    return Reference(means, n, Evaluated(part, predictions, np.array([label[path] for path in predictions.files])))


def _images_of_run(model: Model, predictor: Predictor) -> tuple[Listed, str, Listed]:
    """What it learned from, and by what it is judged. Raises UserError, which says why, where these can't be had."""
    arguments, facts = model.arguments, model.facts
    if not facts:
        raise UserError("the checkpoint is of the published code, and doesn't tell its images")
    if arguments.get("dataset") != "folder":
        raise UserError("the network was not trained on a folder of one's own images (--dataset folder)")
    root, skip_corrupt = Path(str(arguments["data_root"])), bool(arguments.get("skip_corrupt"))
    if not root.exists():
        raise UserError(f"the run's --data_root {root} is not there, seen from the folder that this was started in")
    listing = list_images(root, skip_corrupt)
    if list(listing.classes) != list(facts["classes"]):
        raise UserError(f"the run's --data_root {root} has other classes now")
    if "held_out_counts" not in facts:
        return listing.labelled, TEST, listing.test
    some, chosen = _held_out(model, listing.labelled, predictor, skip_corrupt)
    learned, held = (
        Listed(some.place, [some.paths[i] for i in rows], [some.labels[i] for i in rows])
        for rows in ((~chosen).nonzero()[0], chosen.nonzero()[0])
    )
    return learned, HELD_OUT, held


def _held_out(model: Model, labelled: Listed, predictor: Predictor, skip_corrupt: bool) -> tuple[Listed, np.ndarray]:
    """The labelled images, all or those that can be read, and which of them the run has held out, bool (L,).

    Raises UserError where neither are as many as the run had: then some that it learned from might count as held out.
    """
    share, seed = float(model.arguments["holdout"]), int(model.arguments["manualSeed"])
    wanted = np.add(model.facts["labelled_counts"], model.facts["held_out_counts"])
    for readable in (False, True) if skip_corrupt else (False,):
        if readable:
            kept = [i for _, rows in predictor.read_batches(labelled.paths, 100, True) for i in rows]
            labelled = Listed(labelled.place, [labelled.paths[i] for i in kept], [labelled.labels[i] for i in kept])
        labels = np.array(labelled.labels, dtype=np.int64)
        if (np.bincount(labels, minlength=len(wanted)) == wanted).all():
            return labelled, held_out(labels, share, seed)
    raise UserError(f"{labelled.place} has other numbers of labelled images than the run had")

"""The page of the predictions: small pictures by class, which to label next, what is unlike any class, the mistakes.

This file prepares plain data; gallery.html.j2 says how they look, and escapes them.
Shape legend: N images, C classes.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset.held_out import HELD_OUT
from reporting.confusion import confusion_chart, confusion_of
from reporting.page import from_template
from reporting.predictions import Predictions
from reporting.reference import Evaluated, Reference
from reporting.selection import ALIKE, MOST_TO_LABEL, QUANTILE, mistakes, spread, to_label, unlike
from reporting.thumbnails import thumbnails
from reporting.trained import Model
from utils.text import printable

PER_CLASS, ALL_CLASSES = 24, 2000  # pictures by class: of each at most, and of all about
MOST_SHOWN = 48  # of those unlike any class, and of mistakes


class Card(NamedTuple):
    """A picture. file: as in the CSV; name: the same from the folder of all; guesses: likeliest classes, each with its
    probability in percent; note: why it is shown. All printable.
    """

    file: str
    name: str
    guesses: list[tuple[str, str]]
    note: str
    thumbnail: str


class Pictures:
    """What the page needs of one set of predictions. classes: C names."""

    def __init__(self, predictions: Predictions, classes: Sequence[str], shown: Iterable[int]) -> None:
        self.predictions, self.classes, files = predictions, classes, predictions.files
        self.folder = os.path.commonpath([file.absolute().parent for file in files])
        self.thumbnails = thumbnails(files[i] for i in shown)

    def card(self, i: int, note: str = "") -> Card:
        """Of an image that is shown."""
        file, pairs = (
            self.predictions.files[i],
            zip(self.predictions.classes[i], self.predictions.probabilities[i], strict=True),
        )
        guesses = [(printable(self.classes[c]), f"{100 * p:.1f} %") for c, p in pairs]
        name = printable(os.path.relpath(file, self.folder))
        return Card(printable(file), name, guesses[:2], note, self.thumbnails[file])


def gallery(predictions: Predictions, reference: Reference, facts: dict[str, Any], per_class: int, model: Model) -> str:
    """The whole page. facts: `classes`, `labelled_counts`, see `published_flags.facts_of`; per_class: how many to
    label of each class at most.
    """
    classes, counts = facts["classes"], np.bincount(predictions.classes[:, 0], minlength=len(facts["classes"]))
    labelled = {i for i, file in enumerate(predictions.files) if file.resolve() in reference.labelled}
    doubtful, passed = to_label(predictions, per_class, labelled)
    judged = None if isinstance(reference.evaluated, str) else reference.evaluated
    known = predictions if judged is None else judged.predictions
    threshold = max(0.0, float(np.quantile(known.distance, QUANTILE)))  # no rounding error
    strange = unlike(predictions.distance, threshold)
    each = min(PER_CLASS, max(1, ALL_CLASSES // len(classes)))
    of_class = {c: spread(predictions, c, each) for c in np.flatnonzero(counts).tolist()}
    shown = {*doubtful, *strange[:MOST_SHOWN], *(i for some in of_class.values() for i in some)}
    pictures = Pictures(predictions, classes, shown)
    margins, distances = (100 * predictions.margin).tolist(), predictions.distance.tolist()
    return from_template(
        "gallery.html.j2",
        network=(printable(model.method), model.epoch, printable(model.checkpoint)),
        folder=printable(pictures.folder),
        n=len(predictions.files),
        doubtful=[pictures.card(i, f"margin {margins[i]:.1f} %") for i in doubtful],
        limits={"per_class": per_class, "most": MOST_TO_LABEL, "passed": passed, "alike": ALIKE},
        labelled=len(labelled),
        strange=[pictures.card(i, f"distance {distances[i]:.3f}") for i in strange[:MOST_SHOWN]],
        distance={"above": len(strange), "threshold": f"{threshold:.3f}", "quantile": QUANTILE},
        means_of=reference.images,
        by_class=[(printable(classes[c]), int(counts[c]), [*map(pictures.card, of_class[c])]) for c in of_class],
        absent=[printable(classes[c]) for c in np.flatnonzero(counts == 0)],
        judged=judgement(judged, facts) if judged else reference.evaluated,
    )


def judgement(judged: Evaluated, facts: dict[str, Any]) -> dict[str, Any]:
    """Accuracy, worst mistakes and confusion of the images that the run was judged by."""
    wrong, classes = mistakes(judged.predictions, judged.labels), [*map(printable, facts["classes"])]
    pictures = Pictures(judged.predictions, classes, wrong[:MOST_SHOWN])
    found = confusion_of(judged.labels, judged.predictions.classes[:, 0], len(classes))
    n, present = len(judged.labels), found.sum(axis=1) > 0
    recall = found.diagonal()[present] / found.sum(axis=1)[present]
    title = f"the {n} {judged.part} images"
    return {
        "part": judged.part,
        "held_out": judged.part == HELD_OUT,
        "folder": printable(pictures.folder),
        "n": n,
        "wrong": len(wrong),
        "top1": f"{100 * (1 - len(wrong) / n):.1f}",
        "balanced": f"{100 * recall.mean():.1f}",
        "cards": [pictures.card(i, f"true: {classes[judged.labels[i]]}") for i in wrong[:MOST_SHOWN]],
        "chart": confusion_chart(title, None, found, classes, facts["labelled_counts"]),
    }

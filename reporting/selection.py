"""Which images a person should look at: the doubtful, the typical, those unlike any class, the mistakes.

Shape legend: N images, G x G pixels of small grey images.
"""

from collections import Counter
from collections.abc import Container

import numpy as np

from reporting.predictions import SMALL, Predictions

ALIKE = 0.95  # correlation from which images are near-duplicates
MOST_TO_LABEL = 500
QUANTILE = 0.95  # of known images' distances, above which an image is unlike any class


def to_label(predictions: Predictions, per_class: int, labelled: Container[int] = ()) -> tuple[list[int], int]:
    """The images with the smallest margins, the smallest first, at most `per_class` of each likeliest class and
    MOST_TO_LABEL of all; and how many near-duplicates of these were passed over. labelled: those that are never taken.
    """
    chosen: list[int] = []
    taken: Counter[int] = Counter()
    passed, rows = 0, np.empty((MOST_TO_LABEL, SMALL**2 + 1), np.float32)
    for i in predictions.margin.argsort(kind="stable").tolist():
        c = int(predictions.classes[i, 0])
        if i in labelled or taken[c] == per_class or len(chosen) == MOST_TO_LABEL:
            continue
        row = _centred(predictions.grey[i])
        if (rows[: len(chosen)] @ row >= ALIKE).any():
            passed += 1
            continue
        rows[len(chosen)] = row
        chosen.append(i)
        taken[c] += 1
    return chosen, passed


def _centred(grey: np.ndarray) -> np.ndarray:
    """A unit vector (G * G + 1,), so that the product of two is the correlation of their images; the last element
    makes images of one colour, which have no correlation, near-duplicates of each other. grey: uint8 (G, G).
    """
    row = np.append(grey - grey.mean(), 1).astype(np.float32)
    return row / np.linalg.norm(row)


def spread(predictions: Predictions, c: int, n: int) -> list[int]:
    """At most n images whose likeliest class is c, from the most to the least confident in even steps."""
    members = (predictions.classes[:, 0] == c).nonzero()[0]
    members = members[(-predictions.probabilities[members, 0]).argsort(kind="stable")]
    ranks = np.linspace(0, len(members) - 1, min(n, len(members))).round().astype(int)
    found: list[int] = members[ranks].tolist()
    return found


def unlike(distance: np.ndarray, threshold: float) -> list[int]:
    """The images beyond a distance, the farthest first."""
    return [i for i in (-distance).argsort(kind="stable").tolist() if distance[i] > threshold]


def mistakes(predictions: Predictions, labels: np.ndarray) -> list[int]:
    """The images whose likeliest class isn't their label, the most confident first. labels: int64 (N,)."""
    confident_first = (-predictions.probabilities[:, 0]).argsort(kind="stable")
    return [i for i in confident_first.tolist() if predictions.classes[i, 0] != labels[i]]

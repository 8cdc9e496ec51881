"""Confusion matrices: counted, and as plain numbers for dots_and_confusion.js to draw.

Shape legend: N images, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion_of(labels: np.ndarray, guesses: np.ndarray, classes: int) -> np.ndarray:
    """How many images of a label (rows) are guessed to be of a class (columns), int64 (C, C); both: int64 (N,)."""
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (labels, guesses), 1)
    return found


def confusion_chart(
    title: str, series: int | None, found: np.ndarray, classes: Sequence[str], counts: Sequence[int] | None
) -> dict[str, Any]:
    """found: images of a true class (rows) by predicted class (columns), (C, C); counts: see `most_frequent_first`;
    series: None where no legend switches it.
    """
    order = most_frequent_first(classes, counts)
    total = found[np.ix_(order, order)]
    percent = 100 * total / np.maximum(total.sum(axis=1, keepdims=True), 1)
    cells = np.round(percent, 1 if len(order) <= 20 else 0).tolist()
    names = [classes[i] for i in order]
    return {"kind": "confusion", "title": title, "series": series, "names": names, "cells": cells}


def most_frequent_first(names: Sequence[str], counts: Sequence[int] | None) -> np.ndarray:
    """Indices of the classes, (C,), by their labelled images; as they are where those are not known."""
    return np.argsort(-np.array(counts or [0] * len(names)), kind="stable")

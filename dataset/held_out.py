"""The held-out part: labelled images that are never trained on, for choosing a checkpoint, or in place of a test set.

Shape legend: L labelled images, C classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.seeding import generator

TEST, HELD_OUT = "test", "held-out"  # what test figures may be of
HELD_OUT_FILES, TEST_FILES = "held_out_files", "test_files"  # facts, see `files_key`


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which labelled images are held out, bool (L,): of each class this share, rounded, drawn by the seed; at least one
    image of a class with two or more, and never the last one of a class.

    labels: int (L,), 0 .. C-1; share: above 0 and below 1. Raises UserError if no class has two images.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        n = min(max(1, round(share * len(members))), len(members) - 1)
        chosen[generator(seed, "held-out", int(c)).permutation(members)[:n]] = True
    if not chosen.any():
        raise UserError(f"--holdout {share:g}: no class has two labelled images; label more, or give test images")
    return chosen


def learned_from(facts: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Facts and flags that are equal in two runs on a folder only if both hold out the same of its labelled images."""
    names = ("classes", "labelled_counts", "held_out_counts", HELD_OUT_FILES)
    return {name: facts.get(name) for name in names} | {name: arguments.get(name) for name in ("holdout", "manualSeed")}


def other_facts(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of those facts of now that differ from a run's."""
    return [name for name in now if then.get(name) != now[name]]


def held_out_words(share: float, facts: Mapping[str, Any]) -> str:
    """What is held out, in a sentence. facts: of the data, see `dataset.data.Data.facts`."""
    counts, left = np.array(facts["held_out_counts"]), sum(facts["labelled_counts"])
    some, alone = counts[counts > 0], int((counts == 0).sum())
    each = f"{some.min()}" if some.min() == some.max() else f"{some.min()} to {some.max()}"
    words = f"--holdout {share:g}: {counts.sum()} of {counts.sum() + left} labelled images are held out, {each} a class"
    if alone:
        words += f", none of the {alone} with one image"
    if facts["evaluated_on"] == TEST:
        return f"{words}; by these the best checkpoint is chosen"
    return f"{words}; there is no test set, so all test figures are of these"

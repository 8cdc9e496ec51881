"""The class counts of a data set as a table of text."""

from collections.abc import Sequence

import numpy as np

from utils.text import printable

ALONE = (
    "there are no unlabelled images: methods that need some get the labelled ones; train_cifar_supervised.py needs none"
)


def describe(
    counts: np.ndarray,
    unlabelled_counts: np.ndarray | None,
    unlabelled: int,
    classes: Sequence[str] = (),
    labelled_again: int = 0,
) -> str:
    """The class counts of both sets, int (C,) each, as a table of at most 100 columns, in blocks of lines.

    unlabelled: images in the unlabelled set, all that is said of it where its counts are unknown (None); classes: their
    names, numbers if none are given or one doesn't fit; labelled_again: how many of the unlabelled are labelled.
    """
    titles = ["class", f"{counts.sum()} labelled", f"{unlabelled} unlabelled"]
    margin, names = max(map(len, titles)), [printable(name) for name in classes]
    if max(map(len, names), default=100) >= 100 - margin:
        names = [str(c) for c in range(len(counts))]
    rows = [names, *([str(n) for n in row] for row in (counts, unlabelled_counts) if row is not None)]
    gap = 2 if any(" " in name for name in names) else 1
    widths = [gap + max(map(len, column)) for column in zip(*rows, strict=True)]
    lines, start = [], 0
    while start < len(names):
        end = start + int(np.searchsorted(np.cumsum(widths[start:]), 100 - margin, side="right"))
        for title, row in zip(titles, rows, strict=False):
            cells = (f"{cell:>{width}}" for cell, width in zip(row[start:end], widths[start:end], strict=True))
            lines.append(f"{title:>{margin}}" + "".join(cells))
        start = end
    some = f"{labelled_again} of the unlabelled are the labelled ones again"
    note = [some if labelled_again < unlabelled else ALONE] if labelled_again else []
    return "\n".join([*lines, *titles[len(rows) :], *note])

"""Self-training: unlabelled images join the labelled ones by their pseudo-labels.

Shape legend: n images join, C classes.
"""

from typing import NamedTuple

import numpy as np

from dataset.images import Dataset
from dataset.long_tail import LongTailed, class_profile
from utils.errors import UserError


class Joined(NamedTuple):
    """What a generation of self-training adds to a data set. images: int64 (n,), numbers of training images that join
    the labelled ones; labels: int64 (n,), by which they do; seed: of the generation's batches.
    """

    images: np.ndarray
    labels: np.ndarray
    seed: int


def with_joined(dataset: Dataset, found: LongTailed, joined: Joined) -> tuple[Dataset, LongTailed]:
    """The same with copies of images that have joined the labelled ones, which counts leave out. The unlabelled set
    keeps these images, and their hidden labels. Raises UserError where images have gone since they joined.
    """
    train, copies = dataset.train, np.arange(len(joined.images)) + len(dataset.train.labels)
    if joined.images.max(initial=-1) >= len(train.labels):
        problem = "has fewer images than the run began with"
        raise UserError(f"--data_root: {problem}; bring those back, or start anew in another --out")
    more = train.some(joined.images)._replace(labels=joined.labels)
    members = np.concatenate([found.labelled, copies])
    return dataset._replace(train=train.with_more(more)), found._replace(labelled=members)


def class_frequencies(dataset: str, imb_ratio_l: int, counts: np.ndarray) -> list[float]:
    """Of the labelled images, to scale, (C,): by gamma, which their counts (C,) round; of a folder these counts."""
    return counts.tolist() if dataset == "folder" else class_profile(len(counts), imb_ratio_l)

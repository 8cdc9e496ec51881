"""The classifier learner that flags name."""

from typing import Protocol

import numpy as np
import torch

from methods.balanced import kept_as_published, with_unlabelled
from methods.classifier import caa, crt, tfe
from methods.method import Learner

SURE = 0.95  # ABC: confidence from which on an unlabelled image counts (published code)


class LearnerFlags(Protocol):
    """classifier: tfe, crt, abc or caa; max_lam: of TFE; epochs, val_iteration: the length of the run, for ABC."""

    classifier: str
    max_lam: float
    epochs: int
    val_iteration: int


def named_learner(flags: LearnerFlags, counts: np.ndarray, width: int, device: torch.device) -> Learner:
    """counts: labelled images per class, (C,); width: D of the features; device: of the features."""
    if flags.classifier == "tfe":
        return tfe(counts, flags.max_lam, device)
    if flags.classifier == "crt":
        return crt()
    if flags.classifier == "caa":
        return caa(len(counts), width)
    keep = kept_as_published(torch.from_numpy(counts).to(device))
    return with_unlabelled(crt(), keep, SURE, 1.0, flags.epochs * flags.val_iteration)

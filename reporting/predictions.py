"""What a network makes of image files: batch by batch, so that only a few figures of each image stay in memory.

Shape legend: N images, K = 3 likeliest classes (2 where there are no more).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from reporting.predictor import Predictor
from utils.errors import UserError

TOP = 3
SMALL = 16  # pixels, side of the grey images that tell near-duplicates


class Predictions(NamedTuple):
    """files: N; classes: the likeliest first, int64 (N, K); probabilities: of these, float32 (N, K); energy: float32
    (N,), the higher, the less an image is like any class, see `predict_files`; grey: small images, uint8 (N, 16, 16).
    """

    files: list[Path]
    classes: np.ndarray
    probabilities: np.ndarray
    energy: np.ndarray
    grey: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """How much likelier the likeliest class is than the next, (N,)."""
        return self.probabilities[:, 0] - self.probabilities[:, 1]


def predict_files(predictor: Predictor, files: Sequence[Path], batch_size: int, skip_corrupt: bool) -> Predictions:
    """The energy is -log(sum(exp(logits))): Liu et al., Energy-based Out-of-distribution Detection, 2020, section 3.1.

    Raises UserError for files that can't be read; skip_corrupt: leaves them out and names them, and raises if none is
    left.
    """
    kept, found = [], []
    for pixels, some in predictor.read_batches(files, batch_size, skip_corrupt):
        logits = predictor.logits(pixels)
        top = logits.softmax(dim=1).cpu().topk(min(TOP, logits.shape[1]), dim=1)
        small = adaptive_avg_pool2d(pixels.float().mean(dim=1), SMALL).round().byte()
        found.append([top.indices, top.values, -logits.logsumexp(dim=1).cpu(), small.cpu()])
        kept += some
    if not kept:
        raise UserError("no readable image; give other files")
    figures = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return Predictions([files[i] for i in kept], *figures)

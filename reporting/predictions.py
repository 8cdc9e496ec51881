"""What a network makes of image files: batch by batch, so that only a few figures of each image stay in memory.

Shape legend: N images, D features, C classes, K = 3 likeliest classes (2 where there are no more), M class means.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize, one_hot

from reporting.predictor import Predictor
from utils.errors import UserError

TOP = 3
SMALL = 16  # pixels, side of the grey images that tell near-duplicates


class Predictions(NamedTuple):
    """files: N; classes: the likeliest first, int64 (N, K); probabilities: of these, float32 (N, K); distance: from the
    nearest class mean, float32 (N,), 0 (in its direction) to 2; NaN without means; grey: small images, uint8
    (N, 16, 16).
    """

    files: list[Path]
    classes: np.ndarray
    probabilities: np.ndarray
    distance: np.ndarray
    grey: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """How much likelier the likeliest class is than the next, (N,)."""
        return self.probabilities[:, 0] - self.probabilities[:, 1]


def predict_files(
    predictor: Predictor, files: Sequence[Path], batch_size: int, skip_corrupt: bool, means: Tensor | None = None
) -> Predictions:
    """means: see `class_means`. Raises UserError for files that can't be read; skip_corrupt: leaves them out and names
    them, and raises if none is left.
    """
    kept: list[int] = []
    found: list[np.ndarray] = []
    for pixels, some in predictor.read_batches(files, batch_size, skip_corrupt):
        features = predictor.features(pixels)
        probabilities = predictor.probabilities(features).cpu()
        top = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
        distance = torch.full((len(some),), torch.nan) if means is None else _distance(features, means)
        grey = adaptive_avg_pool2d(pixels.float().mean(dim=1), SMALL).round().byte()
        figures = [part.cpu().numpy() for part in (top.indices, top.values, distance, grey)]
        # Of all images at once: small tensors that stay, among large ones that go, would leave gaps in memory.
        found = found or [np.empty((len(files), *part.shape[1:]), part.dtype) for part in figures]
        for whole, part in zip(found, figures, strict=True):
            whole[len(kept) : len(kept) + len(some)] = part
        kept += some
    if not kept:
        raise UserError("no readable image; give other files")
    return Predictions([files[i] for i in kept], *(whole[: len(kept)] for whole in found))


def _distance(features: Tensor, means: Tensor) -> Tensor:
    """1 - the highest cosine similarity of features (N, D) with means (M, D), (N,)."""
    return 1 - (normalize(features) @ means.T).amax(dim=1)


def class_means(
    predictor: Predictor, files: Sequence[Path], labels: Sequence[int] | None, batch_size: int, skip_corrupt: bool
) -> tuple[Tensor, int]:
    """The directions of the classes' mean features, float32 (M, D) of length 1, for the M classes of which there are
    images; and how many images there are. labels: N of these classes, None: the likeliest.

    Raises UserError as `predict_files` does.
    """
    sums, n = torch.zeros(()), 0
    for pixels, some in predictor.read_batches(files, batch_size, skip_corrupt):
        features = predictor.features(pixels)
        probabilities = predictor.probabilities(features)
        guesses = probabilities.argmax(dim=1)
        given = guesses if labels is None else torch.tensor([labels[i] for i in some], device=guesses.device)
        sums = sums.to(features) + one_hot(given, probabilities.shape[1]).to(features).T @ features
        n += len(some)
    if not n:
        raise UserError("no readable image; give other files")
    return normalize(sums[sums.any(dim=1)]), n

"""What MixMatch and ReMixMatch share: sharpened guesses, MixUp, and how mixed batches go through the network.

Shape legend: N images (N, 3, S, S) in K batches of B, C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def sharpen(p: Tensor, T: float) -> Tensor:
    """p^(1 / T), made to sum to 1 again in each row of p (N, C). T: temperature; below 1 it lowers the entropy.

    Source: MixMatch (Berthelot et al. 2019), section 3.2. By logarithms, so that no power underflows.
    """
    return (p.log() / T).softmax(dim=1)


def draw_mixup(n_images: int, alpha: float) -> dict[str, np.ndarray]:
    """mixup_lam: () >= 1/2, float64, one for the whole batch; mixup_perm: a permutation, int32 (n_images,).

    lambda = max(l, 1 - l) with l ~ Beta(alpha, alpha), so that a row stays nearer to itself than to its partner. In
    float64, 1 - lambda loses no digit (published code).
    """
    share = torch.distributions.Beta(alpha, alpha).sample().double()
    perm = torch.randperm(n_images)
    return {"mixup_lam": torch.maximum(share, 1 - share).numpy(), "mixup_perm": perm.int().numpy()}


def mixup(inputs: Tensor, targets: Tensor, lam: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Every row of inputs (N, ...) and targets (N, C) blended with row perm[i] of the same: lam a + (1 - lam) b.

    Source: MixMatch, section 3.3; one lambda per batch: published code.
    """

    def blended(rows: Tensor) -> Tensor:
        return lam * rows + (1 - lam) * rows.index_select(0, perm)

    return blended(inputs), blended(targets)


def interleave(batches: Sequence[Tensor]) -> list[Tensor]:
    """Exchange rows so that each of the K batches (B, ...) holds some of batch 0; doing it twice undoes it.

    Rows are cut into K groups of B // K, the last B % K groups having one row more. Group i of batch 0 and group i of
    batch i change places. Source: published code of MixMatch; it gives the batches similar BatchNorm statistics.
    """
    number, rows = len(batches), len(batches[0])
    groups = [batch.split([(rows + i) // number for i in range(number)]) for batch in batches]
    exchanged = [[groups[j][i] for i in range(number)] for j in range(number)]
    for i in range(1, number):
        exchanged[0][i], exchanged[i][i] = groups[i][i], groups[0][i]
    return [torch.cat(batch) for batch in exchanged]


def forward_interleaved(model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Logits of the first batch (B, C) and of all others (N - B, C); images (N, 3, S, S), N a multiple of B.

    The batches are interleaved and forwarded one after another (published code).
    """
    first, *others = interleave([model(batch) for batch in interleave(images.split(batch_size))])
    return first, torch.cat(others)

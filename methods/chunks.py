"""Batches that go through the network piece by piece.

Shape legend: N images (N, 3, S, S), C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def in_chunks(ssl: Callable, size: int) -> Callable:
    """The SSL method `ssl`, its network and its labeller called on `size` images at a time, the last ones fewer.

    In train mode each chunk has BatchNorm statistics of its own (published code for Food-101, not in the paper).
    """

    def chunked(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda images: torch.cat([network(chunk) for chunk in images.split(size)])

    def method(model: Callable, labeller: Callable, *batch, **hyperparameters):
        return ssl(chunked(model), chunked(labeller), *batch, **hyperparameters)

    return method

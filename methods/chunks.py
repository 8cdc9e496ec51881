"""Batches that go through the network piece by piece.

Shape legend: N images (N, 3, S, S), C classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def in_chunks(ssl: Callable) -> Callable:
    """The SSL method `ssl`, its network and its labeller called on as many images at a time as the labelled batch has.

    In train mode each chunk has BatchNorm statistics of its own (published code for Food-101, not in the paper).
    """

    def method(model: Callable, labeller: Callable, x: Tensor, *batch, **hyperparameters):
        chunked = lambda network: lambda images: torch.cat([network(chunk) for chunk in images.split(len(x))])
        return ssl(chunked(model), chunked(labeller), x, *batch, **hyperparameters)

    return method

"""Batches of images (N, 3, S, S) that go through the network piece by piece."""

from typing import Any

import torch
from torch import Tensor

from methods.method import Logs, Method, Network
from methods.pseudo_labels import PseudoLabels


def in_chunks(method: Method) -> Method:
    """`method`, its network and its labeller called on as many images at a time as the labelled batch has.

    In train mode each chunk has BatchNorm statistics of its own (published code for Food-101, not in the paper).
    """

    def loss(model: Network, labeller: Network, batch: Any) -> tuple[Tensor, Logs, PseudoLabels | None]:
        rows = len(batch.labelled.labels)

        def chunked(network: Network) -> Network:
            return lambda images: torch.cat([network(chunk) for chunk in images.split(rows)])

        return method.loss(chunked(model), chunked(labeller), batch)

    return method._replace(loss=loss)

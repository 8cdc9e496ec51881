"""CDMAD (Lee & Kim 2024): what a network says of an image without content is its bias, which is taken away.

- The labeller's logits for the weak view, less those for a constant image, are the targets: soft ones, all are used.
- So are the logits in evaluation.

Shape legend: B images (B, 3, S, S), C classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.fixmatch import fixmatch
from methods.method import Logs, Method, Network
from methods.offsets import both
from methods.pseudo_labels import PseudoLabels


class ConstantImage(nn.Module):
    """image: (1, 3, S, S), of one value after normalisation (published code: 1)."""

    image: Tensor

    def __init__(self, size: int, value: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("image", torch.full((1, 3, size, size), value))


def debiased(score: Network, constant: ConstantImage) -> Network:
    """images -> logits (B, C) of `score`, less those of the constant image."""
    return lambda images: score(images) - score(constant.image)


def cdmad(constant: ConstantImage, begin: int) -> Method:
    """FixMatch with soft targets, without a threshold, and from step `begin` on without the labeller's bias.

    The labeller is the average in eval mode, or as published the live network in train mode, whose BatchNorm statistics
    the constant image then moves. Source: CDMAD, section 3.
    """
    plain = fixmatch(0.0, soft=True)

    def draw(t: int, rows: int) -> dict[str, np.ndarray]:
        return {"debias": np.array(t >= begin, np.float32)}

    def loss(model: Any, labeller: Network, batch: Any) -> tuple[Tensor, Logs, PseudoLabels | None]:
        def without_bias(images: Tensor) -> Tensor:
            twice = constant.image.expand(2, -1, -1, -1)  # BatchNorm in train mode needs more than one value
            bias: Tensor = batch.numbers["debias"] * labeller(twice)[:1]
            return labeller(images) - bias

        total, logs, pseudo = plain.loss(model, without_bias, batch)
        return total, logs, pseudo if pseudo is None else pseudo._replace(selected=None)

    draws = both(plain.draw, draw)
    return plain._replace(name="FixMatch+CDMAD", loss=loss, draw=draws, state={"debias": constant}, balanced=True)

"""What classifies images with a trained network: from their pixels to probabilities, as one module.

Shape legend: B images (B, 3, S, S), D features, C classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataset.augment import normalise
from dataset.crops import evaluated_shape
from dataset.image_files import read_batches, read_images


class Predictor(nn.Module):
    """pixels, uint8 (B, 3, S, S), RGB -> probabilities, float32 (B, C), each row of sum 1. Needs no `torch.no_grad`.

    network: normalised images (B, 3, S, S) -> `features` (B, D) -> by `output` logits (B, C), as
    `trained.Model.predict`; facts: `img_size`, the S; `mean` and `std` of the channels, (3,) each, for pixels in
    0 .. 1; `resize` where the images were cropped as those of Food-101: the shorter side before that, pixels. Raises
    TypeError for pixels of another type or size.
    """

    def __init__(self, network: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.img_size, self.resize = network, facts["img_size"], facts.get("resize")
        self.shape = evaluated_shape(self.resize)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(facts[name], dtype=torch.float32))
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.probabilities(self.features(pixels))

    def probabilities(self, features: Tensor) -> Tensor:
        """features: (B, D) -> (B, C)."""
        return self.network.output(features).softmax(dim=1)

    def features(self, pixels: Tensor) -> Tensor:
        """What the classifier sees of the pixels, (B, D)."""
        wanted = (3, self.img_size, self.img_size)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != wanted:
            raise TypeError(
                f"expected uint8 (B, {wanted[0]}, {wanted[1]}, {wanted[2]}), got {pixels.dtype}, {[*pixels.shape]}"
            )
        return self.network.features(normalise(pixels, self.mean, self.std))

    def read(self, files: Sequence[str | Path], skip_corrupt: bool = False) -> tuple[Tensor, list[int]]:
        """The images in files, uint8 (N, 3, S, S) on the CPU, turned upright and cut as in training; and which of the
        files they are, N indices. Raises UserError for files that can't be read; skip_corrupt: names them instead.
        """
        pixels, kept = read_images([*map(Path, files)], self.img_size, skip_corrupt, self.shape)
        return torch.from_numpy(pixels), kept

    def read_batches(
        self, files: Sequence[Path], batch_size: int, skip_corrupt: bool
    ) -> Iterator[tuple[Tensor, list[int]]]:
        """The same in batches, uint8 (B, 3, S, S) on the device of the network."""
        for pixels, kept in read_batches(files, batch_size, self.img_size, skip_corrupt, self.shape):
            yield torch.from_numpy(pixels).to(self.mean.device), kept

"""The predictor: from pixels to probabilities; what it refuses."""

import pytest
import torch

from models.wrn import WideResNet
from reporting.predictor import Predictor

FACTS = {"img_size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return Predictor(WideResNet(3, 10, 1), FACTS)


def test_probabilities_of_pixels(predictor):
    """Pixel by pixel, in float64; the pixels stay as they are; no gradient is kept."""
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    given, probabilities = pixels.clone(), predictor(pixels)
    images = torch.empty(4, 3, 16, 16, dtype=torch.float64)
    for channel, (mean, std) in enumerate(zip(FACTS["mean"], FACTS["std"], strict=True)):
        images[:, channel] = (pixels[:, channel].double() / 255 - mean) / std
    expected = predictor.network.double()(images).softmax(dim=1)
    torch.testing.assert_close(probabilities.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(pixels, given)
    assert not (predictor.training or probabilities.requires_grad)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, 3, 16, 24, dtype=torch.uint8),
        torch.zeros(2, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
    ],
    ids=["float", "other size", "channels last", "one image"],
)
def test_other_pixels_are_refused(pixels, predictor):
    with pytest.raises(TypeError, match=r"expected uint8 \(B, 3, 16, 16\), got torch"):
        predictor(pixels)

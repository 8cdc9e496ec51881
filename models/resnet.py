"""ResNet-50 for images of 32 or 64 pixels, with a rotation head (He et al. 2016; as in the published CoSSL code).

Shape legend: B images (B, 3, S, S), D = 2048 features, C classes.
Names of submodules are those of the published checkpoints, so that these load.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from models.initialise import initialise

EXPANSION = 4
BLOCKS = 3, 4, 6, 3  # of each stage


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride), 1 x 1 convolution, added to the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        return relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 whose first convolution is 3 x 3 with stride 1, without a pooling behind it.

    `features(x)`: (B, 3, S, S) -> (B, D); `output(f)`: (B, D) -> logits (B, C); `rot(f)`: (B, D) -> logits of
    the four quarter turns (B, 4); calling the network: images -> logits. width: of the first stage.
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, width, 3), nn.BatchNorm2d(width)
        inputs = width
        for i, number in enumerate(BLOCKS):
            stage, outputs = [], EXPANSION * width * 2**i
            for j in range(number):
                stage.append(Bottleneck(inputs, width * 2**i, stride=2 if i > 0 and j == 0 else 1))
                inputs = outputs
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.output = nn.Linear(inputs, num_classes)
        self.rot = nn.Linear(inputs, 4)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> features (B, D)."""
        x = relu(self.bn1(self.conv1(x)))
        for i in range(len(BLOCKS)):
            x = getattr(self, f"layer{i + 1}")(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> logits (B, C)."""
        return self.output(self.features(x))

"""Wide ResNet for small images, with a rotation head (Zagoruyko & Komodakis 2016; as in the published CoSSL code).

Shape legend: B images (B, 3, S, S), D = 64 * width features, C classes.
Names of submodules are those of the published checkpoints, so that these load.
"""

from torch import Tensor, nn

from models.initialise import initialise

# The published code passes TensorFlow's momentum 0.001 in the place of epsilon: kept.
BN_EPS, BN_MOMENTUM, SLOPE = 1e-3, 0.1, 0.1


def _norm_act(channels: int) -> list[nn.Module]:
    # In place, as the sums of blocks are: the same bits, a third less memory, and less of it to read and write.
    return [nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM), nn.LeakyReLU(SLOPE, inplace=True)]


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Pre-activation residual block; in the network's first one, the shortcut starts behind the activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, first: bool = False) -> None:
        super().__init__()
        self.pre_act = nn.Sequential(*_norm_act(inputs)) if first else nn.Identity()
        self.identity = _conv(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else nn.Identity()
        before = [] if first else _norm_act(inputs)
        self.layer = nn.Sequential(
            *before, _conv(inputs, outputs, stride=stride), *_norm_act(outputs), _conv(outputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_act(x)
        return self.layer(x).add_(self.identity(x))


class WideResNet(nn.Module):
    """WRN-`depth`-`width`; depth = 6 n + 4. Published: 28-2, which has 1,468,126 parameters for 10 classes.

    `features(x)`: (B, 3, S, S) -> (B, D); `output(f)`: (B, D) -> logits (B, C); `rot(f)`: (B, D) -> logits of
    the four quarter turns (B, 4); calling the network: images -> logits.
    """

    def __init__(self, num_classes: int, depth: int = 28, width: int = 2) -> None:
        super().__init__()
        blocks, channels = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.init_conv = _conv(3, channels[0])
        self.unit1, self.unit2, self.unit3 = (
            nn.Sequential(
                *(
                    Block(
                        channels[i] if j == 0 else channels[i + 1],
                        channels[i + 1],
                        stride=2 if i > 0 and j == 0 else 1,
                        first=i == j == 0,
                    )
                    for j in range(blocks)
                )
            )
            for i in range(3)
        )
        self.unit4 = nn.Sequential(*_norm_act(channels[3]), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.output = nn.Linear(channels[3], num_classes)
        self.rot = nn.Linear(channels[3], 4)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> features (B, D)."""
        return self.unit4(self.unit3(self.unit2(self.unit1(self.init_conv(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> logits (B, C)."""
        return self.output(self.features(x))

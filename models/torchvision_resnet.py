"""torchvision's ResNets for images of about 224 pixels, from scratch (He et al. 2016; Food-101 in the published code).

Shape legend: B images (B, 3, S, S), D = 2048 features at depth 50 (512 below), C classes.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

# depth -> block, blocks per stage. 50 is the published one; 10 is for tests and machines without a GPU.
LAYOUTS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}


class TorchvisionResNet(ResNet):
    """torchvision's network, its weights' names and initialisation, with the interface of the networks here.

    `features(x)`: (B, 3, S, S) -> (B, D); `output(f)`: (B, D) -> logits (B, C), which torchvision calls `fc`; calling
    the network: images -> logits. depth: one of LAYOUTS.
    """

    def __init__(self, num_classes: int, depth: int = 50) -> None:
        super().__init__(*LAYOUTS[depth], num_classes=num_classes)

    @property
    def output(self) -> nn.Linear:
        return self.fc

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> features (B, D)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float -> logits (B, C)."""
        return self.fc(self.features(x))


def depth_of(weights: dict[str, Tensor]) -> int:
    """The depth whose layout has the same blocks as these weights. Raises ValueError if there is none."""
    stages = [len({name.split(".")[1] for name in weights if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    block = Bottleneck if "layer1.0.conv3.weight" in weights else BasicBlock
    return [*LAYOUTS][[*LAYOUTS.values()].index((block, stages))]

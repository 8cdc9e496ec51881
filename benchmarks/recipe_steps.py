"""A recipe's training step, built by the recipe itself on made-up images: what the benchmarks of whole steps measure.

Shape legend: N images uint8 (N, 3, S, S), C classes.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from dataset.images import Dataset, Images
from training.checkpoint import NAME

FOR_CUDA = {"--tf32", "--cudnn_benchmark", "--graph"}
RECIPES = tuple(f"train_cifar_{name}{stage}" for name in ("fix", "mix", "remix") for stage in ("", "_cossl"))


class Built(NamedTuple):
    """step: batch -> logs; batches: see `dataset.batches.Batches`; scores: () -> figures of the test set; objects:
    networks and optimisers, by checkpoint key; prepare: what happens before step 0, or None; data: the streams, see
    `dataset.streams.Data`.
    """

    step: Callable
    batches: Any
    scores: Callable
    objects: dict[str, Any]
    prepare: Callable | None
    data: Any

    def train(self, t: int) -> dict[str, Any]:
        """Step t."""
        return self.step(self.batches.at(t))


def made_up(n_train: int = 50_000, n_test: int = 10_000, classes: int = 10, size: int = 32) -> Dataset:
    """Random pixels and balanced labels, with the numbers of images, and the mean and std, of CIFAR-10."""
    rng = np.random.default_rng(0)

    def images(n: int) -> Images:
        return Images(rng.integers(0, 256, (n, 3, size, size), np.uint8), rng.permutation(n) % classes)

    look = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    return Dataset(images(n_train), images(n_test), *look, tuple(map(str, range(classes))))


def built(recipe: str, images: Dataset, *flags: object, device: torch.device | None = None) -> Built:
    """The recipe `recipe` up to where it would begin to train. flags: its command line, but for `--out`.

    Co-learning gets a pre-training checkpoint with initial weights. device: instead of the one that `--gpu` names.
    """
    module, found = importlib.import_module(recipe), {}
    pick = module.pick_device if device is None else lambda gpu: device

    def fit(step, batches, scores, objects, args, facts, start, prepare=None, *rest, **others) -> None:
        found.update(step=step, batches=batches, scores=scores, objects=objects, prepare=prepare)

    def open_data(*settings, **others):
        found["data"] = original(*settings, **others)
        return found["data"]

    original = module.open_data
    with tempfile.TemporaryDirectory() as folder:
        command = [recipe, *map(str, flags), "--out", f"{folder}/run"]
        if recipe.endswith("_cossl"):
            plain = [flag for flag in flags if flag not in FOR_CUDA]
            before = built(recipe.removesuffix("_cossl"), images, *plain, device=torch.device("cpu"))
            state = {key: before.objects[key].state_dict() for key in ("state_dict", "ema_state_dict", "optimizer")}
            torch.save(state | {"epoch": 0}, f"{folder}/{NAME}")
            command += ["--resume", f"{folder}/{NAME}"]
        patches = {"fit": fit, "pick_device": pick, "open_data": open_data}
        with (
            patch.multiple(module, **patches),
            patch("dataset.streams.load", lambda *names: images),
            patch.object(sys, "argv", command),
            redirect_stdout(StringIO()),
        ):
            module.main()
    return Built(**found)

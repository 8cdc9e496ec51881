"""A recipe's training step, built by the recipe itself on made-up images: what the benchmarks of whole steps measure.

Shape legend: N images uint8 (N, 3, S, S), C classes.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from dataset.images import Dataset, Images
from methods.averaged import STUDENT
from methods.schedules import on_schedule
from methods.step import Step
from training.checkpoint import LATEST
from training.run import Run, saved_objects
from utils.metrics import evaluate

FOR_CUDA = {"--tf32", "--cudnn_benchmark", "--graph"}
RECIPES = tuple(f"train_cifar_{name}{stage}" for name in ("fix", "mix", "remix") for stage in ("", "_cossl"))


class RecipeStep(NamedTuple):
    """step: see `methods.step.Step`; predict: images -> logits, what is evaluated; data: see `dataset.data.Data`;
    batches: those of the steps; objects: networks and optimisers, by checkpoint key.
    """

    step: Step
    predict: Callable
    data: Any
    batches: Any
    objects: dict[str, Any]

    def scores(self) -> dict[str, Any]:
        """Figures of the test set."""
        return evaluate(self.predict, self.data.test(), self.data.counts)

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


def recipe_step(
    recipe: str, images: Dataset, *flags: object, more: Sequence[str] = (), device: torch.device | None = None
) -> RecipeStep:
    """The recipe `recipe` up to where it would begin to train. flags, more: its command line, but for `--out`.

    Co-learning gets a pre-training checkpoint with initial weights, of `flags` alone. device: instead of the one that
    `--gpu` names.
    """
    found: dict[str, Any] = {}

    def fit(self, step, predict, data, steps, student, teacher=None, before=None) -> None:
        step = on_schedule(step, self.args, student, teacher)
        objects = saved_objects(step, student, teacher)
        found.update(step=step, predict=predict, data=data, objects=objects)
        found["batches"] = data.batches(step.streams, *step.draws)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        command = [recipe, *map(str, flags), *more, "--out", f"{folder}/run"]
        if recipe.endswith("_cossl"):
            plain = [flag for flag in flags if flag not in FOR_CUDA]
            before = recipe_step(recipe.removesuffix("_cossl"), images, *plain, device=torch.device("cpu"))
            torch.save({key: before.objects[key].state_dict() for key in STUDENT} | {"epoch": 0}, f"{folder}/{LATEST}")
            command += ["--resume", f"{folder}/{LATEST}"]
        patches.enter_context(patch.object(Run, "fit", fit))
        patches.enter_context(patch("dataset.streams.load", lambda *names: images))
        if device is not None:
            patches.enter_context(patch("training.run.pick_device", lambda gpu: device))
        patches.enter_context(patch.object(sys, "argv", command))
        patches.enter_context(redirect_stdout(StringIO()))
        importlib.import_module(recipe).main()
    return RecipeStep(**found)

"""The benchmarks run, and what they call equal work is equal work."""

import importlib
import json
from collections import Counter

import pytest
import torch
from helpers.scripts import ROOT, run_script
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.limit import limit
from benchmarks.recipe_steps import RECIPES, made_up, recipe_step

META = torch.device("meta")


class Passes(TorchDispatchMode):
    """Counts the networks' passes by their number of images: forward, and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.backward, self.operations = Counter(), Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.operations += 1
        if name == "convolution" and args[0].shape[1] == 3:
            self.forward[len(args[0])] += 1
        if name == "convolution_backward" and args[1].shape[1] == 3:
            self.backward[len(args[1])] += 1
        return function(*args, **(kwargs or {}))


def small(recipe: str, n: int = 20_000, classes: int = 10):
    flags = ["--gpu", "cpu", "--num_max", 100, "--imb_ratio_l", 5, "--imb_ratio_u", 5, "--depth", 10]
    flags += ["--align"] if "remix" in recipe else []
    return recipe_step(recipe, made_up(n, 100, classes, 8), *flags, device=META)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_limit_has_the_passes_of_the_step(recipe):
    it = small(recipe)
    with Passes() as step:
        it.train(0)
    with Passes() as bare:
        limit(recipe, it, META)()
    assert (step.forward, step.backward) == (bare.forward, bare.backward)
    assert sum(step.backward.values()) > 0


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("recipe", ["train_cifar_fix", "train_cifar_remix_cossl"])
def test_steps_have_as_many_operations_for_any_number_of_images_and_classes(recipe):
    counted = []
    for n, classes in ((4000, 10), (60_000, 10), (60_000, 200)):
        it = small(recipe, n, classes)
        with Passes() as step:
            it.train(0)
        counted.append(step.operations)
    assert len(set(counted)) == 1


@pytest.mark.slow
def test_step_prints_its_table(tmp_path):
    flags = ["--gpu", "cpu", "--depth", 10, "--rounds", 1, "--recipes", "train_cifar_fix", "--out", tmp_path / "x.json"]
    result = run_script("benchmarks/step.py", *flags)
    assert result.returncode == 0, result.stderr
    assert "b/d" in result.stdout and "train_cifar_fix " in result.stdout
    seconds = json.loads((tmp_path / "x.json").read_text())["seconds"]["train_cifar_fix"]
    assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path):
    importlib.import_module(f"benchmarks.{path.stem}")

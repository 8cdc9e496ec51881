"""A step's operations, recorded once and run again without any Python, leave what steps by Python leave: as a CUDA
graph needs it, for that replays the kernels alone."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks.recipe_steps import made_up, recipe_step
from training.graphs import EAGER
from training.totals import Totals

ADAM = torch.optim.Adam
FLAGS = "--gpu cpu --num_max 40 --imb_ratio_l 10 --imb_ratio_u 10 --ratio 1 --depth 10 --width 1 --batch-size 8"
FLAGS += " --manualSeed 1 --val-iteration 3 --epochs 10"
STEPS = EAGER + 4


class Recorded(TorchDispatchMode):
    """What runs within it; `replay` runs that again, from and to the same places."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Aliases, for the shape of a tensor itself may be changed by what comes after.
        given = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if not func.is_view and torch.Tag.inplace_view not in func.tags:
            self.calls.append((func, *given, tree_map_only(torch.Tensor, torch.Tensor.detach, out)))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            for place, value in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, torch.Tensor):
                    place.copy_(value)


def after_steps(build: Callable, replayed: bool) -> tuple[list, list]:
    """Tensors of all that is saved, and the sums of the logs after each step. The second epoch begins at step 5."""
    with patch("torch.optim.Adam", lambda *args, **options: ADAM(*args, **options | {"fused": True})):
        it, totals, sums = build(), Totals(), []
    batch: Any = None
    for t in range(STEPS):
        new = it.batches.at(t)
        batch = batch or tree_map_only(torch.Tensor, torch.clone, new)
        for place, value in zip(tree_leaves(batch), tree_leaves(new), strict=True):
            if isinstance(place, torch.Tensor):
                place.copy_(value)
        if t <= EAGER or not replayed:
            with Recorded() as recorded:
                totals.add(it.step(batch))
        else:
            recorded.replay()
        totals.step += 1
        if t == EAGER + 1:
            totals.restart()
        sums += [value.clone() for value in (*totals.totals().values(), *totals.finite)]
    saved = [thing.state_dict() for thing in it.objects.values()]
    return [leaf for leaf in tree_leaves(saved) if isinstance(leaf, torch.Tensor)], sums


def assert_replayed_alike(build: Callable) -> None:
    (expected, sums), (found, sums_found) = (after_steps(build, replayed) for replayed in (False, True))
    assert len(expected) > 20
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(sums, sums_found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "train_cifar_supervised",
        *(f"train_cifar_fix{flags}" for flags in ("", " --schedule short", "_crest --num_generation 1")),
        *(f"train_cifar_fix_prior{flags}" for flags in (" --preset la", "", " --preset adello", " --published_prior")),
        *(f"train_cifar_fix_{name}" for name in ("abc", "abc --keep published", "acr", "cdmad")),
        *(f"train_cifar_fix_cossl{flags}" for flags in ("", " --schedule short", " --classifier crt")),
        *(f"train_cifar_fix_cossl --classifier {name}" for name in ("abc", "caa")),
        *(f"train_cifar_fix_prior_cossl{flags}" for flags in (" --kappa 0.5 --lam_h 1", " --kappa fit")),
        *(f"train_cifar_{name}" for name in ("mix", "mix_cossl", "remix --align", "remix_cossl --align")),
        "train_cifar_remix_crest --num_generation 1",
    ],
)
def test_replayed_steps_leave_the_bits_of_steps_by_python(command):
    recipe, *flags = command.split()
    assert_replayed_alike(lambda: recipe_step(recipe, made_up(3000, 100), *FLAGS.split(), more=flags))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["", "_cossl"])
def test_so_do_those_of_small_imagenet(stage, of_data_set):
    assert_replayed_alike(lambda: of_data_set("small_imagenet127", stage))

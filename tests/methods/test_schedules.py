"""Schedules: pure functions of the step; what a step does with them against slow loops; nothing frozen in a graph."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.golden import normal
from helpers.scripts import TINY, assert_runs, handed_to_fit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dataset.batches import Batch, draw_numbers
from methods.averaged import Averaged
from methods.muon import MuonForKernels
from methods.schedules import OTHERS, growing_decay, on_schedule
from methods.step import Step

STEPS = 40


def test_a_growing_average_looks_back_over_a_twentieth():
    """Weight of the start, and the mean age of what is averaged, against the sums written out."""
    t, weights = 999, np.array([1.0])  # of the state after each step, the start first
    for i in range(t + 1):
        decay = growing_decay(i, 1.0)
        weights = np.append(weights * decay, 1 - decay)
    assert weights.sum() == pytest.approx(1) and weights[0] < 1e-20
    assert (weights * np.arange(len(weights))[::-1]).sum() == pytest.approx(t / 20, rel=0.02)
    assert growing_decay(10**6, 0.999) == 0.999 and growing_decay(0, 0.999) == 0.05


def flags(schedule: str) -> SimpleNamespace:
    return SimpleNamespace(schedule=schedule)


def toy(decay: float = 0.98, **options) -> Averaged:
    torch.manual_seed(0)
    parts = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(36, 2)
    live = torch.nn.Sequential(*parts).double()
    return Averaged(live, torch.optim.Adam(live.parameters(), 0.05, **options), decay, 0.01)


def toy_step(*trained: Averaged) -> Step:
    """A step on images (6, 3, 5, 5), which the batch has as `labelled`."""

    def train(batch):
        losses = [one.live(batch.labelled).square().mean() for one in trained]
        for one, loss in zip(trained, losses, strict=True):
            one.descend(loss)
        return {"loss": sum(losses).detach()}

    return Step("toy", train, (), (), {})


def batch_at(step: Step, t: int) -> Batch:
    numbers = draw_numbers(step.draws, 0, "step", t, 6)
    return Batch(
        {name: torch.from_numpy(array).double() for name, array in numbers.items()}, normal(t, (6, 3, 5, 5)).double()
    )


def test_a_scheduled_step_is_one_with_another_decay():
    """Against a loop that sets each network's decay by hand before each step; what is evaluated are the averages."""
    scheduled, slow = [toy(), toy(decay=0.5)], [toy(), toy(decay=0.5)]
    step = on_schedule(toy_step(*scheduled), flags("short"), *scheduled)
    slow[0].optimizer = MuonForKernels(slow[0].optimizer, OTHERS)
    for t in range(STEPS):
        batch = batch_at(step, t)
        for one, decay in zip(slow, (0.98, 0.5), strict=True):
            one.decay = float(np.float32(min(decay, (1 + t) / (20 + t))))
        step(batch), toy_step(*slow)(batch)
    for a, b in zip(scheduled, slow, strict=True):
        torch.testing.assert_close(a.live.state_dict(), b.live.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(a.ema.state_dict(), b.ema.state_dict(), rtol=1e-12, atol=1e-12)
    assert [one.decay for one in scheduled] == [0.98, 0.5]


def test_published_leaves_the_step_as_it_is():
    averaged = toy()
    step = toy_step(averaged)
    assert on_schedule(step, flags("published"), averaged) is step
    step(batch_at(step, 0))
    assert averaged.kept is None and type(averaged.optimizer) is torch.optim.Adam


class Scalars(TorchDispatchMode):
    """All operations, with the Python numbers that they take: what a CUDA graph would repeat in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        self.seen.append((str(function), [leaf for leaf in leaves if isinstance(leaf, (int, float, bool))]))
        return function(*args, **(kwargs or {}))


def test_a_captured_step_would_freeze_no_number():
    """With fused optimisers, as on a GPU. A rate that the host sets would be: the proof proves something."""
    student, teacher = toy(fused=True), toy(fused=True)
    step, found = on_schedule(toy_step(student, teacher), flags("short"), student, teacher), []
    for t in range(6):
        batch = batch_at(step, t)
        with Scalars() as scalars:
            step(batch)
        found.append(scalars.seen)
    assert found[2] == found[3] == found[5]
    student.optimizer.param_groups[0]["lr"] = 0.03
    with Scalars() as scalars:
        step(batch)
    assert scalars.seen != found[5]


def test_the_head_warms_up_faster_on_the_short_schedule(pretrained, tmp_path):
    def rate(*more):
        flags = [*TINY, "--resume", pretrained / "checkpoint.pth.tar", *more, "--out", tmp_path]
        return handed_to_fit("train_cifar_fix_cossl.py", *flags).run.args.lr_tfe

    assert [rate(), rate("--schedule", "short")] == [0.002, 0.02]
    assert rate("--schedule", "short", "--lr_tfe", 0.005) == 0.005


def test_another_schedule_than_that_of_pre_training_is_told(pretrained, tmp_path):
    flags = [*TINY, "--epochs", 1, "--val-iteration", 1, "--warm_tfe", 1, "--resume", pretrained / "checkpoint.pth.tar"]
    result = assert_runs("train_cifar_fix_cossl.py", *flags, "--schedule", "short", "--out", tmp_path)
    assert "--schedule (published there, short now)" in result.stderr


@pytest.mark.parametrize("stage", ["", "_cossl"])
def test_numbers_of_a_step_do_not_depend_on_the_steps_before(stage, pretrained, tmp_path):
    """Of a recipe, and so of one that resumes; both networks follow their own decay."""
    start = ["--resume", pretrained / "checkpoint.pth.tar"] if stage else []
    found = handed_to_fit(f"train_cifar_fix{stage}.py", *TINY, *start, "--schedule", "short", "--out", tmp_path)
    trained = [found.student, *([found.teacher] if stage else [])]
    step = on_schedule(found.step, flags(found.run.args.schedule), *trained)
    draw = partial(draw_numbers, step.draws, 1, "step", rows=4)
    ahead = [draw(t=t) for t in range(STEPS)]
    for t in (7, 3, 39, 0):
        numbers = draw(t=t)
        assert numbers.keys() == ahead[t].keys() >= {"kept"}
        assert all(np.array_equal(numbers[name], ahead[t][name]) for name in numbers)
        assert len(numbers["kept"]) == len(trained)


def test_co_learning_goes_on_with_a_long_average():
    """The student's has its pre-training behind it; the head's is new."""
    student, teacher = (Averaged(torch.nn.Linear(2, 2), None, 0.999) for _ in range(2))
    for one in (student, teacher):
        one.optimizer = torch.optim.Adam(one.live.parameters())
    step = on_schedule(toy_step(student, teacher), flags("short"), student, teacher, begun=200)
    kept = step.draws[-1](3, 8)["kept"]
    assert kept.tolist() == pytest.approx([(1 + 203) / (20 + 203), (1 + 3) / (20 + 3)])

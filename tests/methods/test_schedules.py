"""Schedules: pure functions of the step; what a step does with them against slow loops; nothing frozen in a graph."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.golden import normal
from helpers.scripts import TINY, handed_to_fit
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dataset.batches import Batch, draw_numbers
from methods.averaged import Averaged
from methods.schedules import SHORT, cosine, growing_decay, on_schedule
from methods.step import Step

STEPS = 40


@given(st.integers(1, 5000), st.floats(0, 0.5), st.floats(0.1, 8))
def test_a_rate_rises_to_its_peak_and_falls_to_zero(steps, warm_up, peak):
    rates = [cosine(t, steps, peak, warm_up) for t in range(steps)]
    top = int(np.argmax(rates))
    assert all(0 < rate <= peak for rate in rates)
    assert rates == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    assert top <= warm_up * steps + 1
    assert rates[-1] <= peak * (1 - np.cos(np.pi / (steps - warm_up * steps))) / 2 + 1e-12 or steps == 1


def test_rates_of_a_cosine():
    assert [cosine(t, 4) for t in range(4)] == pytest.approx([1, 0.8535534, 0.5, 0.1464466])
    assert [cosine(t, 10, 2, 0.4) for t in range(6)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2, 1.8660254])


def test_a_growing_average_looks_back_over_a_tenth():
    """Weight of the start, and the mean age of what is averaged, against the sums written out."""
    t, weights = 999, np.array([1.0])  # of the state after each step, the start first
    for i in range(t + 1):
        decay = growing_decay(i, 1.0)
        weights = np.append(weights * decay, 1 - decay)
    assert weights.sum() == pytest.approx(1) and weights[0] < 1e-20
    assert (weights * np.arange(len(weights))[::-1]).sum() == pytest.approx(t / 10, rel=0.02)
    assert growing_decay(10**6, 0.999) == 0.999 and growing_decay(0, 0.999) == 0.1


def flags(schedule: str) -> SimpleNamespace:
    return SimpleNamespace(schedule=schedule, epochs=1)


def toy(optimizer=torch.optim.Adam, shrink: float = 0.0, **options) -> Averaged:
    torch.manual_seed(0)
    parts = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(36, 2)
    live = torch.nn.Sequential(*parts).double()
    return Averaged(live, optimizer(live.parameters(), 0.05, **options), 0.98, shrink)


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


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"weight_decay": 0.3}),
        (torch.optim.AdamW, {"weight_decay": 0.3}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3}),
    ],
    ids=["Adam", "Adam, weight decay", "AdamW", "SGD"],
)
def test_a_scheduled_step_is_one_with_other_hyper_parameters(optimizer, options, monkeypatch):
    """Against a loop that sets learning rate, decay and shrink by hand before each step."""
    monkeypatch.setattr("methods.schedules.SHORT", SHORT._replace(muon=False))
    scheduled, slow = (toy(optimizer, 0.01, **options) for _ in range(2))
    step = on_schedule(toy_step(scheduled), flags("short"), STEPS, scheduled)
    for t in range(STEPS):
        batch = batch_at(step, t)
        rate = float(np.float32(SHORT.rate(t, STEPS)))
        slow.optimizer.param_groups[0]["lr"], slow.shrink = 0.05 * rate, 0.01 * rate
        slow.decay = float(np.float32(SHORT.kept(t, 0.98)))
        assert step(batch)["lr_factor"] == rate
        toy_step(slow)(batch)
    for a, b in ((scheduled.live, slow.live), (scheduled.ema, slow.ema)):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-6, atol=1e-8)
    assert scheduled.optimizer.param_groups[0]["lr"] == 0.05  # what a checkpoint has


def test_published_leaves_the_step_as_it_is():
    averaged = toy()
    step = toy_step(averaged)
    assert on_schedule(step, flags("published"), STEPS, averaged) is step
    step(batch_at(step, 0))
    assert (averaged.rate, averaged.kept) == (None, None)


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
    """With fused optimisers, as on a GPU. The same of a rate that the host sets: the proof proves something."""
    student, teacher = toy(fused=True), toy(fused=True)
    step, found = on_schedule(toy_step(student, teacher), flags("short"), STEPS, student, teacher), []
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


@pytest.mark.parametrize("stage", ["", "_cossl"])
def test_numbers_of_a_step_do_not_depend_on_the_steps_before(stage, pretrained, tmp_path):
    """Of a recipe, and so of one that resumes; both networks follow their own decay."""
    start = ["--resume", pretrained / "checkpoint.pth.tar"] if stage else []
    found = handed_to_fit(f"train_cifar_fix{stage}.py", *TINY, *start, "--schedule", "short", "--out", tmp_path)
    trained = [found.student, *([found.teacher] if stage else [])]
    step = on_schedule(found.step, flags(found.run.args.schedule), STEPS, *trained)
    draw = partial(draw_numbers, step.draws, 1, "step", rows=4)
    ahead = [draw(t=t) for t in range(STEPS)]
    for t in (7, 3, 39, 0):
        numbers = draw(t=t)
        assert numbers.keys() == ahead[t].keys() >= {"rate", "kept"}
        assert all(np.array_equal(numbers[name], ahead[t][name]) for name in numbers)
        assert numbers["rate"] == np.float32(SHORT.rate(t, STEPS)) and len(numbers["kept"]) == len(trained)

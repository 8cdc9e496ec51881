"""The forecast: of a run whose clock is made up, of a list of runs, and the hint."""

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from helpers.scripts import TINY, handed_to_fit, run_here

from training import forecast
from training.forecast import AT, Forecast, evaluation_seconds, times_as_long

SMALL = {"recipe": "train_cifar_fix", "arch": None, "depth": 10, "width": 1, "gpu": "cpu"}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now.value)
    return now


def said(clock, steps: int, epochs: int, evaluation: float | None, first: int = 0, **arguments) -> list[str]:
    """What is said at which step of a run whose steps take 2 s, the first three 30 s; first: where it goes on."""
    it, lines = Forecast(SMALL | {"epochs": epochs} | arguments, steps, lambda: evaluation), []
    for t in range(first + 1, first + 40):
        clock.value += 30 if t <= first + 3 else 2
        found = it.step(t, lambda: None)
        assert not found or t == first + AT
        lines += found
    return lines


def test_the_end_of_epoch_and_run(clock):
    (line,) = said(clock, 50, 4, 7.0)
    epoch, run = timedelta(seconds=30 * 2 + 7), timedelta(seconds=180 * 2 + 4 * 7)
    assert line.startswith(f"0.5 steps a second: {epoch} to the end of this epoch, {run} to that of the run (")
    assert line.endswith(", evaluations included")
    (line,) = said(clock, 50, 4, None, first=100)  # in the third epoch
    assert f"{timedelta(seconds=60)} to the end of this epoch, {timedelta(seconds=160)} to" in line
    assert line.endswith(", and the evaluations")


def test_the_end_of_an_epoch_is_no_step(clock):
    """A run whose first epoch, of 12 steps, ends within the steps that are timed."""
    it, lines = Forecast(SMALL | {"epochs": 3}, 12, lambda: 50.0), []
    for t in range(1, 25):
        clock.value += 2 + (50 if t == 13 else 0)
        lines += it.step(t, lambda: None)
    (line,) = lines
    rest = timedelta(seconds=4 * 2 + 50 + 12 * 2 + 50)
    assert line.startswith("0.5 steps a second") and f"{rest} to that of the run" in line


def test_self_training_ends_with_its_last_generation(clock):
    (line,) = said(clock, 50, 4, 7.0, num_generation=3, generation=1)
    assert f"{timedelta(seconds=180 * 2 + 4 * 7 + 200 * 2 + 4 * 7)} to that of the run" in line


def test_co_learning_has_no_smaller_network():
    long = SMALL | {"depth": 28, "width": 2}
    assert times_as_long(long) > 1 == times_as_long(long | {"recipe": "train_cifar_fix_cossl"})


def test_the_end_of_a_list(clock, monkeypatch):
    monkeypatch.setenv("LIST_AFTER", "3")
    _, line = said(clock, 50, 4, 7.0)
    assert line.startswith(f"the list: {timedelta(seconds=388 + 3 * 107)} to its end (")


def test_a_hint_for_long_runs_alone(clock, monkeypatch):
    monkeypatch.setattr(forecast, "times_as_long", lambda arguments: 8.0)
    assert len(said(clock, 50, 4, 7.0)) == 1
    _, line = said(clock, 50, 400, 7.0)
    assert "--depth 10 --width 1 would take about 1/8 of the time" in line
    assert str(timedelta(seconds=round((20000 * 2 + 400 * 7) / 8))) in line


def test_how_much_longer_a_network_takes():
    state = torch.get_rng_state()
    assert times_as_long(SMALL | {"depth": 16, "width": 4}) > 3
    assert torch.equal(torch.get_rng_state(), state)
    for other in ({}, {"recipe": "train_food_fix", "depth": 50}, {"arch": "resnet18", "depth": 28}):
        assert times_as_long(SMALL | other) == 1


def test_an_evaluation_is_timed_on_one_batch(tmp_path):
    """Of 1,200 images in batches of 500: two of them are seen, and no network changes."""
    data = handed_to_fit("train_cifar_fix.py", *TINY, "--out", tmp_path).data
    seen = []

    def predict(images):
        seen.append(len(images))
        time.sleep(0.2)
        return images

    tested = SimpleNamespace(members=range(1200), images=SimpleNamespace(sweep_size=500))
    made = data._replace(tested=tested)
    parts = SimpleNamespace(tested_batches=made.tested_batches, test=data.test)
    assert evaluation_seconds(predict, parts) == pytest.approx(0.2 * 1200 / 500, rel=0.5)
    assert len(seen) == 2
    assert made._replace(held_out=tested).tested_batches() == 1200 / 500
    other = SimpleNamespace(members=range(100))
    assert made._replace(held_out=other).tested_batches() == 1300 / 500


def test_the_forecast_of_a_run_comes_true(tmp_path):
    """Roughly, for the machine may be busy: what is said to be left against what then passes."""
    flags = [*TINY, "--epochs", 6, "--val-iteration", 20, "--out", tmp_path]
    began = time.monotonic()
    result = run_here("train_cifar_fix.py", *flags)
    whole = time.monotonic() - began
    (line,) = [line for line in result.stdout.splitlines() if "steps a second" in line]
    hours, minutes, seconds = line.split("epoch, ")[1].split()[0].split(":")
    assert whole / 6 < 3600 * int(hours) + 60 * int(minutes) + int(seconds) + 1 < 4 * whole

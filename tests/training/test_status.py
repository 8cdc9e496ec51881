"""At any moment `summary.json` says how it stands with a run: running, stopped, failed and why, finished."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.places import spoiled_loss
from helpers.scripts import FIX, TINY, assert_refused, assert_runs, run_here

import training.run
from training.faults import fault
from training.schema import Summary

FLAGS = [*TINY, "--epoch", 2, "--val-iteration", 3]


def read(out: Path) -> dict:
    summary = json.loads((out / "summary.json").read_text())
    assert fault(summary, Summary, "content") is None
    return summary


@pytest.fixture
def around_steps(monkeypatch) -> Callable:
    """around(t, step) from now on stands in the place of each step."""

    def use(around: Callable) -> None:
        train = training.run.train
        patched = lambda step, *rest: train(lambda t: around(t, step), *rest)
        monkeypatch.setattr(training.run, "train", patched)

    return use


def test_running_then_finished(around_steps, tmp_path):
    seen = []

    def around(t, step):
        while t == 3 and read(tmp_path)["epochs"] < 1:  # which is written in the background
            time.sleep(0.01)
        seen.append(read(tmp_path))
        return step(t)

    around_steps(around)
    *_, last, mean, out = assert_runs(FIX, *FLAGS, "--out", tmp_path).stdout.splitlines()
    assert [(s["status"], s["epochs"]) for s in seen] == [("running", 0)] * 3 + [("running", 1)] * 3
    assert [s["best"] is None for s in seen] == [s["last_20_mean"] is None for s in seen] == [True] * 3 + [False] * 3
    end = read(tmp_path)
    assert (end["status"], end["epochs"], end["epochs_averaged"], end["steps_per_epoch"]) == ("finished", 2, 1, 3)
    figures = end["last_epoch"]
    words = f"{figures['balanced']:.2f} %, geometric mean {figures['gm']:.2f} %"
    assert last.startswith(f"last epoch: balanced accuracy {words}")
    best = f"(best {end['best']['balanced']:.2f} % in epoch {end['best']['epoch']}, chosen on the test set)"
    assert mean.startswith(f"mean balanced accuracy of the last 1 epoch: {figures['balanced']:.2f} % {best}")
    assert out == f"results: {tmp_path}"
    assert seen[-1]["best"]["epoch"] == 1
    assert not any("reason" in summary for summary in (*seen, end))
    assert end["wall_seconds"] >= seen[-1]["wall_seconds"] >= seen[0]["wall_seconds"] >= 0
    told = ("status", "epochs", "epochs_averaged", "best", "last_20_mean", "last_epoch")
    told += ("wall_seconds", "step_seconds", "evaluation_seconds")
    assert [{k: v for k, v in s.items() if k not in told} for s in seen] == [
        {k: v for k, v in end.items() if k not in told}
    ] * 6


def test_stopped_by_the_time_limit_then_finished(tmp_path):
    result = run_here(FIX, *FLAGS, "--time_limit", 1e-6, "--out", tmp_path)
    assert result.returncode == 124
    stopped = read(tmp_path)
    assert (stopped["status"], stopped["epochs"], stopped["best"]) == ("stopped", 0, None)
    assert stopped["reason"] == "--time_limit over, saved after step 1 of epoch 1"
    assert "saved after step 1 of epoch 1; the same command goes on" in result.stderr
    assert_runs(FIX, *FLAGS, "--out", tmp_path)
    finished = read(tmp_path)
    assert finished["status"] == "finished"
    assert "reason" not in finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(number, around_steps, tmp_path):
    def around(t, step):
        if t == 4:
            os.kill(os.getpid(), number)
        return step(t)

    around_steps(around)
    result = run_here(FIX, *FLAGS, "--out", tmp_path)
    assert result.returncode == 128 + number
    stopped = read(tmp_path)
    assert (stopped["status"], stopped["epochs"]) == ("stopped", 1)
    assert stopped["reason"].startswith("interrupted")
    assert stopped["reason"].endswith("saved after step 2 of epoch 2")
    assert stopped["best"]["epoch"] == 1


def test_failed_by_a_loss_that_is_no_number(tmp_path):
    with spoiled_loss(4):
        result = run_here(FIX, *FLAGS, "--out", tmp_path)
    assert_refused(result, "--lr 0.002: not a number in step 2 of epoch 2 (loss nan", "start anew")
    failed = read(tmp_path)
    assert (failed["status"], failed["epochs"], failed["best"]["epoch"]) == ("failed", 1, 1)
    assert result.stderr == f"error: {failed['reason']}\n"


def test_failed_by_a_file_then_finished(around_steps, monkeypatch, tmp_path):
    def around(t, step):
        if t == 1:
            raise OSError(28, "No space left on device")
        return step(t)

    around_steps(around)
    assert_refused(run_here(FIX, *FLAGS, "--out", tmp_path), "No space left on device")
    failed = read(tmp_path)
    assert (failed["status"], failed["reason"]) == ("failed", "[Errno 28] No space left on device")
    monkeypatch.undo()
    assert_runs(FIX, *FLAGS, "--out", tmp_path)
    assert (read(tmp_path)["status"], "reason" in read(tmp_path)) == ("finished", False)


def test_what_is_refused_before_it_trains_changes_nothing(pretrained, tmp_path):
    before = (pretrained / "summary.json").read_text()
    assert_refused(run_here(FIX, *FLAGS, "--lr", 0.5, "--out", pretrained), "holds another run")
    assert (pretrained / "summary.json").read_text() == before
    assert_refused(run_here(FIX, *FLAGS, "--resume", tmp_path / "none", "--out", tmp_path / "out"), "no such file")
    assert not (tmp_path / "out").exists()

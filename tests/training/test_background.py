"""What an epoch leaves is written on a thread beside the training: whole, of that moment, and never silently not."""

import threading
import time
from argparse import Namespace

import pytest
import torch
from helpers.places import spoiled_loss
from helpers.scripts import FIX, TINY, assert_refused, assert_runs, assert_same, load_checkpoint, run_here

import training.loop
import training.recorder
import training.run
from training.background import Background
from training.loop import record
from training.totals import Totals
from utils.errors import UserError

FLAGS = [*TINY, "--epoch", 2, "--val-iteration", 4, "--copy_every", 1]


def cannot_write(state, paths):
    raise UserError(f"--out {paths[0].parent}: cannot write {paths[0].name}")


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The steps that runs of this process have done."""
    done, train = [], training.run.train

    def counted(step, *rest):
        def one(t):
            step(t)
            done.append(t)

        train(one, *rest)

    monkeypatch.setattr(training.run, "train", counted)
    return done


def test_a_checkpoint_is_of_its_epoch_however_late_it_is_written(steps, monkeypatch, tmp_path):
    assert run_here(FIX, *FLAGS, "--out", tmp_path / "plain").returncode == 0
    save = training.recorder.save_checkpoint
    steps.clear()

    def late(state, paths):
        while state["epoch"] == 1 and len(steps) < 7:
            time.sleep(0.01)
        save(state, paths)

    monkeypatch.setattr(training.recorder, "save_checkpoint", late)
    assert run_here(FIX, *FLAGS, "--out", tmp_path / "late").returncode == 0
    for n in (1, 2):
        plain, written = (load_checkpoint(tmp_path / run / f"checkpoint_{n}.pth.tar") for run in ("plain", "late"))
        for state in (plain, written):
            del state["seconds"], state["arguments"]["out"]
        assert_same(plain, written)


def test_a_failure_ends_the_run_within_the_next_steps(steps, monkeypatch, tmp_path):
    failed = threading.Event()

    def fail(state, paths):
        failed.set()
        cannot_write(state, paths)

    check = Background.check

    def once_failed(self):
        if self.job is not None:
            assert failed.wait(60)
            while not self.job[0].done():
                time.sleep(0.01)
        check(self)

    monkeypatch.setattr(training.recorder, "save_checkpoint", fail)
    monkeypatch.setattr(Background, "check", once_failed)
    assert_refused(run_here(FIX, *FLAGS, "--out", tmp_path), "cannot write checkpoint_1.pth.tar")
    assert steps == [0, 1, 2, 3, 4]


def test_an_epoch_is_not_printed_before_it_is_saved(monkeypatch, tmp_path):
    epoch, save, saved = training.loop.Progress.epoch, training.recorder.save_checkpoint, []

    def late(state, paths):
        time.sleep(0.2)
        save(state, paths)
        saved.append(state["epoch"])

    def printed(progress, n, *rest):
        assert saved[-1] == n
        epoch(progress, n, *rest)

    monkeypatch.setattr(training.recorder, "save_checkpoint", late)
    monkeypatch.setattr(training.loop.Progress, "epoch", printed)
    lines = assert_runs(FIX, *FLAGS, "--out", tmp_path).stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1/2", "2/2"]


def test_a_failure_after_the_last_epoch_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(training.recorder, "save_checkpoint", cannot_write)
    result = run_here(FIX, *TINY, "--epoch", 1, "--val-iteration", 2, "--out", tmp_path)
    assert_refused(result, "cannot write checkpoint_1.pth.tar")
    assert "results:" not in result.stdout


def test_a_failure_is_told_rather_than_an_error_after_it(steps, monkeypatch, tmp_path):
    """Which says what the checkpoint is of, and would be wrong; without a failure, the line of the epoch is printed."""
    save, fails = training.recorder.save_checkpoint, True

    def late(state, paths):
        while len(steps) < 5:  # until the bad step, whose error comes before the check of this
            time.sleep(0.01)
        time.sleep(0.3)
        (cannot_write if fails else save)(state, paths)

    monkeypatch.setattr(training.recorder, "save_checkpoint", late)
    with spoiled_loss(4):
        result = run_here(FIX, *FLAGS, "--out", tmp_path / "a")
    assert_refused(result, "cannot write")
    assert "epoch 1/2" not in result.stdout
    steps.clear()
    fails = False
    with spoiled_loss(4):
        result = run_here(FIX, *FLAGS, "--out", tmp_path / "b")
    assert_refused(result, "not a number in step 1 of epoch 2", "the checkpoint is of before, epoch 1")
    assert "epoch 1/2" in result.stdout
    assert load_checkpoint(tmp_path / "b" / "checkpoint.pth.tar")["epoch"] == 1


def test_ranks_go_on_together_once_an_epoch_is_saved(monkeypatch):
    """Of several, one that ends takes the others with it."""
    saved, recorder = [], Namespace(background=Background())
    job = lambda: (time.sleep(0.2), saved.append(1))
    recorder.epoch = lambda row, machine, then: recorder.background.start(job, then)
    monkeypatch.setattr(training.loop, "world_size", lambda: 2)
    totals, tested = Totals(), {"test": {"confusion": torch.zeros(2, 2)}}
    totals.add({"loss": torch.zeros(())})
    totals.step += 1
    with recorder.background:
        record(1, recorder, Namespace(epoch=lambda *_: None), totals, tested, {})
        assert saved == [1]

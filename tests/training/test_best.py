"""The best checkpoint: chosen on the held-out part, never on the test set; the same after a kill."""

import shutil
from unittest.mock import patch

import pytest
import torch
from helpers.forked import run_forked
from helpers.own_images import image_folder, write_image
from helpers.places import saved_at_once
from helpers.scripts import (
    FIX,
    FIX_COSSL,
    TINY,
    assert_refused,
    assert_runs,
    assert_same,
    load_checkpoint,
    log_lines,
    run_here,
    summary,
)

from dataset.folder import load_folder
from dataset.pixels import Pixels
from reporting.trained import load_model
from training.checkpoint import BEST, LATEST
from training.history import chosen_epoch
from utils.metrics import evaluate

FLAGS = "--dataset folder --img_size 16 --gpu cpu --depth 10 --width 1 --batch-size 4 --ema-decay 0.5 --lr 0.1"
FLAGS = [*FLAGS.split(), "--manualSeed", 3, "--holdout", 0.25, "--val-iteration", 3, "--epoch", 6, "--time_limit", 10]


@pytest.fixture
def flags(request, tmp_path):
    """Of a run on images with or without a test set, of which more are held out than the other tests need."""
    folder = image_folder(tmp_path / "data")
    for i in range(20):
        write_image(folder / "labelled" / ("cat", "dog")[i % 2] / f"more_{i}.png", 50 + i)
    if not getattr(request, "param", True):
        shutil.rmtree(folder / "test")
    return [*FLAGS, "--data_root", folder]


def figures(flags, path, part):
    """Balanced accuracy of the model in a checkpoint on a part of the images, evaluated anew."""
    dataset, split = load_folder(flags[-1], 16, True, False, 0.25, 3)
    pixels = Pixels(getattr(dataset, part), dataset.mean, dataset.std, torch.device("cpu"))
    images = (pixels.pixels / 255 - torch.tensor(dataset.mean).view(3, 1, 1)) / torch.tensor(dataset.std).view(3, 1, 1)
    model = load_model(path, "", torch.device("cpu"))
    return evaluate(model.predict, [(images, torch.from_numpy(pixels.labels))], split.counts)


@pytest.mark.parametrize("flags", [False, True], indirect=True)
def test_the_best_epoch_is_kept(flags, tmp_path):
    """By a slow search in the log; the model in the file has these figures."""
    apart = (flags[-1] / "test").exists()
    out = tmp_path / "out"
    result = assert_runs(FIX, *flags, "--out", out)
    header, *rows = [line.split("\t") for line in log_lines(out)]
    column = "held_out_balanced" if apart else "balanced"
    assert ("held_out_balanced" in header) == apart
    held_out = [float(row[header.index(column)]) for row in rows]
    expected = max(range(6), key=lambda i: (held_out[i], -i))
    best, found = load_checkpoint(out / BEST), summary(out)
    assert best["epoch"] == expected + 1
    for part, name in (("held_out", column), ("test", "balanced")):
        logged = float(rows[expected][header.index(name)])
        assert figures(flags, out / BEST, part)["balanced"] == pytest.approx(logged, abs=1e-3)
    assert ("chosen" in found) == apart
    last_lines = result.stdout.splitlines()[-(4 if apart else 3) :]
    assert last_lines[-1] == f"results: {out}; the best checkpoint on the held-out part: {BEST}"
    if apart:
        assert found["chosen"]["epoch"] == expected + 1
        assert found["chosen"]["balanced"] == pytest.approx(float(rows[expected][header.index("balanced")]), abs=1e-3)
        place = f"epoch {expected + 1}, chosen on the held-out part: balanced accuracy "
        assert last_lines[2].startswith(f"{place}{found['chosen']['balanced']:.2f} % on the test set")
        assert "held-out" not in last_lines[0]


@pytest.mark.parametrize("flags", [False, True], indirect=True)
def test_epochs_of_all_kinds(flags, tmp_path):
    """With figures that are made up: each epoch that is better than all before replaces the file, and no other does."""
    apart = (flags[-1] / "test").exists()
    held_out, test, kept = [40.0, 70.0, 60.0, 70.0, 75.0, 75.0], [10.0, 90.0, 95.0, 20.0, 15.0, 99.0], []
    left = [value for pair in zip(test, held_out, strict=True) for value in pair] if apart else list(held_out)

    def made_up(*given):
        if len(left) % (1 + apart) == 0 and (tmp_path / BEST).exists():
            kept.append(load_checkpoint(tmp_path / BEST)["epoch"])
        return evaluate(*given) | {"balanced": left.pop(0)}

    with patch("training.loop.evaluate", made_up), saved_at_once():
        assert_runs(FIX, *flags, "--out", tmp_path)
    assert [*kept, load_checkpoint(tmp_path / BEST)["epoch"]] == [1, 2, 2, 2, 5, 5]
    assert not apart or summary(tmp_path)["chosen"]["balanced"] == 15
    assert summary(tmp_path)["best"]["epoch"] == (6 if apart else 5)


def test_of_equal_epochs_the_first_is_the_best():
    def history(values, part="held_out"):
        other = "test" if part == "held_out" else "other"
        return {part: {"balanced": torch.tensor(values)}, other: {"balanced": torch.arange(len(values)).double()}}

    assert chosen_epoch(history([50.0, 70.0, 60.0, 70.0])) == 1
    assert chosen_epoch(history([torch.nan, 40.0, torch.nan])) == 1
    assert chosen_epoch(history([50.0, 40.0], part="test")) == 0


def test_without_a_held_out_part_there_is_none(tmp_path):
    assert_runs(FIX, *TINY, "--epoch", 1, "--val-iteration", 1, "--out", tmp_path)
    assert not (tmp_path / BEST).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("step", "flags"), [(1, False), (16, True)], indirect=["flags"])
def test_a_killed_run_keeps_the_same_best(step, flags, two_threads, tmp_path):
    """Killed before a step, and gone on with: bit for bit as the run that wasn't."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert_runs(FIX, *flags, "--out", whole)
    killed = run_forked("tests/helpers/dies_at.py", 0, step, FIX, *flags, "--out", out)
    assert killed.returncode == -9
    assert_runs(FIX, *flags, "--out", out)
    for name in (BEST, LATEST):
        assert_same(load_checkpoint(whole / name), load_checkpoint(out / name))
    assert log_lines(whole) == log_lines(out)
    assert summary(whole) == summary(out)


def test_going_back_leaves_no_best_of_later_epochs(flags, tmp_path):
    """Neither when a run goes back to a copy, nor where a kill came between the best and the last checkpoint."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    copies = [*flags, "--copy_every", 1]
    assert_runs(FIX, *copies, "--out", whole)
    expected = load_checkpoint(whole / BEST)["epoch"]
    for back in (1, 3, 5):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        shutil.copy(out / "checkpoint_6.pth.tar", out / BEST)  # of an epoch that doesn't come to pass
        resume = ["--resume", out / f"checkpoint_{back}.pth.tar"]
        assert_runs(FIX, *copies, *resume, "--out", out)
        assert load_checkpoint(out / BEST)["epoch"] == expected  # of which there is a copy
        assert_same(load_checkpoint(whole / BEST), load_checkpoint(out / BEST))


@pytest.mark.parametrize("flags", [False], indirect=True)
def test_a_run_made_longer_elsewhere_brings_its_best(flags, tmp_path):
    """Where that lies beside the checkpoint which it goes on from; else it says that it doesn't."""
    first, values = tmp_path / "first", [70.0, 40.0]

    def run(out, *more):
        def made_up(*given):
            return evaluate(*given) | {"balanced": values.pop(0) if values else 10.0}

        with patch("training.loop.evaluate", made_up):
            return assert_runs(FIX, *flags, *more, "--out", out)

    run(first, "--epoch", 2)
    best = load_checkpoint(first / BEST)
    assert best["epoch"] == 1
    for name in (BEST, LATEST):
        printed = run(tmp_path / name, "--epoch", 3, "--resume", first / name).stdout
        assert printed.splitlines()[-1].endswith(f"held-out part: {BEST}")
        assert_same(load_checkpoint(tmp_path / name / BEST), best)
    (first / BEST).unlink()
    (first / "checkpoint_1.pth.tar").unlink()
    result = run(tmp_path / "none", "--epoch", 3, "--resume", first / LATEST)
    assert "epoch 1 was the best on the held-out part so far" in result.stderr
    assert not (tmp_path / "none" / BEST).exists()


def test_overwrite_discards_it(flags, tmp_path):
    out = tmp_path / "out"
    assert_runs(FIX, *flags, "--out", out)
    (out / LATEST).unlink()
    assert_refused(run_here(FIX, *flags, "--out", out), "--out")
    shutil.copy(out / BEST, out / "checkpoint_99.pth.tar")
    assert_runs(FIX, *flags, "--overwrite", "--epoch", 1, "--out", out)
    assert load_checkpoint(out / BEST)["epoch"] == 1
    assert not (out / "checkpoint_99.pth.tar").exists()


def test_a_damaged_one_is_named(flags, tmp_path):
    out = tmp_path / "out"
    assert_runs(FIX, *flags, "--epoch", 1, "--out", out)
    (out / BEST).write_bytes(b"no checkpoint")
    result = run_here(FIX, *flags, "--epoch", 1, "--out", out)
    assert_refused(result, f"--out {out / BEST}: not a readable checkpoint", "remove it")
    (out / BEST).unlink()
    assert_runs(FIX, *flags, "--epoch", 1, "--out", out)


def test_co_learning_starts_from_the_best_and_keeps_its_own(flags, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert_runs(FIX, *flags, "--out", first)
    start = ["--resume", first / BEST, "--warm_tfe", 1, "--out", second]
    assert_runs(FIX_COSSL, *flags, *start)
    found = load_checkpoint(second / BEST)
    assert found["facts"]["start_epoch"] == load_checkpoint(first / BEST)["epoch"]
    assert found["epoch"] == chosen_epoch(load_checkpoint(second / LATEST)["history"]) + 1


def test_a_run_does_not_go_on_where_the_test_set_has_gone(flags, tmp_path):
    assert_runs(FIX, *flags, "--out", tmp_path / "out")
    shutil.rmtree(flags[-1] / "test")
    assert_refused(run_here(FIX, *flags, "--out", tmp_path / "out"), "--data_root: not the images", "evaluated on")

"""Which generations are still to be trained, and where."""

import time
from argparse import Namespace
from pathlib import Path

import pytest
from helpers.scripts import assert_refused, assert_runs, load_checkpoint, run_here

from training.checkpoint import LATEST
from training.folder import discard_run, generation_folder
from training.generations import generations
from utils.errors import UserError


def flags(out: Path, **others) -> Namespace:
    usual = {"out": out, "num_generation": 4, "resume": None, "overwrite": False, "time_limit": None, "lr": 0.1}
    return Namespace(**usual | others)


def begun(out: Path, *which: int) -> None:
    for g in which:
        generation_folder(out, g).mkdir(parents=True)
        (generation_folder(out, g) / LATEST).touch()


@pytest.mark.parametrize(("there", "first"), [((), 0), ((0,), 0), ((0, 1, 2), 2), ((0, 1, 2, 3), 3)])
def test_it_goes_on_with_the_last_one_that_has_begun(there, first, tmp_path, capsys):
    begun(tmp_path, *there)
    found = list(generations(flags(tmp_path)))
    assert [one.generation for one in found] == list(range(first, 4))
    assert [one.out for one in found] == [tmp_path / f"generation_{g}" for g in range(first, 4)]
    assert {(one.lr, one.resume, one.time_limit) for one in found} == {(0.1, None, None)}
    assert capsys.readouterr().out.startswith(f"generation {first} (0 to 3)\n")


def test_overwrite_begins_with_the_first(tmp_path):
    begun(tmp_path, 0, 1, 2)
    assert [one.generation for one in generations(flags(tmp_path, overwrite=True))] == [0, 1, 2, 3]


def test_resume_is_of_one_generation_and_what_came_of_it_is_not_mixed_in(tmp_path):
    begun(tmp_path, 0, 1)
    copy = tmp_path / "generation_1" / "checkpoint_1.pth.tar"
    found = list(generations(flags(tmp_path, resume=copy)))
    assert [(one.generation, one.resume) for one in found] == [(1, copy), (2, None), (3, None)]
    earlier = tmp_path / "generation_0" / LATEST
    with pytest.raises(UserError, match=r"generation_1, which came of another generation_0; remove it"):
        next(generations(flags(tmp_path, resume=earlier)))
    with pytest.raises(UserError, match=r"--resume .*: in none of .*generation_0 to generation_3"):
        next(generations(flags(tmp_path, resume=tmp_path / LATEST)))


def test_generations_without_a_predecessor_are_refused(tmp_path):
    begun(tmp_path, 1, 2)
    with pytest.raises(UserError, match="holds generation_1, which came of another generation_0"):
        next(generations(flags(tmp_path)))


def test_the_time_limit_is_of_the_whole_command(tmp_path):
    limits = []
    for one in generations(flags(tmp_path, time_limit=0.001)):
        limits.append(one.time_limit)
        time.sleep(0.04)
    assert limits[0] > limits[1] > 0 == limits[2] == limits[3]


def test_a_folder_that_was_taken_away_is_not_entered_again(tmp_path):
    begun(tmp_path, 0)
    found = generations(flags(tmp_path))
    next(found)
    (tmp_path / ".lock").rename(tmp_path / "old")
    (tmp_path / ".lock").touch()  # of a newer run
    with pytest.raises(UserError, match="was removed while this run trained in it"):
        next(found)


def test_with_a_run_the_generations_that_came_of_it_are_discarded(tmp_path):
    begun(tmp_path, 0, 1, 2, 4)
    (tmp_path / "generation_2" / "notes.txt").touch()
    discard_run(tmp_path / "generation_1")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert left == ["generation_0/checkpoint.pth.tar", "generation_2/notes.txt", "generation_4/checkpoint.pth.tar"]


CREST = "train_cifar_fix_crest.py"


def test_a_generation_that_is_trained_anew_discards_the_later_ones(tiny, tmp_path):
    """A run that is stopped then goes on with its own, not with what an earlier one left."""
    short = [*tiny(CREST), "--num_generation", 2, "--epochs", 1, "--val-iteration", 1, "--out", tmp_path]
    assert_runs(CREST, *short)
    assert_refused(run_here(CREST, *short, "--lr", 0.003), "--out", "another run", "--lr")
    result = run_here(CREST, *short, "--lr", 0.003, "--overwrite", "--time_limit", 1e-6)
    assert result.returncode == 124
    assert not (tmp_path / "generation_1" / LATEST).exists()
    assert_runs(CREST, *short, "--lr", 0.003)
    for g in range(2):
        assert load_checkpoint(tmp_path / f"generation_{g}" / LATEST)["arguments"]["lr"] == 0.003

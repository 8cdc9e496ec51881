"""A flag knows itself: what it decides, and that it is one thing wherever it is declared."""

import importlib
import sys
from argparse import SUPPRESS
from collections import defaultdict
from pathlib import Path

import pytest
from helpers.scripts import ROOT, assert_refused, run_here

import dataset
from dataset.small_imagenet127 import NUM_CLASSES
from utils import flags, method_flags
from utils.args import DATA, PLACE, REFUSE, RESULT, SPEED, WARN, Flag, recipe_args
from utils.flag_types import path
from utils.flags import FLAGS, GROUPS, spelled, with_role

RECIPES = sorted(path.name for path in ROOT.glob("train_*_*.py"))


def every_declaration() -> dict[str, list[Flag]]:
    """All flags of all groups, those within others included, by their names."""
    found = defaultdict(list)
    for group in (*vars(flags).values(), *vars(method_flags).values()):
        if isinstance(group, tuple) and group and all(isinstance(one, Flag) for one in group):
            for one in group:
                found[one.name].append(one)
    return found


def test_every_flag_is_found_by_its_name():
    assert set(FLAGS) == set(every_declaration())
    assert {one.name for group in GROUPS for one in group} == set(FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_has_a_role_help_and_a_default(name):
    for one in every_declaration()[name]:
        assert one.role in (DATA, RESULT, SPEED, PLACE)
        assert one.stages in ("", WARN, REFUSE)
        assert one.options["help"]
        assert "default" in one.options


@pytest.mark.parametrize("name", FLAGS)
def test_a_name_means_the_same_in_every_group(name):
    assert len({(one.role, one.stages) for one in every_declaration()[name]}) == 1


def test_roles_are_a_partition():
    parts = [with_role(role) for role in (DATA, RESULT, SPEED, PLACE)]
    assert sorted(name for part in parts for name in part) == sorted(FLAGS)
    assert all(parts)


def test_what_can_be_chosen_is_what_can_be_loaded():
    cifar, small = ({one.name: one for one in group}["dataset"] for group in (flags.CIFAR, flags.SMALL_IMAGENET))
    assert set(cifar.options["choices"]) == set(dataset.NAMES)
    assert set(small.options["choices"]) == set(NUM_CLASSES)


def test_a_flag_is_spelled_as_on_the_command_line():
    names = ("epochs", "batch_size", "lambda_u", "imb_ratio_l", "recipe", "unheard_of")
    spellings = ["--epochs", "--batch-size", "--lambda-u", "--imb_ratio_l", "script", "--unheard_of"]
    assert [spelled(name) for name in names] == spellings


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_that_a_recipe_takes_is_a_flag(recipe, monkeypatch):
    """So that nothing of a run is without a role. Its data set may be given by the recipe itself."""
    module, found = importlib.import_module(Path(recipe).stem), {}
    resume = ["--resume", "x"] if "cossl" in recipe else []
    monkeypatch.setattr(sys, "argv", [recipe, *resume])
    monkeypatch.setattr(module, "recipe_args", lambda *a, **k: found.update(vars(recipe_args(*a, **k))) or sys.exit())
    with pytest.raises(SystemExit):
        module.main()
    assert found.pop("recipe") == Path(recipe).stem
    assert found.keys() <= FLAGS.keys()
    assert found.keys() >= {one.name for one in flags.RUN if one.options["default"] is not SUPPRESS}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_published_scripts_ignore_leaves_no_trace(recipe, monkeypatch):
    """So that a run goes on without it, and no report sees it: `start_epoch` is something else there."""
    module, found = importlib.import_module(Path(recipe).stem), []
    given = ["--start-epoch", "7", *(["--step"] if "cifar" in recipe else [])]
    monkeypatch.setattr(module, "recipe_args", lambda *a, **k: found.append(vars(recipe_args(*a, **k))) or sys.exit())
    for flags_given in ([], given):
        monkeypatch.setattr(sys, "argv", [recipe, "--resume", "x", *flags_given])
        with pytest.raises(SystemExit):
            module.main()
    assert found[0] == found[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tilde_is_the_home_in_every_path(recipe, monkeypatch, tmp_path):
    """A shell leaves it as it is in --out=~/x."""
    module, found = importlib.import_module(Path(recipe).stem), {}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [recipe, "--out=~/out", "--data_root=~/data", "--resume=~/x.pth.tar"])
    monkeypatch.setattr(module, "recipe_args", lambda *a, **k: found.update(vars(recipe_args(*a, **k))) or sys.exit())
    with pytest.raises(SystemExit):
        module.main()
    expected = {"out": tmp_path / "out", "data_root": tmp_path / "data", "resume": tmp_path / "x.pth.tar"}
    assert expected.items() <= found.items()


def test_a_tilde_is_the_home_for_reading_scripts_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_refused(run_here("report.py", "~/runs"), f"{tmp_path}/runs: no such folder")
    assert_refused(run_here("predict.py", "--checkpoint=~/x", "~/a.png"), f"--checkpoint {tmp_path}/x: no such file")
    assert_refused(run_here("eval_shifted_test_distribution.py", "~/run"), f"{tmp_path}/run")
    assert path("~nobody-here/x") == Path("~nobody-here/x") and path("a/~/x") == Path("a/~/x")

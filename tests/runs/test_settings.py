"""Settings of the unlabelled set as recipes take them: their defaults, what is recorded, what stage 2 takes over."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.own_images import image_folder
from helpers.scripts import FIX, FIX_COSSL, MIX, MIX_COSSL, REMIX, TINY, assert_runs, handed_to_fit, run_here, summary

from dataset.long_tail import class_counts
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import FIXMATCH, OFFSETS, PRETRAIN

OTHER = {"included": "disjoint", "disjoint": "included"}
DEFAULTS = {
    FIX: "included",
    MIX: "disjoint",
    REMIX: "disjoint",
    "train_cifar_supervised.py": "included",
    "train_cifar_fix_prior.py": "disjoint",  # SimPro
    "train_cifar_fix_prior.py --preset la": "included",
    "train_cifar_fix_prior.py --preset adello": "included",
    "train_cifar_fix_abc.py": "disjoint",
    "train_cifar_fix_acr.py": "included",
    "train_cifar_fix_cdmad.py": "included",
    "train_food_fix.py": "included",
    "train_small_imagenet127_fix.py": "included",
}


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("script", DEFAULTS)
def test_the_default_is_the_published_one_and_is_recorded(script, given, tiny, tmp_path):
    chosen = OTHER[DEFAULTS[script]] if given else DEFAULTS[script]
    script, *flag = [*script.split(), *(["--unlabelled", chosen] if given else [])]
    found = handed_to_fit(script, *tiny(script), *flag, "--out", tmp_path / "out")
    facts, labels = found.data.facts(), found.data.labelled.images.labels
    assert found.run.arguments["unlabelled"] == chosen
    assert facts["labelled_again"] == (sum(facts["labelled_counts"]) if chosen == "included" else 0)
    common = set(found.data.labelled.members.tolist()) & set(found.data.unlabelled.members.tolist())
    assert len(common) == facts["labelled_again"]
    counted = np.bincount(labels[found.data.unlabelled.members], minlength=len(facts["classes"]))
    assert facts["unlabelled_counts"] == counted.tolist() and facts["unlabelled"] == counted.sum()


def test_the_summary_has_the_realised_counts(tmp_path):
    order = [4, 5, 3, 6, 2, 7, 1, 8, 0, 9]
    flags = ["--ratio", 1.5, "--order", ",".join(map(str, order)), "--unlabelled", "disjoint"]
    result = assert_runs(FIX, *TINY, *flags, "--epoch", 1, "--val-iteration", 1, "--out", tmp_path / "out")
    found, counts = summary(tmp_path / "out"), class_counts(60, 10, 20).tolist()
    assert [found["unlabelled_counts"][c] for c in order] == counts
    assert (found["unlabelled"], found["labelled_again"]) == (sum(counts), 0)
    assert (found["arguments"]["order"], found["arguments"]["unlabelled"]) == ("4,5,3,6,2,7,1,8,0,9", "disjoint")
    assert all(f" {n}" in result.stdout for n in found["unlabelled_counts"])
    assert "labelled ones again" not in result.stdout


@pytest.mark.parametrize("chosen", ["included", "disjoint"])
def test_own_images(chosen, tmp_path):
    folder = image_folder(tmp_path / "images")
    size = ["--dataset", "folder", "--data_root", folder, "--img_size", 16, "--batch-size", 4]
    data = handed_to_fit(FIX, *TINY, *size, "--unlabelled", chosen, "--out", tmp_path / "out").data
    assert data.unlabelled.members.tolist() == list(range(0 if chosen == "included" else 10, 19))
    assert data.labelled_again == (10 if chosen == "included" else 0)


@pytest.mark.parametrize("dataset", ["digits", "folder"])
def test_the_floor_has_the_same_sets(dataset, tmp_path):
    """By itself without the labelled images; with the flag it stands in the table of runs that have them."""
    root = image_folder(tmp_path / "images", known=True) if dataset == "folder" else tmp_path
    split = ["--num_max", 40, "--ratio", 1, "--imb_ratio_l", 4, "--imb_ratio_u", -4] if dataset == "digits" else []
    data = ["--dataset", dataset, "--data_root", root, "--img_size", 16, "--manualSeed", 1, *split]
    found = {}
    for chosen in ("disjoint", "included"):
        flag = ["--unlabelled", "included"] if chosen == "included" else []
        assert_runs("floor.py", *data, *flag, "--out", tmp_path / chosen)
        found[chosen] = summary(tmp_path / chosen / "nearest_class_mean")
        assert found[chosen]["arguments"]["unlabelled"] == chosen
    counts = {chosen: np.array(about["unlabelled_counts"]) for chosen, about in found.items()}
    labelled = np.array(found["disjoint"]["labelled_counts"])
    assert counts["included"].tolist() == (counts["disjoint"] + labelled).tolist()
    if dataset == "digits":
        assert counts["disjoint"].tolist() == class_counts(40, 10, -4).tolist()


@pytest.fixture
def stage1(pretrained, tmp_path):
    """(value of --unlabelled, other arguments) -> a FixMatch checkpoint that says it was trained so."""

    def made(unlabelled: str, **others: str):
        state = torch.load(pretrained / "checkpoint.pth.tar", weights_only=True)
        state["arguments"] |= {"unlabelled": unlabelled} | others
        torch.save(state, tmp_path / "stage1.pth.tar")
        return tmp_path / "stage1.pth.tar"

    return made


@pytest.mark.parametrize(("preset", "chosen"), [("simpro", "disjoint"), ("la", "included"), ("adello", "included")])
def test_pre_trained_weights_leave_a_preset_its_unlabelled_set(preset, chosen, monkeypatch):
    flags = ["--preset", preset, "--arch", "resnet18", "--weights", "default", "--gpu", "cpu", "--out", "none"]
    monkeypatch.setattr("sys.argv", ["train_cifar_fix_prior.py", *flags])
    groups = RUN, CIFAR, PRETRAIN, FIXMATCH, OFFSETS
    args = recipe_args(Path("train_cifar_fix_prior.py"), "", *groups, epochs=1, unlabelled="disjoint")
    assert (args.unlabelled, args.tau) == (chosen, 0.7)


# (script, value in FixMatch's pre-training, given flags, value in co-learning)
TAKEN = [
    (FIX_COSSL, "included", [], "included"),
    (FIX_COSSL, "disjoint", [], "disjoint"),
    (FIX_COSSL, "disjoint", ["--unlabelled", "included"], "included"),
    (MIX_COSSL, "included", [], "disjoint"),
    (MIX_COSSL, "included", ["--unlabelled", "included"], "included"),
]


@pytest.mark.parametrize(("script", "then", "flags", "expected"), TAKEN)
def test_co_learning_takes_it_from_the_same_method(script, then, flags, expected, stage1, tmp_path, capsys):
    """MixMatch's default is another one, and holds whatever FixMatch had."""
    found = handed_to_fit(script, *TINY, *flags, "--resume", stage1(then), "--out", tmp_path / "out")
    assert found.run.arguments["unlabelled"] == expected
    assert (found.data.labelled_again > 0) == (expected == "included")


def test_a_difference_from_pre_training_is_told(stage1, tmp_path):
    flags = ["--unlabelled", "included", "--epoch", 1, "--val-iteration", 1, "--warm_tfe", 1]
    result = run_here(FIX_COSSL, *TINY, *flags, "--resume", stage1("disjoint"), "--out", tmp_path / "out")
    assert result.returncode == 0
    assert "was pre-trained otherwise: --unlabelled (disjoint there, included now)" in result.stderr


def test_co_learning_takes_the_order(stage1, tmp_path):
    start = stage1("included", order="reversed")
    found = handed_to_fit(FIX_COSSL, *TINY, "--resume", start, "--out", tmp_path / "out")
    beyond = found.data.unlabelled_counts - found.data.counts
    assert beyond.tolist() == class_counts(80, 10, -20).tolist()

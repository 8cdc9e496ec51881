"""Methods for unlabelled images that are distributed otherwise, by their scripts: who labels, what is evaluated, by the
tools, too, what the first stage hands over, and what a run warns of."""

import json

import pytest
import torch
from helpers.scripts import (
    TINY,
    assert_refused,
    assert_runs,
    handed_to_fit,
    load_checkpoint,
    log_lines,
    run_here,
    steps,
    summary,
)
from torch import nn

from dataset import load
from methods.cdmad import debiased
from methods.prior import ClassPrior
from reporting.trained import load_model, prior_of
from training.checkpoint import LATEST
from training.outcome import doubts
from utils.metrics import evaluate
from utils.text import warn_once

PRIOR, PRIOR_COSSL, ABC, ACR, CDMAD = (
    f"train_cifar_fix_{name}.py" for name in ("prior", "prior_cossl", "abc", "acr", "cdmad")
)
NO_WAIT = ["--warm_prior", 0, "--tau", 0.2]


@pytest.fixture
def flags(pretrained_by):
    """Script -> flags of a tiny run, and its first stage."""

    def of(script: str, *more) -> list:
        stage1 = ["--resume", pretrained_by(PRIOR) / LATEST, "--warm_tfe", 1] if script == PRIOR_COSSL else []
        return [*TINY, *steps(script, 4), *stage1, *([] if script == CDMAD else NO_WAIT), *more]

    return of


@pytest.mark.parametrize("script", [ABC, ACR, CDMAD, PRIOR, PRIOR_COSSL])
def test_tools_answer_as_the_run_evaluates(script, flags, tmp_path):
    assert_runs(script, *flags(script, "--epochs", 1, "--out", tmp_path))
    model, found = load_model(tmp_path / LATEST, "", torch.device("cpu")), summary(tmp_path)
    data, (mean, std) = load("digits", tmp_path), (torch.tensor(found[name])[:, None, None] for name in ("mean", "std"))
    pixels = torch.from_numpy(data.test.pixels).float().div(255)
    batches = [((pixels - mean) / std, torch.from_numpy(data.test.labels))]
    figures = evaluate(model.predict, batches, found["labelled_counts"])
    assert figures["balanced"] == pytest.approx(found["last_epoch"]["balanced"], abs=0.3)
    assert figures["loss"] == pytest.approx(found["last_epoch"]["loss"], rel=1e-3)
    assert found["class_balanced"] and (prior_of(model, None) == 0.1).all()


@pytest.mark.parametrize("preset", ["la", "simpro", "adello"])
def test_presets_train(preset, flags, tmp_path):
    assert_runs(PRIOR, *flags(PRIOR, "--epochs", 1, "--preset", preset, "--out", tmp_path))
    state = load_checkpoint(tmp_path / LATEST)
    assert state["facts"]["method"].casefold() == f"fixmatch+{preset}"
    seen = state["class_prior"]["seen"] if "class_prior" in state else None
    assert seen == (None if preset == "la" else 4)
    assert ("prior_tv" in log_lines(tmp_path)[0]) == (preset != "la")
    assert summary(tmp_path)["class_balanced"]


def test_the_published_estimate_gathers_500_steps(flags, tmp_path):
    """Of sure guesses alone."""
    found = handed_to_fit(PRIOR, *flags(PRIOR, "--published_prior", "--tau", 0.9999, "--out", tmp_path))
    prior = found.step.state["class_prior"]
    assert (prior.every, prior.momentum) == (500, 0.9)
    found.step(found.data.batches(found.step.streams, *found.step.draws).at(0))
    assert prior.seen == 1 and not prior.gathered.any()
    refused = run_here(PRIOR, *flags(PRIOR, "--preset", "adello", "--published_prior", "--out", tmp_path / "adello"))
    assert_refused(refused, "--published_prior", "simpro")


def test_both_heads_learn_and_the_balanced_one_is_the_network_s(flags, tmp_path):
    for script in (ABC, ACR):
        found = handed_to_fit(script, *flags(script, "--out", tmp_path / script))
        standard, live = found.step.state["standard_head"], found.student.live
        learning = {id(p) for group in found.student.optimizer.param_groups for p in group["params"]}
        assert {id(p) for p in (*standard.parameters(), *live.parameters())} == learning
        before = [layer.weight.detach().clone() for layer in (standard, live.output)]
        found.step(found.data.batches(found.step.streams, *found.step.draws).at(0))
        assert not any(map(torch.equal, before, (standard.weight, live.output.weight)))
        assert found.predict is found.student.ema


def test_no_bias_is_left_to_take_away_from_cdmad(flags, tmp_path):
    assert_runs(CDMAD, *flags(CDMAD, "--epochs", 1, "--out", tmp_path))
    assert_runs("eval_shifted_test_distribution.py", tmp_path, "--gpu", "cpu")
    found = json.loads((tmp_path / "shifted.json").read_text())
    assert (
        found["balanced_without_bias"]
        == found["balanced"]
        == pytest.approx(summary(tmp_path)["last_epoch"]["balanced"])
    )


def test_cdmad_labels_and_predicts_with_its_average(flags, tmp_path):
    found = handed_to_fit(CDMAD, *flags(CDMAD, "--out", tmp_path))
    images, constant = torch.randn(4, 3, 32, 32), found.step.state["debias"]
    torch.testing.assert_close(found.predict(images), debiased(found.student.ema, constant)(images))
    counted = next(m for m in found.student.live.modules() if isinstance(m, nn.BatchNorm2d)).num_batches_tracked
    batch = found.data.batches(found.step.streams, *found.step.draws)
    found.step(batch.at(0))
    assert int(counted) == 1  # the pass with gradients alone
    live = handed_to_fit(CDMAD, *flags(CDMAD, "--labels_by", "live", "--out", tmp_path / "live"))
    live.step(batch.at(0))
    counted = next(m for m in live.student.live.modules() if isinstance(m, nn.BatchNorm2d)).num_batches_tracked
    assert int(counted) == 3


def test_co_learning_takes_the_prior_of_its_first_stage_if_that_has_one(flags, pretrained_by, pretrained, tmp_path):
    stage1 = load_checkpoint(pretrained_by(PRIOR) / LATEST)
    found = handed_to_fit(PRIOR_COSSL, *flags(PRIOR_COSSL, "--out", tmp_path / "prior"))
    prior = found.step.state["class_prior"]
    assert (
        torch.equal(prior.shares, stage1["class_prior"]["shares"]) and prior.seen == stage1["class_prior"]["seen"] > 0
    )
    plain = [*TINY, "--resume", pretrained / LATEST, "--out", tmp_path / "plain"]
    assert handed_to_fit(PRIOR_COSSL, *plain).step.state["class_prior"].seen == 0


def test_each_part_of_cossl_prior_has_a_switch(flags, tmp_path):
    """Without all three, a step is that of train_cifar_fix_cossl.py to the bit."""
    plain, losses = "--plain_student", {}
    parts = {"off": [plain], "kappa": ["--kappa", 0.5, plain], "lam_h": ["--lam_h", 1, plain], "student": []}
    for name, more in parts.items():
        found = handed_to_fit(PRIOR_COSSL, *flags(PRIOR_COSSL, *more, "--tau", 0.1, "--out", tmp_path / name))
        found.step.state["class_prior"].shares.copy_(torch.arange(10, 0, -1) / 55)
        found.step.state["class_prior"].seen.fill_(10**6)
        losses[name] = found.step(found.data.batches(found.step.streams, *found.step.draws).at(0))
    plain = [*flags(PRIOR_COSSL)[:-4], "--tau", 0.1, "--out", tmp_path / "cossl"]
    found = handed_to_fit("train_cifar_fix_cossl.py", *plain)
    expected = found.step(found.data.batches(found.step.streams, *found.step.draws).at(0))
    assert all(torch.equal(losses["off"][name], value) for name, value in expected.items())
    assert torch.equal(losses["kappa"]["loss_x"], expected["loss_x"])
    assert not torch.equal(losses["kappa"]["loss_u"], expected["loss_u"])
    assert not torch.equal(losses["student"]["loss_x"], expected["loss_x"])
    assert torch.equal(losses["lam_h"]["loss"], expected["loss"]) and "loss_head_u" in losses["lam_h"]


def test_kappa_can_be_fitted(flags, tmp_path):
    """By the balanced labelled rows of each step; a run that goes on has it from its checkpoint."""
    found = handed_to_fit(PRIOR_COSSL, *flags(PRIOR_COSSL, "--kappa", "fit", "--out", tmp_path))
    prior, kappa = found.step.state["class_prior"], found.step.state["kappa"]
    prior.shares.copy_(torch.arange(10, 0, -1) / 55)
    logs = found.step(found.data.batches(found.step.streams, *found.step.draws).at(0))
    assert kappa.value != 1 and logs["kappa"] == kappa.value


def history(**train) -> dict:
    counts = torch.zeros(5, 5, 3, dtype=torch.int64)
    counts[:, 1] = torch.tensor([50, 49, 1])
    return {"train": {name: torch.tensor(values) for name, values in train.items()}, "counts": counts}


def test_what_a_run_warns_of():
    facts = {"labelled_counts": [10, 5, 2], "classes": ["a", "b", "c"]}
    assert doubts(history(mask=[0.5] * 5), facts, 0.9, 9) == []
    assert doubts(history(mask=[0.001] * 4), facts, 0.9, 9) == doubts(history(mask=[0.001] * 2), facts, 0.9, 2) == []
    (line,) = doubts(history(mask=[0.001] * 4), facts, 0.9, 4)  # of a short run at its end
    assert line.startswith("--tau 0.9: in the last 4 epochs")
    (line,) = doubts(history(mask=[0.001] * 5), facts, 0.9, 9)
    assert line.startswith("--tau 0.9: in the last 5 epochs")
    (line,) = doubts(history(prior_collapsed=[0.0, 0.01]), facts, 0.9, 9)
    assert "has collapsed" in line and "--warm_prior" in line
    alone = history(mask=[0.5])
    alone["counts"][:, 1] = torch.tensor([3, 96, 1])
    (line,) = doubts(alone, facts, 0.9, 9)
    assert line.endswith("of one class, b")
    assert doubts(alone, facts | {"labelled_counts": [1, 97, 2]}, 0.9, 9) == []  # as they should be
    alone["counts"][2, 1] = torch.tensor([50, 49, 1])
    assert doubts(alone, facts, 0.9, 9) == []


def test_a_collapsed_prior_is_told(flags, monkeypatch, tmp_path):
    warn_once.cache_clear()
    monkeypatch.setattr(ClassPrior, "collapsed", lambda self: self.shares.sum() > 0)
    result = assert_runs(PRIOR, *flags(PRIOR, "--epochs", 2, "--out", tmp_path))
    assert result.stderr.count("has collapsed") == 1


def test_co_learning_starts_from_no_method_with_two_heads(flags, tmp_path):
    assert_runs(ABC, *flags(ABC, "--epochs", 1, "--out", tmp_path / "abc"))
    start = ["--resume", tmp_path / "abc" / LATEST, "--out", tmp_path / "cossl"]
    assert_refused(run_here("train_cifar_fix_cossl.py", *TINY, *start), str(tmp_path / "abc"), "two heads")
    assert not (tmp_path / "cossl").exists()

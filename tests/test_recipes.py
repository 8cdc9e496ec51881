"""What the flags of a recipe reach, and the training loop by itself: copies of checkpoints, counting of epochs."""

import json
import sys
from argparse import Namespace

import pytest
import torch
from conftest import TINY

import train_cifar_fix
import train_cifar_fix_cossl
from utils.averaged import STUDENT, TEACHER
from utils.fit import fit

FLAGS = [*TINY, "--epoch", 3, "--val-iteration", 4, "--lr", 0.004, "--tau", 0.7]


@pytest.fixture
def caught(monkeypatch):
    """Run a recipe's `main` up to the training loop: what it passes to `fit`, and to the functions in between."""

    def run(recipe, *flags):
        calls = {}

        def watch(name):
            original = getattr(recipe, name)

            def watched(*args, **kwargs):
                calls[name] = args, kwargs
                return original(*args, **kwargs)

            monkeypatch.setattr(recipe, name, watched)

        for name in ("pretrain", "cossl", "tfe"):
            if hasattr(recipe, name):
                watch(name)
        monkeypatch.setattr(recipe, "fit", lambda *args, **kwargs: calls.update(fit=(args, kwargs)))
        monkeypatch.setattr(sys, "argv", ["recipe", *map(str, [*FLAGS, *flags])])
        recipe.main()
        return calls

    return run


def hyper(optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def test_pretraining(caught, tmp_path):
    calls = caught(train_cifar_fix, "--out", tmp_path / "out")
    ssl, student, _ = calls["pretrain"][0]
    assert ssl.keywords == {"tau": 0.7}
    assert (student.decay, student.shrink) == (0.9, pytest.approx(0.02 * 0.004))
    assert hyper(student.optimizer) == [(0.004, 0)]
    (_, _, objects, args, facts, start), options = calls["fit"]
    assert tuple(objects) == STUDENT
    assert (args.epochs, args.val_iteration, start, options) == (3, 4, None, {})
    assert facts["method"] == "FixMatch"


def test_cossl(caught, pretrained, tmp_path):
    flags = ["--max_lam", 0.7, "--lr_tfe", 0.03, "--wd_tfe", 0.01, "--warm_tfe", 5, "--out", tmp_path / "out"]
    start_from = pretrained / "checkpoint_1.pth.tar"
    calls = caught(train_cifar_fix_cossl, *flags, "--resume", start_from)
    ssl, _, student, teacher, data = calls["cossl"][0]
    assert ssl.keywords == {"tau": 0.7}
    assert (student.decay, student.shrink) == (teacher.decay, teacher.shrink) == (0.9, 0)
    assert hyper(student.optimizer) == [(0.004, pytest.approx(0.02 * 0.004))]
    assert hyper(teacher.optimizer) == [(0.004, 0.01), (0.004, 0)]  # as published: lr, not lr_tfe
    counts, max_lam = calls["tfe"][0]
    assert counts.tolist() == data.counts.tolist()
    assert max_lam == 0.7
    (_, _, objects, _, facts, start, prepare), options = calls["fit"]
    assert tuple(objects) == STUDENT + TEACHER
    assert (start, options, facts["start_epoch"]) == (None, {"first_copy": 101}, 1)
    plan = {**prepare.keywords}
    assert hyper(plan.pop("optimizer")) == [(0.03, 0.01), (0.03, 0)]
    assert plan == {"batch_size": 16, "epochs": 5, "steps": 4, "seed": 1}
    state = torch.load(start_from, weights_only=True)
    for key in ("state_dict", "ema_state_dict"):
        for name, value in objects[key].state_dict().items():
            assert torch.equal(value, state[key][name]), name
    moments = objects["optimizer"].state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])


def test_lr_tfe_changes_the_warm_up(caught, pretrained, tmp_path):
    heads = []
    for lr in (0.002, 0.2):
        flags = ["--lr_tfe", lr, "--out", tmp_path / "out", "--resume", pretrained / "checkpoint.pth.tar"]
        (_, _, objects, *_, prepare), _ = caught(train_cifar_fix_cossl, *flags)["fit"]
        before = objects["teacher_head"].weight.detach().clone()
        prepare()
        heads.append(objects["teacher_head"].weight.detach() - before)
    assert heads[1].abs().mean() > 5 * heads[0].abs().mean() > 0


FIGURES = dict.fromkeys(("top1", "balanced", "gm", "many", "medium", "few", "loss"), 50.0) | {"recall": [50.0]}


def loop(out, epochs, start=None, first_copy=1, steps=None):
    args = Namespace(epochs=epochs, val_iteration=2, manualSeed=0, lr=0.1, out=out, overwrite=False, resume=None)

    def step(t):
        if steps is not None:
            steps.append(t)
        return {"loss": torch.tensor(float(t))}

    objects = {"state_dict": torch.nn.Linear(1, 1)}
    fit(step, lambda: dict(FIGURES), objects, args, {"method": "toy"}, start, first_copy=first_copy)


@pytest.mark.parametrize(("first_copy", "copies"), [(1, {1, 101}), (101, {101})])
def test_copies(first_copy, copies, tmp_path):
    loop(tmp_path, 102, first_copy=first_copy)
    kept = {path.name for path in tmp_path.glob("*.tar")}
    assert kept == {"checkpoint.pth.tar", *(f"checkpoint_{n}.pth.tar" for n in copies)}
    assert torch.load(tmp_path / "checkpoint_101.pth.tar", weights_only=True)["epoch"] == 101


def test_epochs_count_on_from_a_published_checkpoint(tmp_path):
    """It has no history; steps, log and best epoch go on from its epoch all the same."""
    steps = []
    loop(tmp_path, 402, {"epoch": 400, "state_dict": torch.nn.Linear(1, 1).state_dict()}, steps=steps)
    assert steps == [800, 801, 802, 803]
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["401", "800.5"], ["402", "802.5"]]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["best"]["epoch"], summary["epochs"], summary["epochs_averaged"]) == (401, 2, 2)


def test_generators_are_seeded_anew_at_every_step(tmp_path):
    drawn = {}

    def run(out, epochs, start=None):
        args = Namespace(epochs=epochs, val_iteration=2, manualSeed=3, lr=0.1, out=out, overwrite=False, resume=None)
        step = lambda t: {"loss": drawn.setdefault((out.name, t), torch.rand(()))}
        fit(step, lambda: dict(FIGURES), {"state_dict": torch.nn.Linear(1, 1)}, args, {}, start)

    run(tmp_path / "a", 2)
    run(tmp_path / "b", 1)
    torch.rand(7)
    run(tmp_path / "b", 2, torch.load(tmp_path / "b" / "checkpoint.pth.tar", weights_only=True))
    values = [[drawn[name, t].item() for t in range(4)] for name in "ab"]
    assert values[0] == values[1]
    assert len(set(values[0])) == 4

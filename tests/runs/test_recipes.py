"""What the flags of a recipe reach, and the training loop by itself: copies of checkpoints, counting of epochs."""

import importlib
import inspect
import json
import sys
from argparse import Namespace
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.golden import normal
from helpers.scripts import load_checkpoint
from torch.nn.functional import cross_entropy

from dataset.batches import Batches
from dataset.images import Images
from dataset.pixels import Pixels
from dataset.rows import draw_rows
from dataset.stream import Stream
from dataset.streams import CO_LEARNING
from dataset.streams import PRETRAINING as FIRST
from methods.averaged import STUDENT, TEACHER
from training.folder import stamp
from training.loop import fit
from training.resume import FOUND
from training.summary import SCALARS

LR, EPOCHS, STEPS = 0.004, 4, 5
FLAGS = ["--epoch", EPOCHS, "--val-iteration", STEPS, "--lr", LR, "--copy_every", 7]
HEAD = ["--max_lam", 0.7, "--lr_tfe", 0.03, "--wd_tfe", 0.01, "--warm_tfe", 6]
MIX = ["--T", 0.6, "--mix_alpha", 0.3, "--lambda-u", 20]
MIXED = {"T": 0.6, "alpha": 0.3}
REMIX = [*MIX, "--w_rot", 0.7, "--w_ent", 0.9]
WEAK, STRONG = ("weak",), ("strong",)


def row(method, flags, bound, **other):
    """method and flags: as in summary and command; bound: the SSL method's hyper-parameters; weights: those that are
    functions of the step, at the end of training."""
    return SimpleNamespace(method=method, flags=flags, bound=bound, **other)


# labelled, unlabelled: the views of both. The weights grow from 0 over --epochs.
PRETRAINING = {
    "train_cifar_fix": row(
        "FixMatch", ["--tau", 0.7], {"tau": 0.7}, weights={}, labelled=WEAK, unlabelled=("weak", "strong", "strong")
    ),
    "train_cifar_mix": row(
        "MixMatch", MIX, MIXED, weights={"lambda_u": 20}, labelled=WEAK, unlabelled=("weak", "weak")
    ),
    "train_cifar_remix": row(
        "ReMixMatch",
        REMIX,
        MIXED | {"w_rot": 0.7},
        weights={"lambda_u": 20, "w_ent": 0.9},
        labelled=STRONG,
        unlabelled=("weak", "strong", "strong"),
    ),
    "train_cifar_supervised": row("supervised", [], {}, weights={}, labelled=WEAK, unlabelled=()),
    "train_small_imagenet127_fix": row(
        "FixMatch", ["--tau", 0.7], {"tau": 0.7}, weights={}, labelled=WEAK, unlabelled=("weak", "strong", "strong")
    ),
}
# The weights are constant. swept: the views of the unlabelled images in the head's warm-up; shrink: after every step;
# head_lr: in co-learning; learner: the view that classifier learning sees.
COSSL = {
    "train_cifar_fix_cossl": row(
        "FixMatch+CoSSL",
        ["--tau", 0.7],
        {"tau": 0.7},
        weights={},
        swept=("weak", "strong"),
        shrink=0,
        head_lr=LR,
        learner=STRONG,
    ),
    "train_cifar_mix_cossl": row(
        "MixMatch+CoSSL",
        MIX,
        MIXED,
        weights={"lambda_u": 1},
        swept=WEAK,
        shrink=0.02 * LR,
        head_lr=0.03,
        learner=STRONG,
    ),
    "train_cifar_remix_cossl": row(
        "ReMixMatch+CoSSL",
        REMIX,
        MIXED | {"w_rot": 0.7},
        weights={"lambda_u": 20, "w_ent": 0.9},
        swept=("weak", "strong"),
        shrink=0,
        head_lr=0.03,
        learner=STRONG,
    ),
    "train_small_imagenet127_fix_cossl": row(
        "FixMatch+CoSSL", ["--tau", 0.7], {"tau": 0.7}, weights={}, shrink=0, head_lr=LR, learner=WEAK
    ),
}
ALIGNING = ["train_cifar_remix", "train_cifar_remix_cossl"]
SMALL = ["train_small_imagenet127_fix", "train_small_imagenet127_fix_cossl"]


@pytest.fixture
def start(pretrained_by):
    """A recipe of co-learning -> the checkpoint it starts from."""
    return lambda name: pretrained_by(f"{name.removesuffix('_cossl')}.py") / "checkpoint_1.pth.tar"


@pytest.fixture
def caught(tiny, start, monkeypatch, tmp_path):
    """Run a recipe's `main` up to the training loop: what it passes to `fit`, and to the functions in between.

    ssl: the SSL method's hyper-parameters by name; data: its streams.
    """

    def run(name, *flags):
        recipe, calls = importlib.import_module(name), {}

        def watch(name):
            original = getattr(recipe, name)

            @wraps(original)
            def watched(*args, **kwargs):
                calls[name] = args, kwargs
                result = original(*args, **kwargs)
                if name in ("open_data", "streams"):
                    calls["data"] = result
                if name in METHODS:
                    calls["ssl"] = inspect.signature(original).bind(*args, **kwargs).arguments
                return result

            monkeypatch.setattr(recipe, name, watched)

        for watched in ("pretrain", "cossl", "tfe", "open_data", "streams", *METHODS):
            if hasattr(recipe, watched):
                watch(watched)
        monkeypatch.setattr(recipe, "fit", lambda *args, **kwargs: calls.update(fit=(args, kwargs)))
        argv = [*tiny(name), *FLAGS, *({**PRETRAINING, **COSSL})[name].flags, "--out", tmp_path / "out", *flags]
        argv += ["--resume", start(name)] if name in COSSL else []
        monkeypatch.setattr(sys, "argv", ["recipe", *map(str, argv)])
        recipe.main()
        return calls

    return run


METHODS = ("fixmatch", "mixmatch", "remixmatch", "supervised")


def fixed(ssl: dict) -> dict:
    """The SSL method's numbers that stay for a whole run."""
    return {key: value for key, value in ssl.items() if isinstance(value, (int, float))}


def at_step(ssl: dict, t: float) -> dict:
    """Its weights in step t."""
    return {key: value(t) for key, value in ssl.items() if inspect.isfunction(value)}


def hyper(optimizer) -> list[tuple[float, float]]:
    assert type(optimizer) is torch.optim.Adam
    return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining(name, caught):
    expected, calls = PRETRAINING[name], caught(name)
    (method, student), data, ssl = calls["pretrain"][0], calls["data"], calls["ssl"]
    assert fixed(ssl) == expected.bound
    assert (data.labelled.wanted, data.unlabelled.wanted) == (expected.labelled, expected.unlabelled)
    assert (student.decay, student.shrink) == (0.9, pytest.approx(0.02 * LR))
    assert hyper(student.optimizer) == [(LR, 0)]
    (_, batches, _, objects, args, facts, start), options = calls["fit"]
    assert batches.streams == {name: getattr(data, name) for name in FIRST}
    assert (batches.draws, batches.seed) == ((method.draw,), 1)
    assert tuple(objects) == STUDENT + ("emp_distb_u",) * (name in ALIGNING)
    assert (args.epochs, args.val_iteration, args.copy_every, start, options) == (EPOCHS, STEPS, 7, None, {})
    assert (facts["method"], facts["start_epoch"]) == (expected.method, 0)
    for t, share in ((0, 0), (EPOCHS * STEPS // 4, 0.25), (EPOCHS * STEPS // 2, 0.5), (EPOCHS * STEPS, 1)):
        weights = {key: share * value for key, value in expected.weights.items()}
        assert at_step(ssl, t) == pytest.approx(weights)
        drawn = method.draw(t, 16)
        assert {key: float(drawn[key]) for key in weights} == pytest.approx(weights)


@pytest.mark.parametrize("name", COSSL)
def test_cossl(name, caught, start):
    expected, calls = COSSL[name], caught(name, *HEAD)
    (method, learner, student, teacher), data, ssl = calls["cossl"][0], calls["data"], calls["ssl"]
    assert fixed(ssl) == expected.bound
    assert at_step(ssl, 0) == at_step(ssl, EPOCHS * STEPS) == expected.weights
    assert (student.decay, student.shrink) == (0.9, pytest.approx(expected.shrink))
    assert hyper(student.optimizer) == [(LR, pytest.approx(0.02 * LR))]
    assert (teacher.decay, teacher.shrink) == (0.9, 0)
    assert hyper(teacher.optimizer) == [(expected.head_lr, 0.01), (expected.head_lr, 0)]
    first = PRETRAINING[name.removesuffix("_cossl")]
    wanted = [stream.wanted for stream in (data.labelled, data.unlabelled, data.balanced, data.partners)]
    assert wanted == [first.labelled, first.unlabelled, expected.learner, expected.learner]
    counts, max_lam = calls["tfe"][0]
    assert counts.tolist() == data.counts.tolist()
    assert max_lam == 0.7
    (_, batches, _, objects, _, facts, own, _), options = calls["fit"]
    assert batches.streams == {name: getattr(data, name) for name in CO_LEARNING}
    assert (batches.draws, batches.seed) == ((method.draw, learner.draw), 1)
    assert tuple(objects) == STUDENT + TEACHER + ("emp_distb_u",) * (name in ALIGNING)
    assert (own, options) == (None, {"first_copy": 8})
    assert (facts["method"], facts["start_epoch"]) == (expected.method, 1)
    state = load_checkpoint(start(name))
    for key in ("state_dict", "ema_state_dict"):
        for entry, value in objects[key].state_dict().items():
            assert torch.equal(value, state[key][entry]), entry
    moments = objects["optimizer"].state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])


@pytest.mark.parametrize("name", [name for name in COSSL if name not in SMALL])
def test_warm_up(name, caught, monkeypatch):
    """Every image passes once; the head learns with --lr_tfe, whatever co-learning takes."""
    expected, calls = COSSL[name], caught(name, *HEAD)
    (_, _, student, teacher), data = calls["cossl"][0], calls["data"]
    prepare = calls["fit"][0][-1]
    encoder, head, labelled, unlabelled, counts = prepare.args
    assert encoder == student.ema.features
    assert (head.live, head.ema, head.decay, head.shrink) == (teacher.live, teacher.ema, 0.9, 0)
    assert hyper(head.optimizer) == [(0.03, 0.01), (0.03, 0)]
    assert head.optimizer is not teacher.optimizer
    assert counts.tolist() == data.counts.tolist()
    assert prepare.keywords == {"batch_size": 16, "epochs": 6, "steps": STEPS, "seed": 1}
    made = []
    monkeypatch.setattr(
        "dataset.pixels.draw_rows", lambda *args, **rest: made.append(args[2]) or draw_rows(*args, **rest)
    )
    labels = data.labelled.images.labels
    for sweep, stream in ((labelled, data.labelled), (unlabelled, data.unlabelled)):
        assert torch.cat([batch.labels for batch in sweep]).tolist() == labels[stream.members].tolist()
    assert made == [PRETRAINING[name.removesuffix("_cossl")].labelled, expected.swept]


def test_warm_up_on_batches(caught):
    """By the learner of co-learning, on the same sets in batches of its own, with --lr_tfe."""
    calls = caught(SMALL[1], *HEAD)
    (_, co_learner, student, teacher), data = calls["cossl"][0], calls["data"]
    co_batches, prepare = calls["fit"][0][1], calls["fit"][0][-1]
    encoder, head, learner, batches = prepare.args
    assert (encoder, learner) == (student.ema.features, co_learner)
    assert (head.live, head.ema, head.decay, head.shrink) == (teacher.live, teacher.ema, 0.9, 0)
    assert hyper(head.optimizer) == [(0.03, 0.01), (0.03, 0)]
    assert head.optimizer is not teacher.optimizer
    assert prepare.keywords == {"steps": 6 * STEPS}
    assert (tuple(batches.streams), batches.draws) == (("balanced", "partners"), (learner.draw,))
    batch, later = batches.at(0), co_batches.at(0)
    assert not torch.equal(batch.numbers["coins"], later.numbers["coins"])
    for name, own in batches.streams.items():
        stream = getattr(data, name)
        assert (own.members.tolist(), own.wanted, own.balanced) == (stream.members.tolist(), WEAK, stream.balanced)
        assert getattr(batch, name).labels.tolist() != getattr(later, name).labels.tolist()


@pytest.mark.parametrize("name", SMALL)
def test_labelled_share_and_mu(name, caught):
    data = caught(name, "--labeled_percent", 1, "--mu", 3)["data"]
    assert [s.batch_size for s in (data.labelled, data.unlabelled, data.balanced, data.partners)] == [8, 24, 8, 8]
    assert len(data.labelled.members) == len(data.unlabelled.members) == data.counts.sum() == 400
    assert len(data.partners.members) == 800
    assert 200 < caught(name)["data"].counts.sum() < 280  # of 400, 60 %, but 1 of the 2 that most classes have


@pytest.mark.parametrize("name", [name for name in (*PRETRAINING, *COSSL) if "supervised" not in name])
def test_only_fixmatch_sees_labelled_images_in_the_unlabelled_set(name, caught):
    data = caught(name)["data"]
    common = np.intersect1d(data.labelled.members, data.unlabelled.members)
    assert len(common) == (len(data.labelled.members) if "fix" in name else 0)


@pytest.mark.parametrize("name", ALIGNING)
def test_align_aims_at_the_labelled_shares(name, caught):
    assert caught(name)["ssl"]["target"] is None
    calls = caught(name, "--align")
    counts, bound = calls["data"].counts, calls["ssl"]
    assert bound["target"].tolist() == pytest.approx(list(counts / counts.sum()))
    assert bound["running_mean"] is calls["fit"][0][3]["emp_distb_u"]


@pytest.mark.parametrize("name", COSSL)
def test_classifier(name, caught):
    """cRT leaves features as they are, TFE blends those of the smallest class."""
    head, f_x, f_u = torch.nn.Linear(8, 10), normal(1, (16, 8)), 50 * normal(2, (16, 8))
    y = torch.full((16,), 9)
    for flags, blends in (([], True), (["--classifier", "crt"], False)):
        learner = caught(name, *flags)["cossl"][0][1]
        torch.manual_seed(0)
        numbers = {name: torch.from_numpy(number) for name, number in learner.draw(0, len(y)).items()}
        loss, _ = learner.loss(head, f_x, y, f_u, numbers)
        assert torch.allclose(loss, cross_entropy(head(f_x), y)) != blends


def test_lr_tfe_changes_the_warm_up(caught):
    heads = []
    for lr in (0.002, 0.2):
        (_, _, _, objects, *_, prepare), _ = caught("train_cifar_fix_cossl", "--lr_tfe", lr)["fit"]
        before = objects["teacher_head"].weight.detach().clone()
        prepare()
        heads.append(objects["teacher_head"].weight.detach() - before)
    assert heads[1].abs().mean() > 5 * heads[0].abs().mean() > 0


FIGURES = dict.fromkeys(SCALARS, 50.0) | {"recall": [50.0], "confusion": torch.tensor([[1]])}


def loop_args(out, epochs, **changed):
    usual = {"val_iteration": 2, "manualSeed": 0, "lr": 0.1, "overwrite": False, "resume": None, "copy_every": 100}
    usual |= {"time_limit": None, "graph": False}
    return Namespace(out=out, epochs=epochs, **usual | changed)


def loop(args, start=None, first_copy=1, steps=None):
    def step(t):
        if steps is not None:
            steps.append(t)
        return {"loss": torch.tensor(float(t))}

    objects, batches = {"state_dict": torch.nn.Linear(1, 1)}, SimpleNamespace(at=lambda t: t)
    fit(step, batches, lambda: dict(FIGURES), objects, args, {"method": "toy"}, start, first_copy=first_copy)


@pytest.mark.parametrize(
    ("every", "first_copy", "copies"), [(100, 1, {1, 101}), (100, 101, {101}), (40, 1, {1, 41, 81}), (102, 103, set())]
)
def test_copies(every, first_copy, copies, tmp_path):
    loop(loop_args(tmp_path, 102, copy_every=every), first_copy=first_copy)
    assert {path.name for path in tmp_path.glob("*.tar")} == {
        "checkpoint.pth.tar",
        *(f"checkpoint_{n}.pth.tar" for n in copies),
    }
    for n in copies:
        assert load_checkpoint(tmp_path / f"checkpoint_{n}.pth.tar")["epoch"] == n


def test_epochs_count_on_from_a_published_checkpoint(tmp_path):
    """It has no history; steps, log and best epoch go on from its epoch all the same."""
    steps = []
    start = {"epoch": 400, "state_dict": torch.nn.Linear(1, 1).state_dict()}
    loop(loop_args(tmp_path, 402), start, steps=steps)
    assert steps == [800, 801, 802, 803]
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["401", "800.5"], ["402", "802.5"]]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["best"]["epoch"], summary["epochs"], summary["epochs_averaged"]) == (401, 2, 2)


def test_a_resumed_run_gets_the_batches_of_one_that_was_not_interrupted(tmp_path):
    """Their numbers are a function of the step, whatever the process has drawn before."""
    images = Images(np.random.RandomState(0).randint(0, 256, (20, 3, 16, 16)).astype(np.uint8), np.zeros(20, np.int64))
    pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    stream = Stream("toy", pixels, np.arange(20), ("strong",), 4, 3)
    drawn = {}

    def run(out, epochs, start=None):
        def step(batch):
            torch.rand(5)
            (view,) = batch.labelled.views
            drawn[out.name].append((batch.numbers["number"].item(), view.sum().item()))
            return {"loss": batch.numbers["number"]}

        draw = lambda t, rows: {"number": torch.rand(()).numpy()}
        objects = {"state_dict": torch.nn.Linear(1, 1)}
        args, batches = loop_args(out, epochs, manualSeed=3), Batches({"labelled": stream}, [draw], 3)
        drawn.setdefault(out.name, [])
        fit(step, batches, lambda: dict(FIGURES), objects, args, {}, start)

    run(tmp_path / "a", 2)
    run(tmp_path / "b", 1)
    torch.rand(7)
    start = load_checkpoint(tmp_path / "b" / "checkpoint.pth.tar") | {FOUND: stamp(tmp_path / "b")}
    run(tmp_path / "b", 2, start)
    assert drawn["a"] == drawn["b"]
    assert len(set(drawn["a"])) == 4

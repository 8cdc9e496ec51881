"""What the flags of a recipe reach, and the training loop by itself: copies of checkpoints, counting of epochs."""

import importlib
import inspect
import json
import sys
import zipfile
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
from methods import learners
from methods.averaged import STUDENT, TEACHER, Averaged
from methods.step import CO_LEARNING, Step
from methods.step import PRETRAINING as FIRST
from training.run import Run, open_run, saved_objects

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
        "FixMatch+CoSSL", ["--tau", 0.7], {"tau": 0.7}, weights={}, shrink=0, head_lr=0.03, learner=WEAK
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
    """Run a recipe's `main` up to the training loop: what it passes to `Run.fit`, and to the functions in between.

    ssl: the SSL method's hyper-parameters by name; made: the method.
    """

    def run(name, *flags):
        recipe, calls = importlib.import_module(name), {}
        resume = ["--resume", start(name)] if name in COSSL else []

        def watch(name, place):
            original = getattr(place, name)

            @wraps(original)
            def watched(*args, **kwargs):
                calls[name] = args, kwargs
                result = original(*args, **kwargs)
                if name in METHODS:
                    calls["ssl"], calls["made"] = inspect.signature(original).bind(*args, **kwargs).arguments, result
                return result

            monkeypatch.setattr(place, name, watched)

        def fit(self, step, predict, data, steps, student, teacher=None, before=None):
            objects = saved_objects(step, student, teacher)
            calls.update(locals(), args=self.args, stage1=self.stage1, run_start=self.start)

        watch("tfe", recipe if hasattr(recipe, "tfe") else learners)
        for watched in ("ssl_step", "cossl_step", "warm_up", "warm_up_on_batches", *METHODS):
            if hasattr(recipe, watched):
                watch(watched, recipe)
        monkeypatch.setattr(Run, "fit", fit)
        argv = [*tiny(name), *FLAGS, *({**PRETRAINING, **COSSL})[name].flags, "--out", tmp_path / "out", *flags]
        monkeypatch.setattr(sys, "argv", ["recipe", *map(str, [*argv, *resume])])
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
    student, data, ssl, method, step = (calls[name] for name in ("student", "data", "ssl", "made", "step"))
    assert calls["ssl_step"] == ((method, student), {"labeller": student.live})
    assert calls["predict"] is student.ema
    assert fixed(ssl) == expected.bound
    assert (data.labelled.wanted, data.unlabelled.wanted) == (expected.labelled, expected.unlabelled)
    assert (student.decay, student.shrink) == (0.9, pytest.approx(0.02 * LR))
    assert hyper(student.optimizer) == [(LR, 0)]
    batches, args = data.batches(step.streams, *step.draws), calls["args"]
    assert batches.streams == {name: getattr(data, name) for name in FIRST}
    assert (batches.draws, batches.seed) == ((method.draw,), 1)
    assert tuple(calls["objects"]) == STUDENT + ("emp_distb_u",) * (name in ALIGNING)
    assert (args.epochs, calls["steps"], args.copy_every, calls["run_start"]) == (EPOCHS, STEPS, 7, None)
    assert (step.name, calls["stage1"], calls["before"]) == (expected.method, None, None)
    for t, share in ((0, 0), (EPOCHS * STEPS // 4, 0.25), (EPOCHS * STEPS // 2, 0.5), (EPOCHS * STEPS, 1)):
        weights = {key: share * value for key, value in expected.weights.items()}
        assert at_step(ssl, t) == pytest.approx(weights)
        drawn = method.draw(t, 16)
        assert {key: float(drawn[key]) for key in weights} == pytest.approx(weights)


@pytest.mark.parametrize("name", COSSL)
def test_cossl(name, caught, start):
    expected, calls = COSSL[name], caught(name, *HEAD)
    method, student, labeller, learner, teacher, features = calls["cossl_step"][0]
    data, ssl, step, objects = (calls[name] for name in ("data", "ssl", "step", "objects"))
    assert (calls["student"], calls["teacher"]) == (student, teacher)
    assert fixed(ssl) == expected.bound
    assert at_step(ssl, 0) == at_step(ssl, EPOCHS * STEPS) == expected.weights
    assert (student.decay, student.shrink) == (0.9, pytest.approx(expected.shrink))
    assert hyper(student.optimizer) == [(LR, pytest.approx(0.02 * LR))]
    assert (teacher.decay, teacher.shrink) == (0.9, 0)
    assert hyper(teacher.optimizer) == [(expected.head_lr, 0.01), (expected.head_lr, 0)]
    first = PRETRAINING[name.removesuffix("_cossl")]
    wanted = [stream.wanted for stream in (data.labelled, data.unlabelled, data.balanced, data.partners)]
    assert wanted == [first.labelled, first.unlabelled, expected.learner, expected.learner]
    counts, max_lam, _ = calls["tfe"][0]
    assert counts.tolist() == data.counts.tolist()
    assert max_lam == 0.7
    batches = data.batches(step.streams, *step.draws)
    assert batches.streams == {name: getattr(data, name) for name in CO_LEARNING}
    assert (batches.draws, batches.seed) == ((method.draw, learner.draw), 1)
    assert tuple(objects) == STUDENT + TEACHER + ("emp_distb_u",) * (name in ALIGNING)
    assert (step.name, calls["run_start"], calls["stage1"]["epoch"]) == (expected.method, None, 1)
    (images,), _ = next(data.tested.sweep(batch_size=8))
    with torch.no_grad():  # the live head labels, its average is evaluated, both on the momentum encoder
        teacher.live.weight.add_(1)
        assert torch.equal(labeller(images), teacher.live(student.ema.features(images)))
        assert torch.equal(calls["predict"](images), teacher.ema(features(images)))
        assert not torch.equal(labeller(images), calls["predict"](images))
    state = load_checkpoint(start(name))
    for key in ("state_dict", "ema_state_dict"):
        for entry, value in objects[key].state_dict().items():
            assert torch.equal(value, state[key][entry]), entry
    moments = objects["optimizer"].state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])


@pytest.mark.parametrize("name", [name for name in COSSL if name not in SMALL])
def test_warm_up(name, caught, monkeypatch):
    """Every image passes once, the labelled ones once more for the imprint, augmented anew; the head learns with
    --lr_tfe, whatever co-learning takes."""
    expected, calls = COSSL[name], caught(name, *HEAD)
    student, teacher, data = (calls[name] for name in ("student", "teacher", "data"))
    made = []

    def draw(rng, image, names, *args, **rest):
        made.append((image.tolist(), names, draw_rows(rng, image, names, *args, **rest)))
        return made[-1][-1].copy()

    monkeypatch.setattr("dataset.pixels.draw_rows", draw)
    calls["before"]()
    encoder, head, own_data, views, steps, batch_size, seed = calls["warm_up"][0]
    assert encoder == student.ema.features
    assert (head.live, head.ema, head.decay, head.shrink) == (teacher.live, teacher.ema, 0.9, 0)
    assert hyper(head.optimizer) == [(0.03, 0.01), (0.03, 0)]
    assert head.optimizer is not teacher.optimizer
    assert (own_data, steps, batch_size, seed) == (data, 6 * STEPS, 16, 1)
    labelled = data.labelled.members.tolist(), PRETRAINING[name.removesuffix("_cossl")].labelled
    assert [(image, names) for image, names, _ in made] == [
        labelled,
        labelled,
        (data.unlabelled.members.tolist(), expected.swept),
    ]
    assert views == expected.swept
    assert not np.array_equal(made[0][2], made[1][2])


def test_warm_up_on_batches(caught):
    """By the learner of co-learning, on the same sets in batches of its own, with --lr_tfe."""
    calls = caught(SMALL[1], *HEAD)
    student, teacher, data, step = (calls[name] for name in ("student", "teacher", "data", "step"))
    co_batches = data.batches(step.streams, *step.draws)
    calls["before"]()
    encoder, head, learner, batches, steps = calls["warm_up_on_batches"][0]
    assert (encoder, learner) == (student.ema.features, calls["cossl_step"][0][3])
    assert (head.live, head.ema, head.decay, head.shrink) == (teacher.live, teacher.ema, 0.9, 0)
    assert hyper(head.optimizer) == [(0.03, 0.01), (0.03, 0)]
    assert head.optimizer is not teacher.optimizer
    assert steps == 6 * STEPS
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
def test_align_aims_at_the_labelled_counts(name, caught):
    """Not at their shares, beside which the 1e-6 of the alignment would count."""
    assert caught(name)["ssl"]["target"] is None
    calls = caught(name, "--align")
    bound = calls["ssl"]
    assert bound["target"].tolist() == calls["data"].counts.tolist()
    assert bound["running_mean"] is calls["objects"]["emp_distb_u"]


@pytest.mark.parametrize("name", COSSL)
def test_classifier(name, caught):
    """cRT leaves features as they are, TFE blends those of the smallest class."""
    head, f_x, f_u = torch.nn.Linear(8, 10), normal(1, (16, 8)), 50 * normal(2, (16, 8))
    y = torch.full((16,), 9)
    for flags, blends in (([], True), (["--classifier", "crt"], False)):
        learner = caught(name, *flags)["cossl_step"][0][3]
        torch.manual_seed(0)
        numbers = {name: torch.from_numpy(number) for name, number in learner.draw(0, len(y)).items()}
        loss, _ = learner.loss(head, f_x, y, f_u, numbers)
        assert torch.allclose(loss, cross_entropy(head(f_x), y)) != blends


def test_lr_tfe_changes_the_warm_up(caught):
    heads = []
    for lr in (0.002, 0.2):
        calls = caught("train_cifar_fix_cossl", "--lr_tfe", lr)
        weight = calls["objects"]["teacher_head"].weight.detach()
        before = weight.clone()
        calls["before"]()
        heads.append(weight - before)
    assert heads[1].abs().mean() > 5 * heads[0].abs().mean() > 0


TOY_FACTS = {"classes": ["a"], "labelled_counts": [1], "unlabelled_counts": None, "unlabelled": 1}
TOY_FACTS |= {"img_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}


def loop(out, epochs, step, batches, teacher=None, **changed):
    """Train a toy by `Run.fit`."""
    usual = {"val_iteration": 2, "manualSeed": 0, "lr": 0.1, "overwrite": False, "resume": None, "copy_every": 100}
    usual |= {"time_limit": None, "rank_timeout": 30, "graph": False, "gpu": "cpu", "recipe": "toy"}
    usual |= {"schedule": "published"}
    network = torch.nn.Linear(1, 1)
    student = Averaged(network, torch.optim.SGD(network.parameters(), 0.1), 0.9)
    data = SimpleNamespace(
        batches=lambda *_: batches,
        evaluated=lambda: {"test": [(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))]},
        counts=[1],
        tested_batches=lambda: None,
        facts=lambda: dict(TOY_FACTS),
        machine=dict,
    )
    with open_run(Namespace(out=out, epochs=epochs, **usual | changed)) as run:
        run.fit(Step("toy", step, (), (), {}), student.ema, data, 2, student, teacher and student)


def numbered(steps: list):
    """A step that notes its number, and the batches that give it."""

    def step(t):
        steps.append(t)
        return {"loss": torch.tensor(float(t))}

    return step, SimpleNamespace(at=lambda t: t)


@pytest.mark.parametrize(
    ("every", "co_learns", "copies"),
    [(100, False, {1, 101}), (100, True, {101}), (40, False, {1, 41, 81}), (102, True, set())],
)
def test_copies(every, co_learns, copies, tmp_path):
    loop(tmp_path, 102, *numbered([]), teacher=co_learns, copy_every=every)
    assert {path.name for path in tmp_path.glob("*.tar")} == {
        "checkpoint.pth.tar",
        *(f"checkpoint_{n}.pth.tar" for n in copies),
    }
    for n in copies:
        assert load_checkpoint(tmp_path / f"checkpoint_{n}.pth.tar")["epoch"] == n


def test_a_checkpoint_grows_by_a_number_per_figure_and_epoch(tmp_path):
    """And not by entries of its archive, each of which takes time and hundreds of bytes."""

    def step(t):
        return {
            "loss": torch.tensor(float(t)),
            "mask": torch.tensor(1.0),
            "pseudo": torch.ones(5, 1, dtype=torch.int64),
        }

    loop(tmp_path, 33, step, SimpleNamespace(at=lambda t: t), copy_every=8)
    names = [f"checkpoint_{n}.pth.tar" for n in (1, 17, 33)]
    entries, sizes = set(), []
    for name in names:
        with zipfile.ZipFile(tmp_path / name) as archive:
            entries.add(len(archive.infolist()))
            sizes.append(sum(entry.file_size for entry in archive.infolist()))
    columns = (tmp_path / "log.txt").read_text().splitlines()[0].split("\t")
    assert len(entries) == 1
    numbers = len(columns) - 1 + 1 + 5  # without the epoch's; recall and counts of one class
    assert sizes[2] - sizes[1] == pytest.approx(16 * 8 * numbers, abs=100)


def test_epochs_count_on_from_a_published_checkpoint(tmp_path):
    """It has no history; steps, log and best epoch go on from its epoch all the same."""
    steps = []
    loop(tmp_path / "ours", 1, *numbered([]))
    state = load_checkpoint(tmp_path / "ours" / "checkpoint.pth.tar")
    published = {key: state[key] for key in STUDENT} | {"epoch": 400}
    torch.save(published, tmp_path / "published.pth.tar")
    loop(tmp_path / "on", 402, *numbered(steps), resume=tmp_path / "published.pth.tar")
    assert steps == [800, 801, 802, 803]
    lines = (tmp_path / "on" / "log.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["401", "800.5"], ["402", "802.5"]]
    summary = json.loads((tmp_path / "on" / "summary.json").read_text())
    assert (summary["best"]["epoch"], summary["epochs"], summary["epochs_averaged"]) == (401, 402, 1)


def test_a_resumed_run_gets_the_batches_of_one_that_was_not_interrupted(tmp_path):
    """Their numbers are a function of the step, whatever the process has drawn before."""
    images = Images(np.random.RandomState(0).randint(0, 256, (20, 3, 16, 16)).astype(np.uint8), np.zeros(20, np.int64))
    pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    stream = Stream("toy", pixels, np.arange(20), ("strong",), 4, 3)
    drawn = {"a": [], "b": []}

    def run(name, epochs, resume=None):
        def step(batch):
            torch.rand(5)
            (view,) = batch.labelled.views
            drawn[name].append((batch.numbers["number"].item(), view.sum().item()))
            return {"loss": batch.numbers["number"]}

        draw = lambda t, rows: {"number": torch.rand(()).numpy()}
        batches = Batches({"labelled": stream}, [draw], 3)
        loop(tmp_path / f"{name}{epochs}", epochs, step, batches, manualSeed=3, resume=resume)

    run("a", 2)
    run("b", 1)
    torch.rand(7)
    run("b", 2, tmp_path / "b1" / "checkpoint.pth.tar")
    assert drawn["a"] == drawn["b"]
    assert len(set(drawn["a"])) == 4

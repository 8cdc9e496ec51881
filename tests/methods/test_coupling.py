"""What makes CoSSL CoSSL: who labels for whom, what is blended, and where no gradient flows."""

import copy
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.golden import integers, normal
from helpers.scripts import ROOT, handed_to_fit
from torch.nn.functional import cross_entropy

from dataset.batches import Batch, Minibatch
from methods import fixmatch, mixmatch, remixmatch, supervised
from methods.averaged import Averaged
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.pseudo_labels import ROWS as COUNTED
from methods.pseudo_labels import PseudoLabels, quality, tally
from methods.step import CO_LEARNING, PRETRAINING, Step, cossl_step, ssl_step
from models.wrn import WideResNet

CLASSES, ROWS = 4, 6
RECIPES = sorted(path.name for path in ROOT.glob("train_*_*.py"))
OTHERWISE = ("fix_crest", "fix_prior", "fix_abc", "fix_acr", "fix_cdmad")  # see tests/runs/test_otherwise.py
COSSL_RECIPES = [name for name in RECIPES if "cossl" in name and "prior" not in name]
PRETRAINING_RECIPES = [name for name in RECIPES if not any(part in name for part in ("cossl", *OTHERWISE))]
COUNTS = torch.tensor([40, 20, 10, 2])
# Which parts of the loss depend on the guesses: MixUp blends them into the labelled rows' targets, too.
GUESSED = {
    "fixmatch": {"loss_u"},
    "mixmatch": {"loss_x", "loss_u"},
    "remixmatch": {"loss_x", "loss_u", "loss_ent"},
}


def constant(seed: int, views: int) -> Minibatch:
    """A minibatch that depends on nothing but its seed."""
    return Minibatch([normal(seed + v, (ROWS, 3, 16, 16)) for v in range(views)], integers(seed, CLASSES, ROWS))


def every_method(**weights) -> dict:
    """The SSL methods; weights: lambda_u and w_ent, 1.5 and 0.5 unless given."""
    mix = {"T": 0.5, "alpha": 0.75, "lambda_u": weights.get("lambda_u", lambda t: 1.5)}
    state = {"running_mean": remixmatch.RunningMean(CLASSES), "target": COUNTS / COUNTS.sum()}
    return {
        "fixmatch": fixmatch.fixmatch(tau=0.0),
        "mixmatch": mixmatch.mixmatch(**mix),
        "remixmatch": remixmatch.remixmatch(**mix, w_rot=0.5, w_ent=weights.get("w_ent", lambda t: 0.5), **state),
        "supervised": supervised.supervised(),
    }


def build(name: str, **weights) -> SimpleNamespace:
    """Network, head, images and the SSL method; two worlds of one method are equal."""
    torch.manual_seed(0)
    network, head = WideResNet(CLASSES, depth=10, width=1), torch.nn.Linear(64, CLASSES)
    method = every_method(**weights)[name]
    return SimpleNamespace(
        method=method,
        guessed=GUESSED.get(name),
        student=Averaged(network, torch.optim.Adam(network.parameters(), 0.002), 0.9),
        teacher=Averaged(head, torch.optim.Adam(decay_all_but_bias(head, 5e-4), 0.002), 0.9),
        images={
            "labelled": constant(1, len(method.views["labelled"])),
            "unlabelled": constant(10, len(method.views["unlabelled"])),
            "balanced": constant(20, 1),
            "partners": constant(30, 1),
        },
    )


def batch_of(world, *learners, t: int = 0) -> Batch:
    """The world's images with the numbers of step t, the same at every call."""
    torch.manual_seed(1)
    drawn = {name: number for part in (world.method, *learners) for name, number in part.draw(t, ROWS).items()}
    return Batch({name: torch.from_numpy(number) for name, number in drawn.items()}, **world.images)


@pytest.fixture(params=GUESSED)
def world(request):
    return build(request.param)


def pretraining(world) -> Step:
    return ssl_step(world.method, world.student, labeller=world.student.live)


def co_learning(world, learner) -> Step:
    """Coupled as in the recipes, see `test_recipes_couple_as_the_paper_says`."""
    features = world.student.ema.features
    labeller = lambda images: world.teacher.live(features(images))
    return cossl_step(world.method, world.student, labeller, learner, world.teacher, features)


def step_logs(world):
    learner = tfe(COUNTS, 0.6)
    return co_learning(world, learner)(batch_of(world, learner))


def changed(world, other):
    """Which parts of the losses of one step differ between two worlds."""
    a, b = step_logs(world), step_logs(other)
    return {name for name in a if name.startswith("loss_") and a[name] != b[name]}


def test_the_balanced_head_makes_the_pseudo_labels(world):
    """Another head: other guesses and its own loss, nothing else."""
    other = copy.deepcopy(world)
    other.teacher.live.weight.data.neg_()
    assert changed(world, other) == world.guessed | {"loss_head"}


def test_neither_the_networks_own_classifier_nor_the_heads_average_labels(world):
    other = copy.deepcopy(world)
    other.student.ema.output.weight.data.neg_()
    other.teacher.ema.weight.data.neg_()
    assert changed(world, other) == set()


def test_the_momentum_encoder_feeds_labels_and_head(world):
    other = copy.deepcopy(world)
    other.student.ema.init_conv.weight.data.neg_()
    assert changed(world, other) == world.guessed | {"loss_head"}


def test_the_momentum_encoder_works_in_eval_mode(world):
    """No step moves the counters of its BatchNorm layers, which average() leaves alone."""
    step_logs(world)
    assert world.student.ema.state_dict()["unit4.0.num_batches_tracked"] == 0
    assert world.student.live.state_dict()["unit4.0.num_batches_tracked"] > 0


@pytest.mark.parametrize("script", COSSL_RECIPES)
def test_recipes_couple_as_the_paper_says(script, tiny, pretrained_by, monkeypatch, tmp_path):
    """The live head on the momentum encoder labels; the head's average on it is evaluated."""
    recipe, coupled = importlib.import_module(Path(script).stem), SimpleNamespace()

    def cossl_step_of_recipe(method, student, labeller, learner, teacher, features):
        coupled.__dict__.update(labeller=labeller, features=features)
        return cossl_step(method, student, labeller, learner, teacher, features)

    monkeypatch.setattr(recipe, "cossl_step", cossl_step_of_recipe)
    start = ["--resume", pretrained_by(script.replace("_cossl", "")) / "checkpoint.pth.tar"]
    align = ["--align"] if "remix" in script else []
    handed = handed_to_fit(script, *tiny(script), *start, *align, "--out", tmp_path / "out")
    student, teacher, images = handed.student, handed.teacher, normal(3, (5, 3, 32, 32))

    def assert_coupled():
        features = student.ema.features(images)
        torch.testing.assert_close(coupled.features(images), features)
        torch.testing.assert_close(coupled.labeller(images), teacher.live(features))
        torch.testing.assert_close(handed.predict(images), teacher.ema(features))

    assert_coupled()
    before = [function(images) for function in (coupled.labeller, handed.predict)]
    teacher.live.weight.data.add_(1)
    assert_coupled()
    student.live.load_state_dict({name: value + 1 for name, value in student.live.state_dict().items()})
    assert_coupled()
    assert not coupled.labeller(images).allclose(before[0])
    torch.testing.assert_close(handed.predict(images), before[1])
    teacher.ema.weight.data.add_(2)
    assert_coupled()
    assert not handed.predict(images).allclose(before[1])
    assert not (student.ema.training or teacher.ema.training)
    assert handed.step.streams == CO_LEARNING
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", PRETRAINING_RECIPES)
def test_pretraining_recipes_label_with_the_live_network_and_evaluate_its_average(script, tiny, monkeypatch, tmp_path):
    recipe, labellers = importlib.import_module(Path(script).stem), []

    def ssl_step_of_recipe(method, student, labeller):
        labellers.append(labeller)
        return ssl_step(method, student, labeller)

    monkeypatch.setattr(recipe, "ssl_step", ssl_step_of_recipe)
    handed = handed_to_fit(script, *tiny(script), "--out", tmp_path / "out")
    assert labellers == [handed.student.live]
    assert handed.predict is handed.student.ema
    assert not handed.predict.training
    assert (handed.step.streams, handed.teacher, handed.before) == (PRETRAINING, None, None)


def test_tfe_blends_tail_rows_and_leaves_the_largest_class_alone():
    seen = []

    class Head(torch.nn.Linear):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    y = torch.arange(CLASSES).repeat(500)
    f_x, f_u = normal(1, (len(y), 8)), normal(2, (len(y), 8))
    torch.manual_seed(0)
    learner = tfe(COUNTS, 0.6)
    numbers = {name: torch.from_numpy(number) for name, number in learner.draw(0, len(y)).items()}
    learner.loss(Head(8, CLASSES), f_x, y, f_u, numbers)
    changed = (seen[0] != f_x).any(dim=1)
    assert not changed[y == 0].any()
    for c in (1, 2, 3):  # (n_max - n_c) / n_max = 0.5, 0.75, 0.95
        assert changed[y == c].float().mean().item() == pytest.approx(1 - COUNTS[c].item() / 40, abs=0.06)
    lam = ((seen[0] - f_u) / (f_x - f_u))[changed].median(dim=1).values
    assert 0.6 <= lam.min() < 0.62
    assert 0.98 < lam.max() <= 1.0001
    assert lam.mean().item() == pytest.approx(0.8, abs=0.02)


def test_crt_blends_nothing():
    head, f_x, y = torch.nn.Linear(8, CLASSES), normal(1, (ROWS, 8)), integers(1, CLASSES, ROWS)
    assert crt().draw(0, ROWS) == {}
    loss, _ = crt().loss(head, f_x, y, normal(2, (ROWS, 8)), {})
    torch.testing.assert_close(loss, cross_entropy(head(f_x), y))


def test_no_gradient_crosses_between_the_modules(world):
    losses = {}
    world.student.descend = lambda loss: losses.update(ssl=loss)
    world.teacher.descend = lambda loss: losses.update(head=loss)
    step_logs(world)
    of = {"ssl": list(world.student.live.parameters()), "head": list(world.teacher.live.parameters())}
    for loss, own, other in (("ssl", "ssl", "head"), ("head", "head", "ssl")):
        reached = torch.autograd.grad(losses[loss], of[own], retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in reached)
        crossed = torch.autograd.grad(losses[loss], of[other], retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in crossed)
    averages = [*world.student.ema.parameters(), *world.teacher.ema.parameters()]
    assert not any(parameter.requires_grad for parameter in averages)


def test_fixmatch_keeps_confident_guesses_only():
    """Against a loop over images, with a labeller whose confidences lie on both sides of tau."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, CLASSES))
    x, weak, *strong = (normal(seed, (ROWS, 3, 2, 2)) for seed in range(4))
    y = integers(5, CLASSES, ROWS)
    logits = 3 * normal(9, (ROWS, CLASSES))
    batch = Batch({}, Minibatch([x], y), Minibatch([weak, *strong], None))
    loss, logs, pseudo = fixmatch.fixmatch(tau=0.8).loss(model, lambda images: logits, batch)
    total = 0.0
    for i, row in enumerate(logits.softmax(1)):
        assert pseudo.guess[i] == row.argmax()
        assert pseudo.selected[i] == (row.max() >= 0.8)
        if row.max() >= 0.8:
            total += sum(-model(view[i : i + 1]).log_softmax(1)[0, row.argmax()] for view in strong)
    assert 0 < pseudo.selected.sum() < ROWS
    torch.testing.assert_close(logs["loss_u"], total / (2 * ROWS))
    torch.testing.assert_close(loss, logs["loss_x"] + logs["loss_u"])


def test_figures_of_the_guesses():
    guess, truth = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 1, 3])
    selected = torch.tensor([False, True, True, False])
    figures = lambda *pseudo, truth=truth: {
        name: value.item() for name, value in quality(PseudoLabels(*pseudo), truth).items() if name != "pseudo"
    }
    assert figures(guess, 4, selected) == {"mask": 0.5, "acc_u": 0.75, "acc_selected": 0.5}
    assert figures(guess, 4, selected & False) == {"mask": 0, "acc_u": 0.75, "acc_selected": 0}
    assert figures(guess, 4) == {"acc_u": 0.75}
    assert figures(guess, 4, selected, truth=None) == {"mask": 0.5}
    assert quality(None, truth) == {}


@pytest.mark.parametrize("seed", range(3))
def test_tally_against_a_loop(seed):
    classes, images = 5, 40
    guess, truth = integers(seed, classes, images), integers(seed + 9, classes - 1, images)  # one class has no image
    selected = integers(seed + 20, 2, images).bool()
    expected = {name: [0] * classes for name in COUNTED}
    for g, y, used in zip(guess.tolist(), truth.tolist(), selected.tolist(), strict=True):
        expected["guessed"][g] += 1
        expected["selected"][g] += used
        expected["present"][y] += 1
        expected["right"][y] += g == y
        expected["right_selected"][y] += g == y and used
    pseudo = PseudoLabels(guess, classes, selected)
    assert tally(pseudo, truth).tolist() == list(expected.values())
    assert tally(pseudo, None).tolist() == [expected["guessed"], expected["selected"]]
    assert tally(PseudoLabels(guess, classes), None).tolist() == [expected["guessed"]] * 2


@pytest.mark.parametrize(
    "name, labelled, unlabelled",
    [
        ("fixmatch", ("weak",), ("weak", "strong", "strong")),
        ("mixmatch", ("weak",), ("weak", "weak")),
        ("remixmatch", ("strong",), ("weak", "strong", "strong")),
        ("supervised", ("weak",), ()),
    ],
)
def test_views_as_published(name, labelled, unlabelled):
    assert every_method()[name].views == {"labelled": labelled, "unlabelled": unlabelled}


@pytest.mark.parametrize(
    "method, passes",
    [
        ("fixmatch", 2),  # weak views, then everything with a loss
        ("mixmatch", 5),  # both weak views; the labelled and the two unlabelled batches
        ("remixmatch", 7),  # weak view; four batches; turned and unturned strong view
        ("supervised", 1),
    ],
)
def test_pretraining_labels_with_the_live_network_in_train_mode(method, passes):
    """As published: each pass, those that make the guesses included, moves the BatchNorm statistics."""
    world = build(method)
    network = world.student.live.eval()
    pretraining(world)(batch_of(world))
    assert network.state_dict()["unit4.0.num_batches_tracked"] == passes


@pytest.mark.parametrize("name", ["mixmatch", "remixmatch"])
def test_the_schedule_of_pretraining_reaches_the_method_at_each_step(name):
    world = build(name, lambda_u=lambda t: t / 4, w_ent=lambda t: 1 / (t + 1))
    step = pretraining(world)
    for t in (0, 3, 9):
        logs = step(batch_of(world, t=t))
        expected = logs["loss_x"] + t / 4 * logs["loss_u"]
        if name == "remixmatch":
            expected = expected + 0.5 * logs["loss_rot"] + 1 / (t + 1) * logs["loss_ent"]
        torch.testing.assert_close(logs["loss"], expected)


def co_learning_by_crt(world) -> Step:
    return co_learning(world, crt())


@pytest.mark.parametrize(
    "stage, names", [(pretraining, {"loss"}), (co_learning_by_crt, {"loss", "loss_head", "acc_head"})]
)
def test_supervised_learns_from_labelled_images_alone(stage, names):
    """Loss and gradient are those of cross-entropy, and unlabelled images, were there any, change nothing."""
    world = build("supervised")
    world.images["unlabelled"] = constant(10, 3)
    for view in world.images["unlabelled"].views:
        view.fill_(torch.nan)
    losses = []
    world.student.descend = losses.append
    logs = stage(world)(batch_of(world))
    ((x,), y), network = world.images["labelled"], world.student.live
    expected = cross_entropy(network(x), y)
    assert set(logs) == names
    torch.testing.assert_close(logs["loss"], expected)
    gradients = [torch.autograd.grad(loss, network.parameters(), allow_unused=True) for loss in (*losses, expected)]
    torch.testing.assert_close(*gradients)

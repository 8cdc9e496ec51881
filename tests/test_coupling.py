"""What makes CoSSL CoSSL: who labels for whom, what is blended, and where no gradient flows."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import integers, normal
from torch.nn.functional import cross_entropy

from methods import fixmatch, mixmatch, remixmatch, supervised
from methods.averaged import Averaged
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.cossl import cossl
from methods.pretrain import pretrain
from methods.pseudo_labels import ROWS as COUNTED
from methods.pseudo_labels import PseudoLabels, quality, tally
from models.wrn import WideResNet

CLASSES, ROWS = 4, 6
COUNTS = torch.tensor([40, 20, 10, 2])
# Which parts of the loss depend on the guesses: MixUp blends them into the labelled rows' targets, too.
GUESSED = {
    "fixmatch": {"loss_u"},
    "mixmatch": {"loss_x", "loss_u"},
    "remixmatch": {"loss_x", "loss_u", "loss_ent"},
}


class Constant:
    """A stream whose batch depends on nothing but its seed."""

    def __init__(self, seed: int, views: int):
        self.batch = [normal(seed + v, (ROWS, 3, 16, 16)) for v in range(views)], integers(seed, CLASSES, ROWS)

    def at(self, t):
        return self.batch


def build(method: str) -> SimpleNamespace:
    """Network, head, streams and the SSL method; two worlds of one method are equal."""
    torch.manual_seed(0)
    network, head = WideResNet(CLASSES, depth=10, width=1), torch.nn.Linear(64, CLASSES)
    mix = {"T": 0.5, "alpha": 0.75, "lambda_u": 1.5}
    state = {"running_mean": remixmatch.RunningMean(CLASSES), "target": COUNTS / COUNTS.sum()}
    ssl, views = {
        "fixmatch": (partial(fixmatch.fixmatch, tau=0.0), fixmatch.VIEWS),
        "mixmatch": (partial(mixmatch.mixmatch, **mix), mixmatch.VIEWS),
        "remixmatch": (partial(remixmatch.remixmatch, **mix, w_rot=0.5, w_ent=0.5, **state), remixmatch.VIEWS),
        "supervised": (supervised.supervised, supervised.VIEWS),
    }[method]
    return SimpleNamespace(
        ssl=ssl,
        guessed=GUESSED.get(method),
        student=Averaged(network, torch.optim.Adam(network.parameters(), 0.002), 0.9),
        teacher=Averaged(head, torch.optim.Adam(decay_all_but_bias(head, 5e-4), 0.002), 0.9),
        streams=SimpleNamespace(
            labelled=Constant(1, len(views["labelled"])),
            unlabelled=Constant(10, len(views["unlabelled"])),
            balanced=Constant(20, 1),
            partners=Constant(30, 1),
        ),
    )


@pytest.fixture(params=GUESSED)
def world(request):
    return build(request.param)


def step_logs(world):
    step, _ = cossl(world.ssl, tfe(COUNTS, 0.6), world.student, world.teacher, world.streams)
    torch.manual_seed(1)
    return step(0)


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


def test_prediction_is_the_averaged_head_on_the_momentum_encoder():
    world = build("fixmatch")
    _, predict = cossl(world.ssl, crt(), world.student, world.teacher, world.streams)
    images = normal(3, (5, 3, 16, 16))
    torch.testing.assert_close(predict(images), world.teacher.ema(world.student.ema.features(images)))
    world.teacher.live.weight.data.add_(1)
    world.student.live.init_conv.weight.data.add_(1)
    torch.testing.assert_close(predict(images), world.teacher.ema(world.student.ema.features(images)))


def test_tfe_blends_tail_rows_and_leaves_the_largest_class_alone():
    seen = []

    class Head(torch.nn.Linear):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    y = torch.arange(CLASSES).repeat(500)
    f_x, f_u = normal(1, (len(y), 8)), normal(2, (len(y), 8))
    torch.manual_seed(0)
    tfe(COUNTS, 0.6)(Head(8, CLASSES), f_x, y, f_u)
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
    loss, _ = crt()(head, f_x, y, normal(2, (ROWS, 8)))
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
    loss, logs, pseudo = fixmatch.fixmatch(model, lambda images: logits, x, y, [weak, *strong], tau=0.8)
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
    "method, labelled, unlabelled",
    [
        (fixmatch, ("weak",), ("weak", "strong", "strong")),
        (mixmatch, ("weak",), ("weak", "weak")),
        (remixmatch, ("strong",), ("weak", "strong", "strong")),
        (supervised, ("weak",), ()),
    ],
)
def test_views_as_published(method, labelled, unlabelled):
    views = method.VIEWS
    assert views == {"labelled": labelled, "unlabelled": unlabelled}


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
    step, predict = pretrain(world.ssl, world.student, world.streams)
    step(0)
    assert network.state_dict()["unit4.0.num_batches_tracked"] == passes
    assert predict is world.student.ema
    assert not predict.training


def test_the_schedule_of_pretraining_reaches_the_method_at_each_step():
    world, seen = build("mixmatch"), []
    ssl = lambda *batch, **scheduled: seen.append(scheduled) or world.ssl(*batch, **scheduled)
    step, _ = pretrain(ssl, world.student, world.streams, lambda t: {"lambda_u": t / 4, "T": 1 / (t + 1)})
    for t in (0, 3, 9):
        logs = step(t)
        torch.testing.assert_close(logs["loss"], logs["loss_x"] + t / 4 * logs["loss_u"])
    assert seen == [{"lambda_u": t / 4, "T": 1 / (t + 1)} for t in (0, 3, 9)]


def pretraining(world):
    return pretrain(world.ssl, world.student, world.streams)


def co_learning(world):
    return cossl(world.ssl, crt(), world.student, world.teacher, world.streams)


@pytest.mark.parametrize("stage, names", [(pretraining, {"loss"}), (co_learning, {"loss", "loss_head", "acc_head"})])
def test_supervised_learns_from_labelled_images_alone(stage, names):
    """Loss and gradient are those of cross-entropy, and unlabelled images, were there any, change nothing."""
    world = build("supervised")
    world.streams.unlabelled = Constant(10, 3)
    for view in world.streams.unlabelled.batch[0]:
        view.fill_(torch.nan)
    losses = []
    world.student.descend = losses.append
    step, _ = stage(world)
    logs = step(0)
    ((x,), y), network = world.streams.labelled.at(0), world.student.live
    expected = cross_entropy(network(x), y)
    assert set(logs) == names
    torch.testing.assert_close(logs["loss"], expected)
    gradients = [torch.autograd.grad(loss, network.parameters(), allow_unused=True) for loss in (*losses, expected)]
    torch.testing.assert_close(*gradients)

"""What makes CoSSL CoSSL: who labels for whom, what is blended, and where no gradient flows."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import golden, integers, normal

from methods.classifier import crt, decay_all_but_bias, tfe
from methods.cossl import cossl
from methods.fixmatch import VIEWS, fixmatch, semi_loss
from methods.pretrain import pretrain
from methods.pseudo_labels import quality
from methods.ramp import linear_rampup
from models.wrn import WideResNet
from utils.averaged import Averaged

CLASSES, ROWS = 4, 6
COUNTS = torch.tensor([40, 20, 10, 2])


class Constant:
    """A stream whose batch depends on nothing but its seed."""

    def __init__(self, seed: int, views: int):
        self.batch = [normal(seed + v, (ROWS, 3, 16, 16)) for v in range(views)], integers(seed, CLASSES, ROWS)

    def at(self, t):
        return self.batch


@pytest.fixture
def world():
    torch.manual_seed(0)
    network, head = WideResNet(CLASSES, depth=10, width=1), torch.nn.Linear(64, CLASSES)
    return SimpleNamespace(
        student=Averaged(network, torch.optim.Adam(network.parameters(), 0.002), 0.9),
        teacher=Averaged(head, torch.optim.Adam(decay_all_but_bias(head, 5e-4), 0.002), 0.9),
        streams=SimpleNamespace(
            labelled=Constant(1, 1), unlabelled=Constant(10, 3), balanced=Constant(20, 1), partners=Constant(30, 1)
        ),
    )


def step_logs(world, classifier=None):
    classifier = classifier or tfe(COUNTS, 0.6)
    step, _ = cossl(partial(fixmatch, tau=0.0), classifier, world.student, world.teacher, world.streams)
    return step(0)


def test_the_balanced_head_makes_the_pseudo_labels(world):
    """Another head, another unlabelled loss; the labelled loss stays."""
    other = copy.deepcopy(world)
    other.teacher.live.weight.data.neg_()
    a, b = step_logs(world), step_logs(other)
    assert a["loss_u"] != b["loss_u"]
    assert a["loss_x"] == b["loss_x"]


def test_neither_the_networks_own_classifier_nor_the_heads_average_labels(world):
    other = copy.deepcopy(world)
    other.student.ema.output.weight.data.neg_()
    other.teacher.ema.weight.data.neg_()
    assert step_logs(world)["loss_u"] == step_logs(other)["loss_u"]


def test_the_momentum_encoder_feeds_labels_and_head(world):
    other = copy.deepcopy(world)
    other.student.ema.init_conv.weight.data.neg_()
    torch.manual_seed(1)
    a = step_logs(world)
    torch.manual_seed(1)
    b = step_logs(other)
    assert a["loss_u"] != b["loss_u"]
    assert a["loss_head"] != b["loss_head"]
    assert a["loss_x"] == b["loss_x"]


def test_prediction_is_the_averaged_head_on_the_momentum_encoder(world):
    _, predict = cossl(partial(fixmatch, tau=0.5), crt(), world.student, world.teacher, world.streams)
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
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(head(f_x), y))


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
    loss, logs, pseudo = fixmatch(model, lambda images: logits, x, y, [weak, *strong], tau=0.8)
    total = 0.0
    for i, row in enumerate(logits.softmax(1)):
        assert pseudo.guess[i] == row.argmax()
        assert pseudo.selected[i] == (row.max() >= 0.8)
        if row.max() >= 0.8:
            total += sum(-model(view[i : i + 1]).log_softmax(1)[0, row.argmax()] for view in strong)
    assert 0 < pseudo.selected.sum() < ROWS
    torch.testing.assert_close(logs["loss_u"], total / (2 * ROWS))
    torch.testing.assert_close(loss, logs["loss_x"] + logs["loss_u"])
    truth = pseudo.guess.clone()
    truth[0] = (truth[0] + 1) % CLASSES
    figures = quality(pseudo, truth)
    assert figures["acc_u"].item() == pytest.approx(1 - 1 / ROWS)
    assert figures["mask"].item() == pytest.approx(pseudo.selected.float().mean().item())


def test_views_fixmatch_asks_for():
    assert VIEWS == {"labelled": ("weak",), "unlabelled": ("weak", "strong", "strong")}


def test_pretraining_labels_with_the_live_network_in_train_mode(world):
    network = world.student.live.eval()
    step, predict = pretrain(partial(fixmatch, tau=0.5), world.student, world.streams)
    step(0)
    assert network.state_dict()["unit4.0.num_batches_tracked"] == 2  # weak views, then everything with a loss
    assert predict is world.student.ema
    assert not predict.training


def test_golden_ramp():
    for epoch, length, expected in golden("losses_ema_interleave.json")["linear_rampup"]:
        assert linear_rampup(epoch, length) == pytest.approx(expected)


def test_golden_loss():
    logits_x, logits_u = normal(1, (8, 10)), normal(2, (16, 10))
    target_x, target_u = normal(3, (8, 10)).softmax(1), normal(4, (16, 10)).softmax(1)
    losses = semi_loss(logits_x, target_x, logits_u, target_u, normal(5, (16,)) > 0)
    assert [loss.item() for loss in losses] == pytest.approx(golden("losses_ema_interleave.json")["fixmatch"])

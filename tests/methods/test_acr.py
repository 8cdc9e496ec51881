"""ACR: its adjustment's anchors, its masks, its loss as a loop, and how its estimate differs from the published one."""

from types import SimpleNamespace

import pytest
import torch
from helpers.golden import integers, normal
from torch.nn.functional import cross_entropy, one_hot

from dataset.batches import Batch, Minibatch
from dataset.long_tail import class_counts
from methods.acr import acr, adjustment, sure
from methods.prior import ClassPrior

CLASSES, ROWS, WIDTH = 4, 6, 5
COUNTS = torch.tensor([40.0, 20.0, 10.0, 2.0])


def test_the_adjustment_at_its_anchors():
    """Numbers of the formula for gamma 100 and 10 classes, exact counts."""
    labelled = torch.tensor([100 ** (-c / 9) for c in range(10)], dtype=torch.float64)
    labelled /= labelled.sum()
    uniform = torch.full_like(labelled, 0.1)
    found = [adjustment(shares, labelled).item() for shares in (labelled, uniform, labelled.flip(0))]
    assert found == pytest.approx([0.076, 0.814, 1.757], abs=1e-3)


def test_reversed_is_by_frequency():
    labelled = torch.tensor([10.0, 70.0, 20.0]) / 100
    flipped = torch.tensor([70.0, 10.0, 20.0]) / 100
    far, near = adjustment(flipped, labelled), adjustment(labelled, labelled)
    assert far > adjustment(torch.full((3,), 1 / 3), labelled) > near


def test_a_row_is_sure_if_any_head_is():
    high, low = torch.tensor([5.0, 0, 0]), torch.zeros(3)
    rows = {(a, b): sure(0.9, a[None], b[None]).item() for a in (high, low) for b in (high, low)}
    assert list(rows.values()) == [True, True, True, False]


def world(shares=None, adaptive=True, warm_up=0) -> SimpleNamespace:
    torch.manual_seed(0)
    body, standard, output = torch.nn.Linear(7, WIDTH), *(torch.nn.Linear(WIDTH, CLASSES) for _ in range(2))
    model = SimpleNamespace(features=lambda images: 2 * body(images[:, 0, 0]), output=output)
    prior = ClassPrior(COUNTS, 144, warm_up=warm_up, momentum=1.0)
    if shares is not None:
        prior.shares.copy_(shares / shares.sum())
    views = [normal(seed, (ROWS, 3, 2, 7)) for seed in range(4)]
    batch = Batch({}, Minibatch(views[:1], integers(0, CLASSES, ROWS)), Minibatch(views[1:], None))
    method = acr(0.8, standard, prior, adaptive)
    return SimpleNamespace(model=model, standard=standard, prior=prior, batch=batch, method=method)


@pytest.mark.parametrize("shares", [COUNTS, COUNTS.flip(0), torch.ones(CLASSES)])
def test_acr_as_a_loop(shares):
    it, log_pl = world(shares), (COUNTS / 72).log()
    _, logs, pseudo = it.method.loss(it.model, it.model.features, it.batch)
    strength = adjustment(it.prior(), COUNTS / 72).item()
    (x,), y = it.batch.labelled
    f_x, f_w, *f_s = (it.model.features(view) for view in (x, *it.batch.unlabelled.views))
    loss_x = cross_entropy(it.standard(f_x), y) + cross_entropy(it.model.output(f_x) + 2 * log_pl, y)
    torch.testing.assert_close(logs["loss_x"], loss_x)
    total, chosen = 0.0, []
    for i, f in enumerate(f_w):
        s, b = it.standard(f), it.model.output(f)
        for head, moved, other in ((it.standard, s - strength * log_pl, s), (it.model.output, s - 2 * log_pl, b)):
            use = max(moved.softmax(0).max(), other.softmax(0).max()) >= 0.8
            chosen.append(bool(use))
            total += sum(cross_entropy(head(v[i]), moved.argmax()).item() for v in f_s) if use else 0.0
    assert 0 < sum(chosen) < len(chosen)
    assert pseudo.selected.tolist() == chosen[1::2]
    assert logs["loss_u"].item() == pytest.approx(total / (2 * ROWS), rel=1e-5)


def test_uniform_labels_and_tied_heads_have_one_loss():
    it = world()
    it.prior.labelled.fill_(1 / CLASSES)
    it.standard.load_state_dict(it.model.output.state_dict())
    it.method = acr(0.4, it.standard, it.prior)
    _, logs, _ = it.method.loss(it.model, it.model.features, it.batch)
    (x,), y = it.batch.labelled
    f_x, f_w, *f_s = (it.model.features(view) for view in (x, *it.batch.unlabelled.views))
    p = it.model.output(f_w).softmax(dim=1)
    used, guess = p.amax(dim=1) >= 0.4, p.argmax(dim=1)
    assert 0 < used.sum() < ROWS
    one = [(cross_entropy(it.model.output(view), guess, reduction="none") * used).mean() for view in f_s]
    torch.testing.assert_close(logs["loss_u"], sum(one))  # two heads, mean over two views
    torch.testing.assert_close(logs["loss_x"], 2 * cross_entropy(it.model.output(f_x), y))


def test_until_it_is_warm_and_on_demand_the_adjustment_is_full():
    full = world(adaptive=False)
    losses = [it.method.loss(it.model, it.model.features, it.batch)[0] for it in (full, world(warm_up=100))]
    assert torch.equal(*losses)
    adapted = world(COUNTS)
    assert not torch.equal(adapted.method.loss(adapted.model, adapted.model.features, adapted.batch)[0], losses[0])


def test_the_estimate_is_of_the_balanced_head_s_sure_guesses():
    it = world()
    it.prior.momentum, it.method = 0.0, acr(0.4, it.standard, it.prior)
    it.method.loss(it.model, it.model.features, it.batch)
    p = it.model.output(it.model.features(it.batch.unlabelled.views[0])).softmax(dim=1)
    used = p.amax(dim=1) >= 0.4
    assert 0 < used.sum() < ROWS
    torch.testing.assert_close(it.prior.shares, one_hot(p[used].argmax(dim=1), CLASSES).float().mean(dim=0))


@pytest.mark.parametrize(("gamma", "right", "published"), [(-100, 1.757, 1.22), (100, 0.076, 0.46)])
def test_every_sure_guess_counts_for_the_adjustment(gamma, right, published):
    """Batches of 64 true labels. The published code notes only whether a batch has a class, which hides how the
    unlabelled images are distributed; the two numbers are its adjustments and those of the formula.
    """
    counts, truth = (torch.from_numpy(class_counts(n, 10, g)).float() for n, g in ((1500, 100), (3000, gamma)))
    rng = torch.Generator().manual_seed(0)
    guesses = one_hot(truth.multinomial(2000 * 64, replacement=True, generator=rng), 10).float()
    prior, presence = ClassPrior(counts, 64, momentum=0.0), guesses.reshape(2000, 64, 10).amax(dim=1).sum(dim=0)
    prior.update(guesses)
    assert adjustment(prior.shares, prior.labelled).item() == pytest.approx(right, abs=0.02)
    assert adjustment(presence / presence.sum(), prior.labelled).item() == pytest.approx(published, abs=0.02)

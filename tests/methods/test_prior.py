"""The estimated class distribution of the unlabelled images, against loops, and against known distributions."""

import math

import pytest
import torch
from helpers.golden import normal

from methods.prior import ClassPrior, entropy, with_prior
from methods.strength import FittedStrength

COUNTS = torch.tensor([50.0, 20.0, 7.0, 3.0])


def guesses(seed: int, rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def test_updates_as_a_loop_does():
    prior, expected = ClassPrior(COUNTS, 100, warm_up=0, momentum=0.9), [0.25] * 4
    for seed in range(90):
        q, past = guesses(seed), min(0.9, (2 + seed) / (11 + seed))
        prior.update(q)
        means = [sum(row[c] for row in q.tolist()) / 6 for c in range(4)]
        expected = [past * old + (1 - past) * new for old, new in zip(expected, means, strict=True)]
        torch.testing.assert_close(prior.shares.tolist(), expected, rtol=1e-5, atol=1e-6)
        assert prior.shares.sum().item() == pytest.approx(1)
    torch.testing.assert_close(prior(), prior.shares)
    torch.testing.assert_close(prior.of_all(), (80 * COUNTS / 80 + 100 * prior.shares) / 180)


def test_rows_that_do_not_count():
    prior, q = ClassPrior(COUNTS, 100, momentum=0.0), guesses(0)
    prior.update(q, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(prior.shares, torch.full((4,), 0.25))
    prior.update(q, torch.tensor([0, 1, 0, 0, 1, 0]) > 0)
    torch.testing.assert_close(prior.shares, (q[1] + q[4]) / 2)


def test_gathering_over_steps_as_simpro_is_published():
    prior, batches = ClassPrior(COUNTS, 100, momentum=0.9, every=3), [guesses(seed) for seed in range(6)]
    keep = [q.amax(dim=1) > 0.5 for q in batches]
    expected = torch.full((4,), 0.25)
    for t, (q, kept) in enumerate(zip(batches, keep, strict=True)):
        resumed = ClassPrior(COUNTS, 100, momentum=0.9, every=3)
        resumed.load_state_dict(prior.state_dict())
        prior = resumed
        prior.update(q, kept)
        if t % 3 == 2:
            rows = torch.cat([each[k] for each, k in zip(batches[t - 2 : t + 1], keep[t - 2 : t + 1], strict=True)])
            expected = 0.9 * expected + 0.1 * rows.mean(dim=0)
        torch.testing.assert_close(prior.shares, expected)


def test_until_it_is_warm_no_class_is_preferred():
    prior = ClassPrior(COUNTS, 100, warm_up=2, momentum=0.0)
    sure = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    prior.update(sure)
    assert torch.equal(prior(), torch.full((4,), 0.25))
    torch.testing.assert_close(prior.of_all(), (COUNTS + 25) / 180)  # of the labelled ones that is known
    prior.update(sure)
    torch.testing.assert_close(prior(), sure[0])


def test_a_collapsed_estimate_is_not_relied_on_and_can_recover():
    prior = ClassPrior(COUNTS, 100, warm_up=0, momentum=0.0, truth=torch.tensor([1.0, 1, 1, 1]))
    alone = torch.tensor([[1.0, 0, 0, 0]])
    prior.update(alone)
    assert prior.collapsed() and torch.equal(prior(), torch.full((4,), 0.25))
    assert torch.equal(prior.of_all(), torch.full((4,), 0.25))
    figures = prior.figures()
    assert figures["prior_collapsed"] == 1 and figures["prior_tv"] == pytest.approx(0.75)
    prior.update(torch.full((1, 4), 0.25))
    assert not prior.collapsed() and prior.figures()["prior_tv"] == 0
    assert entropy(torch.tensor([0.5, 0.5, 0.0])) == pytest.approx(math.log(2))
    assert "prior_tv" not in ClassPrior(COUNTS, 100).figures()


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("gamma", [1, 10, 100, 900, 1100])
def test_any_distribution_that_flags_can_make_is_none_that_has_collapsed(classes, gamma):
    prior = ClassPrior(torch.ones(classes), 100, warm_up=0)
    shares = gamma ** torch.linspace(0, -1, classes)
    prior.shares.copy_(shares / shares.sum())
    assert prior.collapsed() == (gamma > 1000)


def test_absent_classes_keep_a_floor():
    prior = ClassPrior(COUNTS, 100, warm_up=0, momentum=0.0)
    prior.update(torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    assert prior()[2] == pytest.approx(1e-6, rel=1e-3) and prior().log().isfinite().all()


@pytest.mark.parametrize("truth", [(0.7, 0.2, 0.07, 0.03), (0.03, 0.07, 0.2, 0.7), (0.25,) * 4])
def test_it_finds_the_shares_of_a_mixture(truth):
    """A scorer that knows its classes' densities, and takes them for equally frequent."""
    rng, means = torch.Generator().manual_seed(0), 1.5 * torch.eye(4)
    prior = ClassPrior(COUNTS, 100, warm_up=0, momentum=0.98)
    labeller = with_prior(lambda x: -(x[:, None] - means).square().sum(dim=2) / 2, prior, strength=1.0)
    for _ in range(600):
        y = torch.multinomial(torch.tensor(truth), 128, replacement=True, generator=rng)
        labeller(means[y] + torch.randn(128, 4, generator=rng))
    assert (prior.shares - torch.tensor(truth)).abs().sum() / 2 < 0.03


def test_the_labeller_adds_the_prior_and_updates_it():
    prior = ClassPrior(COUNTS, 100, warm_up=0, momentum=0.5)
    prior.shares.copy_(COUNTS / 80)
    prior.seen.fill_(10**6)
    images, before = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), (COUNTS / 80).log()
    half = with_prior(lambda x: x, prior, strength=0.5)(images)
    torch.testing.assert_close(half, images + 0.5 * before)
    torch.testing.assert_close(prior.shares, COUNTS / 160 + (images + before).softmax(dim=1).mean(dim=0) / 2)
    now = prior.shares.clone()
    plain = with_prior(lambda x: x, prior, strength=0.0, e_step=0.0, keep_from=0.6)(images)
    torch.testing.assert_close(plain, images)
    q = images.softmax(dim=1)
    torch.testing.assert_close(prior.shares, now / 2 + q[q.amax(dim=1) >= 0.6].mean(dim=0) / 2)


@pytest.mark.parametrize("start", [0.2, 1.8])
def test_a_scorer_that_knows_the_densities_needs_the_whole_prior(start):
    rng, means, shares = torch.Generator().manual_seed(0), 1.5 * torch.eye(4), torch.tensor([0.7, 0.2, 0.07, 0.03])
    fitted, seen = FittedStrength(start), []
    for t in range(3000):
        y = torch.randint(4, (64,), generator=rng)
        x = means[y] + torch.randn(64, 4, generator=rng)
        fitted.update(-(x[:, None] - means).square().sum(dim=2) / 2, y, shares)
        seen += [fitted.value.item()] if t >= 1000 else []
    assert sum(seen) / len(seen) == pytest.approx(1, rel=0.05)


def test_rows_that_are_known_by_heart_fit_nothing():
    fitted, y = FittedStrength(0.7), torch.tensor([0, 1, 2, 3])
    fitted.update(50 * torch.eye(4), y, torch.tensor([0.7, 0.2, 0.07, 0.03]))
    assert fitted.value.item() == pytest.approx(0.7)


def test_a_fitted_strength_is_that_of_the_rows_of_all_ranks(monkeypatch):
    """The ranks' weights have different sums: their mean isn't the mean of two fits."""
    logits, y, shares = (
        2 * normal(0, (8, 4)),
        torch.tensor([0, 0, 0, 0, 1, 2, 3, 3]),
        torch.tensor([0.7, 0.1, 0.1, 0.1]),
    )
    whole, one, other = (FittedStrength(1.0) for _ in range(3))
    whole.update(logits, y, shares)
    sums = []
    monkeypatch.setattr("methods.strength.mean_over_ranks", lambda tensors: sums.append(tensors[0].clone()))
    one.update(logits[:4], y[:4], shares)
    monkeypatch.setattr("methods.strength.mean_over_ranks", lambda tensors: tensors[0].add_(sums[0]).div_(2))
    other.update(logits[4:], y[4:], shares)
    assert whole.value != 1
    torch.testing.assert_close(other.value, whole.value)

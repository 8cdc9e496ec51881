"""ABC, as a method with two heads and as a classifier learner, and CAA: loops, expectations, where gradients flow."""

from types import SimpleNamespace

import pytest
import torch
from helpers.golden import integers, normal
from torch.nn.functional import cross_entropy

from dataset.batches import Batch, Minibatch
from methods.balanced import abc, kept_as_published, kept_by_prior, kept_labelled, on_unlabelled, with_unlabelled
from methods.classifier import caa, crt, on_frozen_features, tfe
from methods.learners import named_learner
from methods.prior import ClassPrior

CLASSES, ROWS, WIDTH = 4, 6, 5
COUNTS = torch.tensor([40.0, 20.0, 10.0, 2.0])


def head(seed: int) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(WIDTH, CLASSES)


def unlabelled_loss_by_loop(head, f_w, views, keep, tau, coins) -> float:
    total, coins = 0.0, coins.reshape(len(views), -1)
    for f_s, coin in zip(views, coins, strict=True):
        for w, s, d in zip(f_w, f_s, coin, strict=True):
            q = head(w).softmax(dim=0)
            if q.max() >= tau and d < keep[q.argmax()]:
                total -= (q * head(s).log_softmax(dim=0)).sum().item()
    return total / len(f_w)


def test_unlabelled_rows_as_a_loop():
    it, f_w, views = head(0), normal(0, (ROWS, WIDTH)), [normal(seed, (ROWS, WIDTH)) for seed in (1, 2)]
    keep, coins = torch.tensor([0.2, 0.4, 0.8, 1.0]), torch.rand(2 * ROWS, generator=torch.Generator().manual_seed(0))
    loss = on_unlabelled(it, f_w, torch.cat(views), keep, 0.35, coins)
    expected = unlabelled_loss_by_loop(it, f_w, views, keep, 0.35, coins)
    assert expected > 0 and loss.item() == pytest.approx(expected, rel=1e-5)


def test_in_expectation_a_coin_is_a_weight():
    it, f_w, f_s = head(0), normal(0, (ROWS, WIDTH)), normal(1, (ROWS, WIDTH))
    keep, rng = torch.tensor([0.2, 0.4, 0.8, 1.0]), torch.Generator().manual_seed(0)
    n = 10_000
    losses = torch.stack([on_unlabelled(it, f_w, f_s, keep, 0.0, torch.rand(ROWS, generator=rng)) for _ in range(n)])
    q = it(f_w).softmax(dim=1)
    expected = (cross_entropy(it(f_s), q, reduction="none") * keep[q.argmax(dim=1)]).mean()
    assert abs(losses.mean() - expected) < 3 * losses.std() / n**0.5


def test_no_gradient_reaches_the_weak_view():
    it, f_w, f_s = head(0), normal(0, (ROWS, WIDTH)).requires_grad_(), normal(1, (ROWS, WIDTH)).requires_grad_()
    on_unlabelled(it, f_w, f_s, torch.ones(CLASSES), 0.0, torch.zeros(ROWS)).backward()
    assert f_w.grad is None and f_s.grad.abs().sum() > 0


def test_who_is_kept():
    published = kept_as_published(COUNTS)
    assert torch.equal(published({"progress": torch.tensor(0.0)}), torch.ones(CLASSES))
    torch.testing.assert_close(published({"progress": torch.tensor(1.0)}), torch.tensor([0.05, 0.1, 0.2, 1.0]))
    assert torch.equal(kept_labelled(torch.full((3,), 7.0)), torch.ones(3))
    # Unlabelled images in reversed order: by the estimate it is the rare labelled class that is left out.
    prior = ClassPrior(COUNTS, 144, warm_up=0)
    prior.shares.copy_(COUNTS.flip(0) / 72)
    keep = kept_by_prior(prior)({})
    everything = COUNTS + 2 * COUNTS.flip(0)
    torch.testing.assert_close(keep, everything.min() / everything)
    assert keep[3] < keep[1] and published({"progress": torch.tensor(1.0)})[3] == 1


def test_with_reversed_unlabelled_images_the_labelled_counts_let_the_wrong_class_dominate():
    """Sure and right guesses: the share of the loss that comes from the class with the fewest labels."""
    labels = torch.repeat_interleave(torch.arange(CLASSES), COUNTS.flip(0).long())
    f_w, f_s = 20 * torch.nn.functional.one_hot(labels, CLASSES).float(), torch.zeros(len(labels), CLASSES)
    prior = ClassPrior(COUNTS, 1440, warm_up=0)
    prior.shares.copy_(COUNTS.flip(0) / 72)
    n, share = 200, []
    coins = torch.rand(n * len(labels), generator=torch.Generator().manual_seed(0))
    for keep in (kept_by_prior(prior)({}), kept_labelled(COUNTS)):
        chances = keep, keep * torch.tensor([0, 0, 0, 1])
        whole, part = (on_unlabelled(torch.nn.Identity(), f_w, f_s.repeat(n, 1), it, 0.95, coins) for it in chances)
        share.append((part / whole).item())
    assert share == pytest.approx([0.295, 0.887], abs=0.02)


def two_headed(prior=None, progress=0.5) -> SimpleNamespace:
    body, output, standard = torch.nn.Linear(7, WIDTH), head(1), head(2)
    model = SimpleNamespace(features=lambda images: body(images[:, 0, 0]), output=output)
    views = [normal(seed, (ROWS, 3, 2, 7)) for seed in range(4)]
    coins = torch.rand(3, ROWS, generator=torch.Generator().manual_seed(3))
    numbers = {"abc_coins": coins, "progress": torch.tensor(progress)}
    batch = Batch(numbers, Minibatch(views[:1], integers(0, CLASSES, ROWS)), Minibatch(views[1:], None))
    method = abc(0.3, standard, COUNTS, prior, total=100)
    return SimpleNamespace(body=body, model=model, standard=standard, batch=batch, method=method)


def test_abc_as_a_loop():
    it = two_headed()
    _, logs, pseudo = it.method.loss(it.model, it.model.features, it.batch)
    (x,), y = it.batch.labelled
    f_x, f_w, *f_s = (it.model.features(view) for view in (x, *it.batch.unlabelled.views))
    coin_x, coins = it.batch.numbers["abc_coins"][0], it.batch.numbers["abc_coins"][1:]
    rows = cross_entropy(it.model.output(f_x), y, reduction="none")
    expected = sum(row.item() for row, d, c in zip(rows, coin_x, y, strict=True) if d < 2 / COUNTS[c]) / ROWS
    assert logs["loss_abc_x"].item() == pytest.approx(expected, rel=1e-5)
    keep = 1 - 0.5 * (1 - 2 / COUNTS)
    expected = unlabelled_loss_by_loop(it.model.output, f_w, f_s, keep, 0.3, coins)
    assert logs["loss_abc_u"].item() == pytest.approx(expected, rel=1e-5)
    guess = it.standard(f_w).softmax(dim=1)
    selected = guess.amax(dim=1) >= 0.3
    assert torch.equal(pseudo.guess, guess.argmax(dim=1)) and torch.equal(pseudo.selected, selected)
    strong = [cross_entropy(it.standard(view), pseudo.guess, reduction="none") * selected for view in f_s]
    torch.testing.assert_close(logs["loss_u"], torch.cat(strong).mean())
    torch.testing.assert_close(logs["loss_x"], cross_entropy(it.standard(f_x), y))
    parts = [logs[name] for name in ("loss_x", "loss_u", "loss_abc_x", "loss_abc_u")]
    torch.testing.assert_close(logs["loss"], sum(parts))
    logs["loss"].backward()
    assert all(module.weight.grad.abs().sum() > 0 for module in (it.body, it.standard, it.model.output))


def test_abc_estimates_the_prior_with_its_balanced_head():
    prior = ClassPrior(COUNTS, 144, warm_up=0, momentum=0.0)
    it = two_headed(prior)
    _, logs, _ = it.method.loss(it.model, it.model.features, it.batch)
    logits = it.model.output(it.model.features(it.batch.unlabelled.views[0]))
    first = logits.softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(prior.shares, first)  # the first guesses are without a prior
    it.method.loss(it.model, it.model.features, it.batch)
    torch.testing.assert_close(prior.shares, (logits + first.log()).softmax(dim=1).mean(dim=0))
    assert "prior_collapsed" in logs and it.method.state == {"standard_head": it.standard, "class_prior": prior}


def test_a_head_on_frozen_features_learns_from_the_batch_s_unlabelled_images():
    """Partners come first, then the weak and the first strong view; TFE goes on as it does alone."""
    encoder = torch.nn.Linear(7, WIDTH)
    views = {
        name: normal(seed, (ROWS, 3, 2, 7)) for seed, name in enumerate(("x", "partner", "weak", "strong", "other"))
    }
    y, keep = integers(0, CLASSES, ROWS), torch.tensor([0.2, 0.4, 0.8, 1.0])
    base = tfe(COUNTS, 0.6)
    learner = with_unlabelled(base, lambda numbers: keep, 0.35, 3.0, total=10)
    torch.manual_seed(0)
    numbers = {name: torch.from_numpy(array) for name, array in learner.draw(5, ROWS).items()}
    assert numbers["progress"] == 0.5
    unlabelled = Minibatch([views["weak"], views["strong"], views["other"]], None)
    balanced, partners = Minibatch([views["x"]], y), Minibatch([views["partner"]], None)
    batch = Batch(numbers, None, unlabelled, balanced, partners)
    encode, it = (lambda images: encoder(images[:, 0, 0])), head(0)
    loss, logs = on_frozen_features(encode, it, learner, batch)
    alone, _ = on_frozen_features(encode, it, base, batch)
    torch.testing.assert_close(logs["loss_head"], alone)
    f_w, f_s = encode(views["weak"]), encode(views["strong"])
    expected = unlabelled_loss_by_loop(it, f_w, [f_s], keep, 0.35, numbers["abc_coins"])
    assert logs["loss_head_u"].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(loss, alone + 3 * logs["loss_head_u"])
    loss.backward()
    assert encoder.weight.grad is None and it.weight.grad.abs().sum() > 0


def test_caa_as_a_loop():
    learner, it, f_x, y = caa(CLASSES, WIDTH), head(0), normal(0, (ROWS, WIDTH)), torch.tensor([0, 0, 0, 1, 1, 2])
    torch.manual_seed(0)
    noise = torch.from_numpy(learner.draw(0, ROWS)["noise"])
    loss, _ = learner.loss(it, f_x, y, f_x[:0], {"noise": noise})
    alpha = []
    for c in range(CLASSES):
        rows = f_x[y == c]
        close = torch.cosine_similarity(rows, rows.mean(dim=0, keepdim=True)) if len(rows) else torch.ones(1)
        alpha.append(((close + 1) / 2).mean().item())
    r = [1 / a / sum(1 / other for other in alpha) for a in alpha]
    noisy = torch.stack([f + r[c] * n * f / f.norm() for f, n, c in zip(f_x, noise, y.tolist(), strict=True)])
    torch.testing.assert_close(loss, cross_entropy(it(noisy), y))


@pytest.mark.parametrize("name", ["tfe", "crt", "abc", "caa"])
def test_learners_by_name(name):
    flags = SimpleNamespace(classifier=name, max_lam=0.6, epochs=2, val_iteration=5)
    learner = named_learner(flags, COUNTS.numpy(), WIDTH, torch.device("cpu"))
    assert (learner.name.lower(), learner.views) == (name, 2 if name == "abc" else 0)
    assert crt().views == 0

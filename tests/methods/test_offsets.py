"""FixMatch with offset logits: LA, SimPro and ADELLO against their formulas, and where they are FixMatch again."""

from types import SimpleNamespace

import pytest
import torch
from helpers.golden import integers, normal
from torch.nn.functional import cross_entropy

from dataset.batches import Batch, Minibatch
from methods.fixmatch import SoftBand, fixmatch
from methods.offsets import adello, falling, la, of_all_images, simpro
from methods.prior import ClassPrior, with_prior

CLASSES, ROWS = 4, 6
COUNTS = torch.tensor([40.0, 20.0, 10.0, 2.0])


def model(images: torch.Tensor) -> torch.Tensor:
    """Logits of four places of an image."""
    return 3 * images[:, 0, 0, :CLASSES]


def batch_of(numbers=None) -> Batch:
    views = [normal(seed, (ROWS, 3, 4, 4)) for seed in range(4)]
    labelled = Minibatch(views[:1], integers(0, CLASSES, ROWS))
    return Batch(numbers or {}, labelled, Minibatch(views[1:], integers(1, CLASSES, ROWS)))


def prior_with(shares: torch.Tensor) -> ClassPrior:
    prior = ClassPrior(COUNTS, 144, warm_up=0, momentum=1.0)
    prior.shares.copy_(shares / shares.sum())
    prior.seen.fill_(10**6)
    return prior


def parts() -> SimpleNamespace:
    (x, weak, *strong), batch = [*batch_of().labelled.views, *batch_of().unlabelled.views], batch_of()
    return SimpleNamespace(z_x=model(x), y=batch.labelled.labels, z_w=model(weak), z_s=[model(view) for view in strong])


def test_offsets_of_zero_are_fixmatch_to_the_bit():
    batch, zero = batch_of(), torch.zeros(CLASSES)
    expected = fixmatch(0.6).loss(model, model, batch)
    for method in (fixmatch(0.6, lambda numbers: (zero, 0.0)), la(0.6, torch.ones(CLASSES), 0.0)):
        loss, logs, pseudo = method.loss(model, model, batch)
        assert torch.equal(loss, expected[0]) and torch.equal(pseudo.guess, expected[2].guess)
        assert {name: value.item() for name, value in logs.items()} == {k: v.item() for k, v in expected[1].items()}


def test_la_is_cross_entropy_with_log_counts_added():
    it, (loss, logs, _) = parts(), la(0.6, COUNTS, 1.0).loss(model, model, batch_of())
    rows = []
    for z, c in zip(it.z_x.tolist(), it.y.tolist(), strict=True):
        moved = torch.tensor(z) + COUNTS.log()
        rows.append(-(moved[c] - moved.exp().sum().log()).item())
    assert logs["loss_x"].item() == pytest.approx(sum(rows) / ROWS, rel=1e-5)
    assert torch.equal(logs["loss_u"], fixmatch(0.6).loss(model, model, batch_of())[1]["loss_u"])
    torch.testing.assert_close(loss, la(0.6, 7 * COUNTS, 1.0).loss(model, model, batch_of())[0])  # shares, not counts


def test_simpro_as_a_loop():
    prior, it = prior_with(COUNTS.flip(0)), parts()
    labeller = with_prior(model, prior, strength=1.0)
    _, logs, pseudo = simpro(0.6, prior, 1.0).loss(model, labeller, batch_of())
    everything = (72 * COUNTS / 72 + 144 * prior.shares) / 216
    assert logs["loss_x"].item() == pytest.approx(cross_entropy(it.z_x + everything.log(), it.y).item(), rel=1e-5)
    total = 0.0
    for z_s in it.z_s:
        for w, s in zip(it.z_w, z_s, strict=True):
            q = (w + prior.shares.log()).softmax(dim=0)
            if q.max() >= 0.6:
                total -= (q * (s + everything.log()).log_softmax(dim=0)).sum().item()
    assert logs["loss_u"].item() == pytest.approx(total / (2 * ROWS), rel=1e-5)
    assert 0 < pseudo.selected.sum() < ROWS


def test_with_uniform_shares_simpro_is_fixmatch_with_soft_targets():
    prior = ClassPrior(torch.ones(CLASSES), 144, warm_up=0, momentum=1.0)
    prior.seen.fill_(10**6)
    _, logs, _ = simpro(0.6, prior, 2.0).loss(model, with_prior(model, prior, 2.0), batch_of())
    expected = fixmatch(0.6, soft=True).loss(model, model, batch_of())[1]
    torch.testing.assert_close({name: logs[name] for name in expected}, expected)


def test_adello_as_a_loop():
    prior, it = prior_with(COUNTS.flip(0)), parts()
    method = adello(0.6, prior, COUNTS, total=100)
    numbers = {name: torch.from_numpy(array) for name, array in method.draw(50, ROWS).items()}
    assert numbers == {"band": torch.tensor(1.0), "exponent": torch.tensor(1 - 0.9 * 0.25)}
    _, logs, _ = method.loss(model, with_prior(model, prior, 0.0, 0.0), batch_of(numbers))
    power = prior.shares ** (1 - 0.9 * 0.25)
    target = power / power.sum()
    offset_x, offset_u = (COUNTS / 72 / target).log(), (prior.shares / target).log()
    assert logs["loss_x"].item() == pytest.approx(cross_entropy(it.z_x + offset_x, it.y).item(), rel=1e-5)
    hard, soft = 0.0, 0.0
    for z_s in it.z_s:
        for w, s in zip(it.z_w, z_s, strict=True):
            q, log_p = w.softmax(dim=0), (s + offset_u).log_softmax(dim=0)
            hard -= log_p[q.argmax()].item() if q.max() >= 0.6 else 0.0
            soft -= (q * log_p).sum().item() if q.max() < 0.6 else 0.0
    assert logs["loss_u"].item() == pytest.approx(hard / (2 * ROWS), rel=1e-5)
    assert logs["loss_band"].item() == pytest.approx(soft / (2 * ROWS), rel=1e-5)
    assert logs["loss"].item() == pytest.approx(sum(logs[f"loss_{part}"].item() for part in ("x", "u", "band")))
    assert method.draw(19, ROWS)["band"] == 0 and method.draw(20, ROWS)["band"] == 1
    assert [falling(t, 100, 0.1) for t in (0, 100, 500)] == pytest.approx([1, 0.1, 0.1])


def test_a_soft_band_leaves_out_both_sides():
    band = SoftBand(0.3, 0.6, lambda t: 2.0)
    method, it = fixmatch(0.6, band=band), parts()
    loss, logs, _ = method.loss(model, model, batch_of({"band": torch.tensor(2.0)}))
    p = it.z_w.softmax(dim=1)
    inside = (p.amax(dim=1) > 0.3) & (p.amax(dim=1) < 0.6)
    assert 0 < inside.sum() < ROWS
    expected = sum((cross_entropy(z, p, reduction="none") * inside).sum() for z in it.z_s) / (2 * ROWS)
    torch.testing.assert_close(logs["loss_band"], expected)
    torch.testing.assert_close(loss, logs["loss_x"] + logs["loss_u"] + 2 * expected)


def test_what_is_added_to_all_logits_changes_nothing():
    prior = prior_with(COUNTS)
    offset = of_all_images(prior, 1.0)({})[0]
    losses = [
        fixmatch(0.6, lambda numbers, c=c: (offset + c, offset + c)).loss(model, model, batch_of())[0] for c in (0, 5)
    ]
    torch.testing.assert_close(*losses)

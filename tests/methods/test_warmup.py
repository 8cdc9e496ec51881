"""The head's warm-up: the published feature set, the imprinted classifier, and that the head learns from it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.golden import GOLDEN, normal

from methods.averaged import Averaged
from methods.classifier import decay_all_but_bias
from methods.warmup import balanced_features, imprint, random_blends, train_head, warm_up


@pytest.fixture
def recorded():
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "tfe_warmup.npz").items()}


@pytest.mark.parametrize("variant", ["fixmatch_remixmatch", "mixmatch"])
def test_feature_set(recorded, variant):
    f_x, y, weak = (recorded[k] for k in ("labeled_features", "labeled_targets", "unlabeled_weak"))
    f_u = recorded["unlabeled_strong"] if variant == "fixmatch_remixmatch" else weak
    counts = recorded["num_per_class"].numpy()

    def draw(c, n, own):
        if n == 0:
            return np.zeros(0, np.int64), np.zeros(0)
        assert own == counts[c]
        return (recorded[f"{variant}/class{c}/{key}"].numpy() for key in ("anchor_index", "lambda"))

    probabilities = (torch.cat([f_x, weak]) @ recorded["imprinted_weight"].T).softmax(1)
    features, labels = balanced_features(f_x, y, f_u, probabilities, counts, draw)
    torch.testing.assert_close(features, recorded[f"{variant}/features"])
    assert labels.tolist() == recorded[f"{variant}/targets_onehot"].argmax(1).tolist()
    assert labels.bincount().tolist() == [counts.max()] * len(counts)


def test_imprinted_classifier(recorded):
    weight = imprint(recorded["labeled_features"], recorded["labeled_targets"], 4)
    torch.testing.assert_close(weight, recorded["imprint/weight"])


def test_imprint_is_the_normalised_mean_of_each_class():
    features, labels = normal(1, (50, 6)), torch.arange(50) % 5
    for c, row in enumerate(imprint(features, labels, 5)):
        mean = features[labels == c].mean(0)
        torch.testing.assert_close(row, mean / mean.norm())


def test_the_ranking_for_the_warm_up_is_a_stable_sort():
    """Equal probabilities are common in float32."""
    counts = np.linspace(60, 6, 20).astype(int)
    y = torch.arange(20).repeat_interleave(torch.from_numpy(counts))
    f_x, f_u = torch.rand(len(y), 4), torch.rand(3 * len(y), 4)
    p = ((torch.cat([f_x, f_u]) @ imprint(f_x, y, 20).T).softmax(dim=1) * 500).round() / 500
    features, labels = balanced_features(f_x, y, f_u, p, counts, random_blends(0))
    start = len(y)
    for c, n in enumerate(max(counts) - counts):
        rank = p[:, c].clone()
        rank[: len(y)][y == c] = -1
        own, lam = (torch.from_numpy(drawn) for drawn in random_blends(0)(c, n, counts[c]))
        lam = lam[:, None].float()
        others = torch.cat([f_x, f_u])[rank.argsort(descending=True, stable=True)[:n]]
        assert torch.equal(features[start : start + n], lam * f_x[y == c][own] + (1 - lam) * others)
        start += n
    assert start == len(features) == len(labels)


def test_draws_are_a_function_of_seed_and_class():
    a, lam = random_blends(3)(2, 500, 7)
    assert set(a) == set(range(7))
    assert ((lam > 0) & (lam < 1)).all()
    assert abs(np.mean((lam < 0.1) | (lam > 0.9)) - 0.3) < 0.1  # Beta(0.75, 0.75) prefers the ends
    assert np.array_equal(a, random_blends(3)(2, 500, 7)[0])
    assert not np.array_equal(a, random_blends(4)(2, 500, 7)[0])


def two_clusters(n_tail: int):
    y = torch.cat([torch.zeros(60, dtype=torch.int64), torch.ones(n_tail, dtype=torch.int64)])
    x = normal(5, (len(y), 2)) + 6.0 * torch.stack([1 - y, y], 1)
    return x, y


def streams(f_own, f_x, y, *f_u) -> SimpleNamespace:
    """Data whose images are features, in batches of 7: of the imprint's pass, of the other one, of the unlabelled
    views, whose labels are not known."""

    def sweep(views, labels=None):
        labels = [None] * len(f_x) if labels is None else labels.split(7)
        return [*zip(zip(*(view.split(7) for view in views), strict=True), labels, strict=False)]

    imprinted = SimpleNamespace(sweep=lambda: sweep([f_own], y))
    labelled = SimpleNamespace(sweep=lambda: sweep([f_x], y), renamed=lambda name: imprinted)
    unlabelled = SimpleNamespace(sweep=lambda views: sweep([f_u[v] for v in views]))
    return SimpleNamespace(labelled=labelled, unlabelled=unlabelled, counts=y.bincount().numpy())


@pytest.mark.parametrize("views", [(0, 1), (0,)])
def test_the_imprint_has_a_pass_of_its_own(views, monkeypatch):
    """It ranks the features of the other pass, and those of the unlabelled images by their first view."""
    y = torch.arange(3).repeat_interleave(torch.tensor([20, 9, 4]))
    f_own, f_x, weak, strong = normal(1, (33, 5)), normal(2, (33, 5)), normal(3, (60, 5)), normal(4, (60, 5))
    trained = []
    monkeypatch.setattr("methods.warmup.train_head", lambda head, *rest: trained.append(rest))
    warm_up(lambda f: f, None, streams(f_own, f_x, y, weak, strong), views, steps=2, batch_size=8, seed=6)
    ((features, labels, *rest),) = trained
    found = []
    for imprinted in (f_own, f_x):
        p = (torch.cat([f_x, weak]) @ imprint(imprinted, y, 3).T).softmax(1)
        found.append(balanced_features(f_x, y, (weak, strong)[views[-1]], p, np.array([20, 9, 4]), random_blends(6)))
    assert torch.equal(features, found[0][0]) and torch.equal(labels, found[0][1])
    assert not torch.equal(features, found[1][0])
    assert rest == [8, 2, 6]


def test_head_learns_and_its_average_follows():
    x, y = two_clusters(4)
    head = torch.nn.Linear(2, 2)
    start = head.weight.detach().clone()
    optimizer = torch.optim.Adam(decay_all_but_bias(head, 5e-4), 0.01)
    teacher = Averaged(head, torch.optim.SGD(head.parameters(), 0.0), 0.99)
    data = streams(x, x, y, x, x)
    warm_up(lambda f: f, teacher.using(optimizer), data, (0, 1), steps=300, batch_size=16, seed=1)
    right = teacher.live(x).argmax(1) == y
    assert right.float().mean() > 0.9  # the blends, labelled as the tail class, cost the head class a few
    assert right[y == 1].all()
    moved, followed = (head.weight - start).norm(), (teacher.ema.weight - start).norm()
    assert 0.3 * moved < followed < moved


def test_every_feature_is_seen_once_a_pass():
    features, labels, seen = torch.arange(40.0)[:, None], torch.zeros(40, dtype=torch.int64), []

    class Spy(torch.nn.Linear):
        def forward(self, x):
            seen.extend(x.flatten().tolist())
            return super().forward(x)

    head = Spy(1, 2)
    teacher = Averaged(head, torch.optim.Adam(decay_all_but_bias(head, 0.0), 0.01), 0.9)
    train_head(teacher, features, labels, batch_size=8, steps=10, seed=0)
    assert sorted(seen[:40]) == sorted(seen[40:]) == features.flatten().tolist()
    assert seen[:40] != seen[40:]

"""Floors against slow, obvious references."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

import methods.floors
from methods.floors import (
    CS,
    FOLDS,
    USUAL_C,
    logistic_regression,
    nearest_class_mean,
    standardisation,
    tfe_head,
)


def made(*counts, dim=6, seed=0, spread=1.5):
    """Vectors (L, D) of classes with means of their own, in a mixed order, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(range(len(counts)), counts))
    means = rng.normal(size=(len(counts), dim))
    x = 3 + 5 * (means[y] + spread * rng.normal(size=(len(y), dim)))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


def probabilities(model, x):
    return torch.from_numpy(model.predict_proba(x.double().numpy())).float()


def test_the_nearest_class_mean_against_a_loop():
    (x, y), (v, _) = made(9, 4, 1), made(20, 20, 20, seed=1)
    expected = []
    for vector in v:
        distances = []
        for c in range(3):
            mean = sum(one for one, label in zip(x, y, strict=True) if label == c) / int((y == c).sum())
            distances.append(float((vector - mean).square().sum()))
        expected.append(distances)
    logits, distances = nearest_class_mean(x, y)(v), torch.tensor(expected)
    assert logits.argmax(dim=1).tolist() == distances.argmin(dim=1).tolist()
    torch.testing.assert_close(
        (logits[:, 1:] - logits[:, :1]), -(distances[:, 1:] - distances[:, :1]) / 2, atol=1e-2, rtol=1e-4
    )


@pytest.mark.parametrize("counts", [(6, 3, 2), (4, 1)], ids=["three classes", "two"])
def test_balanced_logistic_regression_is_that_of_repeated_rows(counts):
    """Each class repeated to one size: the weights are its repetitions, up to one factor, which is C's."""
    (x, y), (v, _) = made(*counts), made(*[9] * len(counts), seed=2)
    size = 12
    rows = torch.cat([(y == c).nonzero().flatten().repeat(size // n) for c, n in enumerate(counts)])
    scaled = standardisation(x)
    model = LogisticRegression(C=USUAL_C * sum(counts) / (len(counts) * size), max_iter=10000, tol=1e-9)
    model.fit(scaled(x[rows]).double().numpy(), y[rows].numpy())
    found = logistic_regression(x, y, seed=0)(v).softmax(dim=1)
    torch.testing.assert_close(found, probabilities(model, scaled(v)), atol=2e-3, rtol=0)


def test_the_strength_of_the_regularisation_is_chosen_by_balanced_accuracy():
    (x, y), (v, _) = made(60, 20, 9, dim=30, spread=2.5), made(9, 9, 9, dim=30, seed=3)
    z, labels, parts = (
        standardisation(x)(x).double().numpy(),
        y.numpy(),
        StratifiedKFold(FOLDS, shuffle=True, random_state=5),
    )
    usual, scores = {"class_weight": "balanced", "max_iter": 5000, "tol": 1e-6}, []
    for c in CS:
        fits = [(LogisticRegression(C=c, **usual).fit(z[a], labels[a]), b) for a, b in parts.split(z, labels)]
        scores.append(np.mean([balanced_accuracy_score(labels[b], model.predict(z[b])) for model, b in fits]))
    assert len({round(score, 6) for score in scores}) > 1
    model = LogisticRegression(C=CS[int(np.argmax(scores))], **usual).fit(z, labels)
    found = logistic_regression(x, y, seed=5)(v).softmax(dim=1)
    torch.testing.assert_close(found, probabilities(model, standardisation(x)(v)), atol=5e-3, rtol=0)


def test_the_head_learns_from_labelled_vectors_and_blends_in_partners_alone(monkeypatch):
    monkeypatch.setattr(methods.floors, "STEPS", 300)
    monkeypatch.setattr(methods.floors, "EMA_DECAY", 0.9)
    x, y = made(40, 10, 4, spread=0.2)
    everything, seen = torch.cat([x, x + 0.1, torch.full((3, 6), torch.nan)]), set()

    def read(places):
        seen.update(places.tolist())
        return everything[places]

    partners = np.arange(20, 2 * len(x))  # neither all of the labelled ones, nor the last rows
    predict = tfe_head(x, y, partners, read, seed=1)
    assert seen <= set(partners.tolist()) and len(seen) > 0.9 * len(partners)
    assert (predict(x).argmax(dim=1) == y).all()
    assert torch.equal(predict(x), tfe_head(x, y, partners, read, seed=1)(x))
    assert not torch.equal(predict(x), tfe_head(x, y, partners, read, seed=2)(x))


def test_a_constant_dimension_says_nothing():
    x = torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 2.0]])
    z = standardisation(x)(torch.tensor([[0.1, 2.0], [7.0, 3.0]]))
    torch.testing.assert_close(z, torch.tensor([[0.0, 0.0], [0.0, 1.5**0.5]]))


def test_an_offset_takes_nothing_away_from_the_nearest_class_mean():
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    x[:, 0] += 4 * y
    far = x + torch.tensor([0.0, 1e5, 0.0])
    assert torch.equal(nearest_class_mean(far, y)(far).argmax(1), nearest_class_mean(x, y)(x).argmax(1))


def test_a_column_of_large_numbers_takes_nothing_away():
    """What is constant is judged in each column by itself."""
    x, _ = made(9, 4, 3)
    wide = torch.cat([x, 1e7 * x[:, :1], torch.full((len(x), 1), 3e6)], dim=1)
    scaled = standardisation(wide)(wide)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.tensor([1.0] * 7 + [0.0]))

"""Metrics against published numbers and slow, obvious loops; evaluation of a whole test set."""

import math

import numpy as np
import pytest
import torch
from helpers.golden import golden, integers, normal

from training.history import SCALARS
from utils.metrics import evaluate, metrics

FRACTIONS = ("many", "medium", "few", "gm")


@pytest.mark.parametrize("case", golden("metrics.json"), ids=lambda case: f"seed{case['seed']}")
def test_published_numbers(case):
    seed, classes = case["seed"], case["num_class"]
    labels = integers(60 + seed, classes, 400)
    labels[:classes] = torch.arange(classes)
    logits = normal(70 + seed, (400, classes))
    logits[torch.arange(400), labels] += 1.5
    if case["class3_never_predicted"]:
        logits[:, 3] -= 100
    found = metrics(logits, labels, range(classes, 0, -1))
    assert found["loss"].item() == pytest.approx(case["loss"], rel=1e-6)
    assert found["top1"].item() == pytest.approx(case["top1"])
    expected = [*case["many_medium_few"], case["gm"]]
    assert [found[name].item() / 100 for name in FRACTIONS] == pytest.approx(expected, rel=1e-5)


def slow_metrics(logits: list, labels: list, counts: list) -> dict:
    """The same figures, a sample and a class at a time."""
    classes = len(counts)
    predicted = [row.index(max(row)) for row in logits]
    recall = [math.nan] * classes
    for c in range(classes):
        hits = [p == y for p, y in zip(predicted, labels, strict=True) if y == c]
        if hits:
            recall[c] = 100 * sum(hits) / len(hits)
    order = sorted(range(classes), key=lambda c: -counts[c])
    third = max(1, classes // 3)

    def mean(group):
        found = [recall[c] for c in group if not math.isnan(recall[c])]
        return sum(found) / len(found) if found else math.nan

    present = [r for r in recall if not math.isnan(r)]
    floored = [r if r > 0 else 1 / classes for r in present]
    losses = [math.log(sum(map(math.exp, row))) - row[y] for row, y in zip(logits, labels, strict=True)]
    return {
        "loss": sum(losses) / len(losses),
        "top1": 100 * sum(p == y for p, y in zip(predicted, labels, strict=True)) / len(labels),
        "balanced": mean(range(classes)),
        "gm": math.prod(r ** (1 / len(floored)) for r in floored),
        "many": mean(order[:third]),
        "medium": mean(order[third : classes - third]),
        "few": mean(order[classes - third :]),
        "ece": slow_calibration_error(logits, labels),
        "recall": recall,
        "confusion": [
            [sum((y, p) == (i, j) for p, y in zip(predicted, labels, strict=True)) for j in range(classes)]
            for i in range(classes)
        ],
    }


def slow_calibration_error(logits: list, labels: list) -> float:
    """Guo et al. 2017: bins ((b - 1) / 15, b / 15], each weighted by its share of the images."""
    confidences, hits = [], []
    for row, y in zip(logits, labels, strict=True):
        total = sum(map(math.exp, row))
        confidences.append(max(map(math.exp, row)) / total)
        hits.append(row.index(max(row)) == y)
    error = 0.0
    for b in range(1, 16):
        inside = [i for i, p in enumerate(confidences) if (b - 1) / 15 < p <= b / 15]
        if inside:
            accuracy, confidence = (sum(values[i] for i in inside) / len(inside) for values in (hits, confidences))
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return 100 * error


def test_calibration_error_at_its_ends():
    """Sure and right is 0, sure and wrong 100; a coin between two classes, right half the time, is calibrated."""
    sure = 100 * torch.eye(2)
    labels = torch.arange(2)
    found = [metrics(logits, labels, [1, 1])["ece"].item() for logits in (sure, sure.flip(0), torch.zeros(2, 2))]
    assert found == pytest.approx([0, 100, 0], abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("seed", range(5))
def test_against_slow_loop(classes, seed):
    random = np.random.default_rng([classes, seed])
    present = random.permutation(classes)[: random.integers(1, classes + 1)]  # the others are absent
    labels = random.choice(present, 3 * classes)
    logits = random.standard_normal((len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 1
    counts = random.integers(1, classes + 1, classes)  # in no order, with ties
    found = metrics(torch.tensor(logits), torch.tensor(labels), torch.tensor(counts))
    expected = slow_metrics(logits.tolist(), labels.tolist(), counts.tolist())
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].numpy() == pytest.approx(np.array(value, dtype=float), rel=1e-5, abs=1e-9, nan_ok=True), name


def test_balanced_accuracy_against_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    labels, logits = integers(1, 7, 300), normal(2, (300, 7))
    expected = sklearn_metrics.balanced_accuracy_score(labels, logits.argmax(1))
    assert metrics(logits, labels, [1] * 7)["balanced"].item() == pytest.approx(100 * expected)


def test_tied_counts_keep_label_order_and_reversed_counts_swap_groups():
    labels = torch.arange(6)
    logits = torch.eye(6)
    logits[2:] = -logits[2:]  # classes 0 and 1 are right, the others wrong
    tied, backwards = metrics(logits, labels, [5] * 6), metrics(logits, labels, range(6))
    assert [tied[name].item() for name in ("many", "medium", "few")] == [100, 0, 0]
    assert [backwards[name].item() for name in ("many", "medium", "few")] == [0, 0, 100]


def test_no_host_read():
    """On the meta device a host read, or a tensor left on the CPU, raises."""
    logits = torch.empty(8, 5, device="meta", dtype=torch.bfloat16)
    found = metrics(logits, torch.empty(8, device="meta", dtype=torch.int64), torch.arange(5))
    assert all(value.device.type == "meta" for value in found.values())
    assert found["recall"].shape == (5,)
    assert all(found[name].shape == () for name in SCALARS)


def test_evaluate_joins_batches_without_gradients():
    weight = normal(3, (12, 4)).requires_grad_()
    images, labels, counts = normal(4, (20, 3, 2, 2)), integers(5, 3, 20), [9, 4, 1, 2]
    grads = []

    def predict(batch):
        grads.append(torch.is_grad_enabled())
        return batch.flatten(1) @ weight

    batches = zip(images.split(8), labels.split(8), strict=True)  # the last one is smaller
    found = evaluate(predict, batches, counts)
    expected = metrics(predict(images).detach(), labels, counts)
    assert grads == [False, False, False, True]
    for name in SCALARS:
        assert type(found[name]) is float
        assert found[name] == pytest.approx(expected[name].item())
    assert found["recall"] == pytest.approx([*expected["recall"][:3].tolist(), None])
    assert found["recall"][3] is None  # class 3 isn't in the test set
    assert torch.equal(found["confusion"], expected["confusion"])

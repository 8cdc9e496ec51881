"""Test figures of a classifier on long-tailed classes, computed on the device of its logits.

Shape legend: N test images, C classes, B images per batch, S x S pixels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

BINS = 15  # of confidences, in the calibration error


def metrics(logits: Tensor, labels: Tensor, counts: Tensor | Sequence[int]) -> dict[str, Tensor]:
    """Loss and accuracies, all but the loss in percent; nothing is read back to the host.

    logits: float (N, C); labels: int64 (N,); counts: labelled training images per class, (C,).
    Returns 0-d tensors, `recall` (C,) in label order, NaN for classes absent from `labels`, and `confusion`, int64
    (C, C), images of class i taken for class j; the former are
    loss (mean cross-entropy), top1, balanced (mean recall), gm (geometric mean of the recalls, a recall of
    zero counting as 1 / (100 C)), many, medium, few (mean recall of `thirds` of the classes by training frequency),
    ece (see `calibration_error`). Absent classes enter no mean; a mean of no class is NaN. Source: published code;
    balanced, under the right name, ece and confusion are ours.
    """
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    confusion = pairs.new_zeros(classes**2).index_add(0, pairs, torch.ones_like(pairs)).view(classes, classes)
    totals, hits = confusion.sum(1), confusion.diagonal().double()
    recall, present = hits / totals, totals > 0
    floored = torch.where(recall == 0, 1 / (100 * classes), recall)
    groups = thirds(torch.as_tensor(counts, device=logits.device))
    return {
        "loss": cross_entropy(logits, labels),
        "top1": 100 * (hits.sum() / len(labels)),
        "balanced": 100 * mean_of(recall, present),
        "gm": 100 * mean_of(floored.log(), present).exp(),
        **{name: 100 * mean_of(recall, present & group) for name, group in groups.items()},
        "ece": calibration_error(logits, labels),
        "recall": 100 * recall,
        "confusion": confusion,
    }


def mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean () of the chosen ones of values (C,), NaN if there are none; chosen: bool (C,)."""
    # A sum of masked values: selecting them by boolean index would wait for the device.
    return torch.where(chosen, values, 0).sum() / chosen.sum()


def thirds(frequency: Tensor) -> dict[str, Tensor]:
    """Which classes are many, medium and few, bool (C,) each: the C // 3 most frequent, those between, the C // 3 least
    frequent, of equals the first being the more frequent. Two classes are one frequent and one rare class.

    frequency: labelled training images per class, (C,). Source: published code.
    """
    classes = len(frequency)
    rank, third = frequency.argsort(descending=True, stable=True).argsort(), max(1, classes // 3)
    many, few = rank < third, rank >= classes - third
    return {"many": many, "medium": ~many & ~few, "few": few}


def calibration_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Expected calibration error () in percent: how far confidence and accuracy lie apart, in the mean over the images.

    logits: float (N, C); labels: int64 (N,). The confidences are put into BINS equally wide bins (a, b]. Source: Guo et
    al., On Calibration of Modern Neural Networks, 2017, section 2.
    """
    confidence, guess = logits.double().softmax(1).max(1)
    bin_of = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    excess = (guess == labels).double() - confidence
    gap = (one_hot(bin_of, BINS) * excess[:, None]).sum(0)  # index_add would add in any order on a GPU
    return 100 * gap.abs().sum() / len(labels)


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    counts: Tensor | Sequence[int],
) -> dict[str, Any]:
    """`metrics` over a whole test set as plain numbers, read from the device once.

    predict: float images (B, 3, S, S) -> logits (B, C); batches: (images, int64 labels (B,)), at least one;
    counts: labelled training images per class, (C,). Units as in `metrics`; `recall` is a list of C numbers
    in label order, None (null in JSON) for a class absent from the test set; `confusion` is an int64 tensor
    (C, C) on the host; the other figures are floats, NaN where undefined.
    """
    outputs = [(predict(images), labels) for images, labels in batches]
    logits = torch.cat([logits for logits, _ in outputs])
    labels = torch.cat([labels for _, labels in outputs]).to(logits.device)
    figures = metrics(logits, labels, counts)

    sizes = [value.numel() for value in figures.values()]
    flat = torch.cat([value.double().flatten() for value in figures.values()]).cpu().split(sizes)
    *scalars, recall, confusion = flat
    numbers = dict(zip(figures, map(float, scalars), strict=False))
    per_class = [None if math.isnan(value) else value for value in recall.tolist()]
    return numbers | {"recall": per_class, "confusion": confusion.long().view(figures["confusion"].shape)}

"""Test figures of a classifier on long-tailed classes, computed on the device of its logits.

Shape legend: N test images, C classes, B images per batch, S x S pixels.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def metrics(logits: Tensor, labels: Tensor, counts: Tensor | Sequence[int]) -> dict[str, Tensor]:
    """Loss and accuracies, all but the loss in percent; nothing is read back to the host.

    logits: float (N, C); labels: int64 (N,); counts: labelled training images per class, (C,).
    Returns 0-d tensors, and `recall` (C,) in label order, NaN for classes absent from `labels`:
    loss (mean cross-entropy), top1, balanced (mean recall), gm (geometric mean of the recalls, a recall of
    zero counting as 1 / (100 C)), many, medium, few (mean recall of the classes by training frequency: the
    C // 3 most frequent, those between, the C // 3 least frequent). Absent classes enter no mean; a mean
    of no class is NaN. Source: published code; balanced, under the right name, is ours.
    """
    classes = logits.shape[1]
    hits = (logits.argmax(1) == labels).double()
    none = hits.new_zeros(classes)
    totals = none.index_add(0, labels, torch.ones_like(hits))
    recall = none.index_add(0, labels, hits) / totals
    floored = torch.where(recall == 0, 1 / (100 * classes), recall)

    frequency = torch.as_tensor(counts, device=logits.device)
    rank = frequency.argsort(descending=True, stable=True).argsort()
    third = max(1, classes // 3)  # two classes are one frequent and one rare class
    many, few = rank < third, rank >= classes - third

    def mean(values: Tensor, chosen: Tensor) -> Tensor:
        # A sum of masked values: selecting them by boolean index would wait for the device.
        return torch.where(chosen, values, 0).sum() / chosen.sum()

    present = totals > 0
    return {
        "loss": cross_entropy(logits.float(), labels),
        "top1": 100 * hits.mean(),
        "balanced": 100 * mean(recall, present),
        "gm": 100 * mean(floored.log(), present).exp(),
        "many": 100 * mean(recall, present & many),
        "medium": 100 * mean(recall, present & ~many & ~few),
        "few": 100 * mean(recall, present & few),
        "recall": 100 * recall,
    }


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    counts: Tensor | Sequence[int],
) -> dict[str, float | list[float | None]]:
    """`metrics` over a whole test set as plain numbers, read from the device once.

    predict: float images (B, 3, S, S) -> logits (B, C); batches: (images, int64 labels (B,)), at least one;
    counts: labelled training images per class, (C,). Units as in `metrics`; `recall` is a list of C numbers
    in label order, None (null in JSON) for a class absent from the test set; the other figures are floats,
    NaN where undefined.
    """
    outputs = [(predict(images), labels) for images, labels in batches]
    logits = torch.cat([logits for logits, _ in outputs])
    labels = torch.cat([labels for _, labels in outputs]).to(logits.device)
    figures = metrics(logits, labels, counts)

    recall = figures.pop("recall")
    scalars = torch.stack([value.double() for value in figures.values()])
    numbers = torch.cat([scalars, recall]).tolist()
    per_class = [None if math.isnan(value) else value for value in numbers[len(figures) :]]
    return dict(zip(figures, numbers[: len(figures)], strict=True)) | {"recall": per_class}

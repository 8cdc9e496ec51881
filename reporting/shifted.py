"""Test sets whose class distribution is shifted, from long-tailed like the training set to long-tailed the other way.

A shifted set holds the first n_c test images of each class c, in file order: one pass over all answers for each set.
Shape legend: N test images, C classes, R ratios.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.long_tail import class_counts
from utils.errors import UserError
from utils.seeding import generator

# Source: published code (the paper evaluates under shifted test distributions, from forward to backward long-tailed).
RATIOS = (512, 256, 150, 128, 64, 32, 16, 8, 4, 2, 1, -2, -4, -8, -16, -32, -64, -128, -256, -512)
RESAMPLES, CONFIDENCE = 2000, 95
FEW = 100  # images; of fewer, an interval may be wider than 20 points


def shifted_counts(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Test images of each class in each shifted set, int64 (R, C), columns in label order.

    labels: int (N,); order: the C classes, most frequent first at a ratio above 1; classes without test images stay
    empty, the profile runs over the others. The largest class has as many images as there are of the smallest, so that
    every profile can be served: on CIFAR-10 and CIFAR-100 the published 1000 and 100.
    Raises UserError if the test set has fewer than two classes.
    """
    sizes = np.bincount(labels, minlength=len(order))
    present = order[sizes[order] > 0]
    if len(present) < 2:
        raise UserError("--data_root: the test set has fewer than two classes, so there is nothing to shift; add some")
    counts = np.zeros((len(RATIOS), len(order)), dtype=np.int64)
    counts[:, present] = [class_counts(sizes[present].min(), len(present), ratio) for ratio in RATIOS]
    return counts


def profiles(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The share of each class at each ratio, (R, C), not rounded to images: no class with test images is at 0."""
    sizes = np.bincount(labels, minlength=len(order))
    present = order[sizes[order] > 0]
    place = np.linspace(0, 1, len(present))
    shares = np.zeros((len(RATIOS), len(order)))
    shares[:, present] = [float(abs(ratio)) ** -(place if ratio > 0 else 1 - place) for ratio in RATIOS]
    return shares / shares.sum(axis=1, keepdims=True)


def correct(right: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correct answers among the first `counts` images of each class in file order, int64 (R, C).

    right: whether each test image is answered correctly, bool (R, N); labels: int (N,); counts: int (R, C). Either may
    have one row for all R.
    """
    sizes = np.bincount(labels, minlength=counts.shape[1])
    starts = np.cumsum(sizes) - sizes
    sums = np.cumsum(right[:, np.argsort(labels, kind="stable")], axis=1)
    sums = np.pad(sums, ((0, 0), (1, 0)))  # correct answers before each place, images sorted by class
    return np.take_along_axis(sums, starts + counts, axis=1) - np.take_along_axis(sums, starts[None], axis=1)


def answers(logits: Tensor, priors: np.ndarray | None, prior: np.ndarray | None) -> np.ndarray:
    """The likeliest class of each test image, int64 (1, N); with priors below it at each ratio, (1 + R, N).

    logits: (N, C). At a ratio with known class distribution, log p_test - log p_train is added to the logits.
    priors: p_test, (R, C); prior: p_train, (C,). The device is read once. Source: label-shift correction by Bayes'
    rule (Saerens et al. 2002); not in the paper.
    """
    found = [logits.argmax(dim=1)]
    if priors is not None:
        with np.errstate(divide="ignore"):  # a class known to be absent gets -inf, and is never the answer
            shifts = torch.from_numpy(np.log(priors) - np.log(prior)).to(logits.device)
        logits = logits.double()
        found += [(logits + shift).argmax(dim=1) for shift in shifts]
    return torch.stack(found).cpu().numpy()


def accuracies(right: np.ndarray, labels: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each shifted set in percent, (R,) each.

    right: whether each test image is answered correctly, bool (R, N), or (1, N) where that doesn't depend on the ratio;
    labels: int (N,); counts: (R, C); shares: (R, C).
    top1: share of the set's images answered correctly; low, high: percentiles 2.5 and 97.5 of its bootstrap, which
    redraws the set's images. weighted: recall of each class over all its test images, weighted by its share;
    weighted_low, weighted_high: likewise, each class's images redrawn among themselves.
    """
    sizes = np.bincount(labels, minlength=counts.shape[1])[None]
    hits, all_hits = correct(right, labels, counts), correct(right, labels, sizes)
    totals = counts.sum(axis=1, keepdims=True)
    # Redrawn class by class, too, a class of one image would seem to be known exactly.
    low, high = interval(hits.sum(axis=1, keepdims=True), totals, np.ones(totals.shape))
    weighted_low, weighted_high = interval(all_hits, sizes, shares)
    return {
        "top1": 100 * (hits.sum(axis=1) / totals[:, 0]),
        "low": low,
        "high": high,
        "weighted": 100 * (shares * all_hits / np.maximum(sizes, 1)).sum(axis=1),
        "weighted_low": weighted_low,
        "weighted_high": weighted_high,
    }


def interval(hits: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of a weighted mean of shares: lower and upper end in percent, (R,) each.

    hits, counts: correct answers and images in each of K groups, whose images are redrawn among themselves: so the
    correct ones are binomial; (R, K), or (1, K) for all R. weights: (R, K), rows sum to 1.
    """
    recall = hits / np.maximum(counts, 1)
    # Draws of the same distribution one after another: NumPy prepares itself for each distribution only once.
    size = (*recall.shape, RESAMPLES)
    drawn = generator(0, "bootstrap").binomial(counts[:, :, None], recall[:, :, None], size)
    means = ((weights / np.maximum(counts, 1))[:, None, :] @ drawn.astype(float))[:, 0, :]
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(100 * means, [tail, 100 - tail], axis=1)
    return low, high


def place(ratios: Sequence[int]) -> np.ndarray:
    """Where ratios lie on the axis of shifts, float (R,): 512 at -9, 1 at 0, -512 at 9 (steps of two are equal)."""
    return np.array([-np.sign(ratio) * np.log2(abs(ratio)) for ratio in ratios])


def area(top1: np.ndarray) -> float:
    """Mean of a curve (R,) over `place`, by trapezoids: the area under it, divided by its width; unit of the curve."""
    x = place(RATIOS)
    return float(((top1[1:] + top1[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def few_images(images: Sequence[int]) -> str:
    """A warning, in words, of sets with few images; empty where there are none. images: of each set, (R,)."""
    few = [n for n in images if n < FEW]
    if not few:
        return ""
    return f"fewer than {FEW} images (down to {min(few)}) at {len(few)} of {len(images)} ratios: wide intervals"


def shifted_figures(
    logits: Tensor, labels: np.ndarray, order: np.ndarray, prior: np.ndarray | None = None
) -> dict[str, Any]:
    """All that is said of one run, as plain values: `n_max`; lists over RATIOS: `ratios`, `images` and those of
    `accuracies`; the `worst` ratio by plain top-1; `area` under plain top-1; `known_prior`, None without `prior`.

    logits: (N, C), all test images in file order; labels: int64 (N,); order: see `shifted_counts`, which may raise;
    prior: class distribution that the classifier learned from, (C,).
    """
    counts, shares = shifted_counts(labels, order), profiles(labels, order)
    right = answers(logits, None if prior is None else shares, prior) == labels
    figures = accuracies(right[:1], labels, counts, shares)
    known = None if prior is None else _with_worst_and_area(accuracies(right[1:], labels, counts, shares))
    about = {"n_max": int(counts.max()), "ratios": list(RATIOS), "images": counts.sum(axis=1).tolist()}
    return about | _with_worst_and_area(figures) | {"known_prior": known}


def _with_worst_and_area(figures: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures (R,) as lists, with the worst ratio by top-1 and the area under it."""
    worst = int(figures["top1"].argmin())
    more = {"worst": {"ratio": RATIOS[worst], "top1": float(figures["top1"][worst])}, "area": area(figures["top1"])}
    return {name: values.tolist() for name, values in figures.items()} | more

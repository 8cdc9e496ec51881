"""Floors: classifiers on frozen vectors (pixels, or features of any network), which a trained method has to beat.

Each returns what classifies: vectors (B, D) -> logits (B, C).
Shape legend: L labelled vectors x, float32 (L, D), with labels y, int64 (L,); C classes, each with one or more.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from methods.averaged import Averaged
from methods.classifier import head_adam, tfe
from methods.method import Network
from utils.seeding import fold_in, generator

FLOORS = ("logistic_regression", "nearest_class_mean", "tfe_head")  # the last one only on features
FOLDS, CS, USUAL_C = 3, (1e-4, 1e-3, 1e-2, 1e-1, 1.0), 1e-2
# The head's, as in the published co-learning on CIFAR; as many steps as its warm-up there.
MAX_LAM, LR, WEIGHT_DECAY, EMA_DECAY, BATCH, STEPS = 0.6, 0.002, 5e-4, 0.999, 64, 5000


def nearest_class_mean(x: Tensor, y: Tensor) -> Network:
    """The class whose mean vector is the nearest (Euclidean). Logits: minus half the squared distance, but for what is
    the same for all classes.
    """
    centre = x.mean(dim=0)  # else a large offset would cancel
    means = torch.stack([(x[y == c] - centre).mean(dim=0) for c in range(int(y.max()) + 1)])

    def predict(v: Tensor) -> Tensor:
        return (v - centre) @ means.T - means.square().sum(dim=1) / 2

    return predict


def logistic_regression(x: Tensor, y: Tensor, seed: int) -> Network:
    """scikit-learn's, multinomial, with classes weighted by n / (C n_c), on standardised vectors. C is that of CS with
    the highest balanced accuracy in cross-validation, in FOLDS parts; USUAL_C where a class has fewer images than that.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV  # here, for it takes seconds
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    scaled = standardisation(x)
    usual = {"class_weight": "balanced", "max_iter": 500, "tol": 1e-3}
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    chosen = LogisticRegressionCV(Cs=CS, cv=parts, scoring="balanced_accuracy", **usual)
    model = chosen if y.bincount().min() >= FOLDS else LogisticRegression(C=USUAL_C, **usual)
    # One thread: on a busy machine several wait for each other (16 times as long on two cores with a load of 7).
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # of versions of scikit-learn, and of the largest C, which needn't converge
        model.fit(scaled(x).numpy(), y.numpy())
    weight, bias = (torch.from_numpy(np.asarray(part, np.float32)) for part in (model.coef_, model.intercept_))
    if len(weight) == 1:  # of two classes, for the second one
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))

    def predict(v: Tensor) -> Tensor:
        return scaled(v) @ weight.T + bias

    return predict


def tfe_head(x: Tensor, y: Tensor, partners: np.ndarray, read: Callable[[np.ndarray], Tensor], seed: int) -> Network:
    """The average of a linear head that TFE trains on standardised vectors: class-balanced labelled ones, blended with
    those of partners.

    partners: places (P,) of the images that may be blended in; read: places (B,) -> vectors (B, D).
    """
    scaled, counts = standardisation(x), y.bincount()
    torch.default_generator.manual_seed(fold_in(seed, "floor head"))
    head = nn.Linear(x.shape[1], len(counts))
    teacher, learner = Averaged(head, head_adam(head, LR, WEIGHT_DECAY), EMA_DECAY), tfe(counts, MAX_LAM)
    order, starts = y.argsort(stable=True), counts.cumsum(0) - counts
    for t in range(STEPS):
        rng = generator(seed, "floor", t)
        c = torch.from_numpy(rng.integers(len(counts), size=BATCH))
        rows = order[starts[c] + (torch.from_numpy(rng.random(BATCH)) * counts[c]).long()]
        f_u = scaled(read(rng.choice(partners, BATCH)))
        torch.default_generator.manual_seed(fold_in(seed, "floor", t))
        numbers = {name: torch.from_numpy(drawn) for name, drawn in learner.draw(t, BATCH).items()}
        loss, _ = learner.loss(teacher.live, scaled(x[rows]), c, f_u, numbers)
        teacher.descend(loss)

    def predict(v: Tensor) -> Tensor:
        logits: Tensor = teacher.ema(scaled(v))
        return logits

    return predict


def standardisation(x: Tensor) -> Network:
    """vectors (B, D) -> the same with the mean 0 and the standard deviation 1 that x (L, D) has then in each dimension;
    a constant one becomes 0.
    """
    mean, sd = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(sd > 1e-6 * x.abs().amax(dim=0), 1 / sd, 0)

    def scaled(v: Tensor) -> Tensor:
        return (v - mean) * scale

    return scaled

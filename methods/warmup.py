"""How the balanced head starts: trained on features of the pre-trained momentum encoder (published code).

On CIFAR, by `warm_up`:
- Class means of the labelled features, normalised, make an imprinted classifier.
- Then every image passes once, the labelled ones in other augmentations than for the imprint. It ranks all features by
  how much they look like class c; class c gets n_max - n_c new features, each a blend of one of its own and the next
  best ranked one of other images.
- A fresh linear head learns on the resulting, balanced set.
On Small-ImageNet-127, by `warm_up_on_batches`: by the same learner as in co-learning.

Shape legend: N labelled and U unlabelled features (N, D) and (U, D), C classes, n_max images in the largest class.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from methods.averaged import Averaged, adam
from methods.classifier import on_frozen_features
from methods.method import Learner, Network
from utils.errors import UserError
from utils.seeding import generator

OUTPUT_STEPS = 300  # of the warm-up of a pre-trained network's classifier, each on all labelled features

BlendDraw = Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]


def imprint(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Weights (C, D) of a classifier: L2-normalised class means of features (N, D) (Qi et al. 2018)."""
    return normalize(one_hot(labels, num_classes).to(features).T @ features, dim=1)


def random_blends(seed: int) -> BlendDraw:
    """Draws for `balanced_features`: (c, n, n_c) -> n indices of own features below n_c, and n lambdas."""

    def draw(c: int, n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        rng = generator(seed, "warm-up blends", c)
        return rng.integers(0, count, n), rng.beta(0.75, 0.75, n)

    return draw


def balanced_features(
    f_x: Tensor, y: Tensor, f_u: Tensor, probabilities: Tensor, counts: np.ndarray, draw: BlendDraw
) -> tuple[Tensor, Tensor]:
    """Features (C n_max, D) and labels (C n_max,): the labelled ones, then each class's blends.

    probabilities: (N + U, C), those of the imprinted classifier for the labelled and the unlabelled features.
    counts: (C,) labelled images per class. Blends are l a + (1 - l) b: a is a random labelled feature of class c,
    b runs down the ranking of all features but the labelled ones of class c, none twice, l ~ Beta(0.75, 0.75).
    """
    everything, features, labels = torch.cat([f_x, f_u]), [f_x], [y]
    for c, n in enumerate((max(counts) - counts).tolist()):
        rank = probabilities[:, c].clone()
        rank[: len(y)].masked_fill_(y == c, -1.0)  # behind all others
        others = everything[_first(rank, n)]
        anchors, lam = (torch.from_numpy(drawn).to(f_x.device) for drawn in draw(c, n, counts[c]))
        lam = lam[:, None].to(f_x.dtype)
        features.append(lam * f_x[(y == c).nonzero().flatten()[anchors]] + (1 - lam) * others)
        labels.append(torch.full_like(anchors, c))
    return torch.cat(features), torch.cat(labels)


def _first(rank: Tensor, n: int) -> Tensor:
    """Indices of the n highest, equal ones in their order, (n,): a stable sort's, which is slow for many classes."""
    candidates = (~(rank < rank.topk(max(1, n)).values[-1])).nonzero().flatten()  # NaN, too: bad weights end later
    return candidates[rank[candidates].argsort(descending=True, stable=True)[:n]]


@torch.no_grad()
def collect(encoder: Network, sweep: Iterable[Any]) -> tuple[list[Tensor], list[Any]]:
    """Features (N, D) of every view of a sweep over a set, in batches (views, labels); the labels of each batch."""
    batches = [([encoder(view) for view in views], labels) for views, labels in sweep]
    features = zip(*(views for views, _ in batches), strict=True)
    return [torch.cat(view) for view in features], [labels for _, labels in batches]


def train_head(teacher: Averaged, features: Tensor, labels: Tensor, batch_size: int, steps: int, seed: int) -> None:
    """Cross-entropy on shuffled batches of the balanced set; the head's EMA follows."""
    per_pass = max(1, len(labels) // batch_size)
    for t in range(steps):
        if t % per_pass == 0:
            order = torch.from_numpy(generator(seed, "warm-up order", t).permutation(len(labels))).to(labels.device)
        rows = order[t % per_pass * batch_size :][:batch_size]
        teacher.descend(cross_entropy(teacher.live(features[rows]), labels[rows]))


def warm_up(
    encoder: Network, teacher: Averaged, data: Any, views: tuple[str, ...], steps: int, batch_size: int, seed: int
) -> None:
    """Build the balanced feature set of the labelled and unlabelled images, and train `teacher` on it, in place.

    encoder: images -> features (B, D), the momentum encoder in eval mode; teacher: a fresh head, its EMA a copy, with
    an optimiser for the warm-up alone; data: see `dataset.data.Data`; views: of the unlabelled images, the first for
    the ranking, the last, which may be the same one, for the feature; steps, batch_size: of the head's training,
    `--warm_tfe` times `--val-iteration` on `--batch-size`. Raises UserError if no image of a class can be read.
    """
    (own,), own_labels = collect(encoder, data.labelled.renamed("imprint").sweep())
    (f_x,), labels = collect(encoder, data.labelled.sweep())
    f_u, _ = collect(encoder, data.unlabelled.sweep(views))
    y, classes = torch.cat(labels), len(data.counts)
    counts = np.bincount(y.cpu(), minlength=classes)  # without images that can't be read
    if not counts.all():
        raise UserError(f"--data_root: no labelled image of {data.classes[counts.argmin()]} can be read; replace some")
    probabilities = (torch.cat([f_x, f_u[0]]) @ imprint(own, torch.cat(own_labels), classes).T).softmax(dim=1)
    features, targets = balanced_features(f_x, y, f_u[-1], probabilities, counts, random_blends(seed))
    train_head(teacher, features, targets, batch_size, steps, seed)


def warm_up_on_batches(encoder: Network, teacher: Averaged, learner: Learner, batches: Any, steps: int) -> None:
    """Train `teacher`, a new head, its EMA a copy, for `steps` steps by the classifier learner, in place.

    encoder: images -> features (B, D), the momentum encoder in eval mode; batches: `at(t)` gives balanced images, and
    partners where the learner blends.
    """
    for t in range(steps):
        loss, _ = on_frozen_features(encoder, teacher.live, learner, batches.at(t))
        teacher.descend(loss)


def warm_up_output(encoder: Network, student: Averaged, data: Any, lr: float) -> None:
    """Train a pre-trained network's classifier, in place, before the first pseudo-label: class-balanced logistic
    regression on the features of all labelled images, which stay as they are. Its average is then equal.

    encoder: images -> features (B, D), of its average; data: see `dataset.data.Data`; lr: learning rate. Not in the
    paper, whose networks are new.
    """
    live: Any = student.live.get_submodule("output")
    ema = student.ema.get_submodule("output")
    (features,), labels = collect(encoder, data.labelled.sweep(("plain",)))
    y, (scale, mean) = torch.cat(labels), torch.std_mean(features)  # one scale: rare features stay small
    features = (features - mean) / scale
    weight = 1 / y.bincount(minlength=len(data.counts)).clamp(min=1).to(features)
    optimizer = adam(live.parameters(), lr)
    for _ in range(OUTPUT_STEPS):
        optimizer.zero_grad()
        cross_entropy(live(features), y, weight).backward()
        optimizer.step()
    with torch.no_grad():
        live.weight /= scale
        live.bias -= mean * live.weight.sum(dim=1)
    ema.load_state_dict(live.state_dict())

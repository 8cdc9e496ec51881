"""Co-learning (CoSSL, section 4): three modules that depend on each other, and no gradient between them.

- Representation: an SSL method trains the network; a momentum encoder follows it.
- Classifier: a linear head learns on class-balanced, frozen features of the momentum encoder.
- Pseudo-labels: the head on the momentum encoder labels the SSL method's unlabelled images.

Shape legend: B images (3, S, S), D features, C classes.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from methods.averaged import Averaged
from methods.classifier import Learner, on_frozen_features
from methods.pseudo_labels import quality


def cossl(
    ssl: Callable, classifier: Learner, student: Averaged, teacher: Averaged, streams: Any
) -> tuple[Callable, Callable]:
    """(step, predict): `step(t) -> logs` trains once; `predict: images -> logits (B, C)` is what is evaluated.

    ssl: an SSL method with its hyper-parameters bound; classifier: a learner of `methods.classifier`;
    student: the network; teacher: the balanced head Linear(D, C); streams: `labelled`, `unlabelled` for the
    method, `balanced` (labelled images, each class equally likely) and `partners` (all images) for the learner.
    The labeller is the live head, not its EMA, on features of the momentum encoder (published code).
    """
    features = student.ema.features

    def labeller(images: Tensor) -> Tensor:
        return teacher.live(features(images))

    def predict(images: Tensor) -> Tensor:
        return teacher.ema(features(images))

    def step(t: int) -> dict[str, Tensor]:
        ((x,), y), (u, truth) = streams.labelled.at(t), streams.unlabelled.at(t)
        student.live.train()
        loss, logs, pseudo = ssl(student.live, labeller, x, y, u)
        balanced, partners = streams.balanced.at(t), streams.partners.at(t)
        loss_head, logs_head = on_frozen_features(features, teacher.live, classifier, balanced, partners)
        student.descend(loss)
        teacher.descend(loss_head)
        return logs | logs_head | quality(pseudo, truth)

    return step, predict

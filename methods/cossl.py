"""Co-learning (CoSSL, section 4): three modules that depend on each other, and no gradient between them.

- Representation: an SSL method trains the network; a momentum encoder follows it.
- Classifier: a linear head learns on class-balanced, frozen features of the momentum encoder.
- Pseudo-labels: the head on the momentum encoder labels the SSL method's unlabelled images.

Shape legend: B images (3, S, S), D features, C classes.
"""

from typing import Any

from torch import Tensor

from methods.averaged import Averaged
from methods.classifier import on_frozen_features
from methods.method import Learner, Logs, Method, Network, Step
from methods.pseudo_labels import quality


def cossl(method: Method, learner: Learner, student: Averaged, teacher: Averaged) -> tuple[Step, Network]:
    """(step, predict): `step(batch) -> logs` trains once; `predict: images -> logits (B, C)` is what is evaluated.

    student: the network; teacher: the balanced head Linear(D, C). The batch has `labelled` and `unlabelled` images for
    the method, `balanced` (labelled images, each class equally likely) and `partners` (all images) for the learner.
    The labeller is the live head, not its EMA, on features of the momentum encoder (published code).
    """
    features = student.ema.features

    def labeller(images: Tensor) -> Tensor:
        return teacher.live(features(images))

    def predict(images: Tensor) -> Tensor:
        return teacher.ema(features(images))

    def step(batch: Any) -> Logs:
        student.live.train()
        loss, logs, pseudo = method.loss(student.live, labeller, batch)
        loss_head, logs_head = on_frozen_features(features, teacher.live, learner, batch)
        student.descend(loss)
        teacher.descend(loss_head)
        return logs | logs_head | quality(pseudo, batch.unlabelled.labels)

    return step, predict

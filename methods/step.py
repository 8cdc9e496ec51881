"""The step of both stages: what trains once on a batch.

Co-learning (CoSSL, section 4) has three modules that depend on each other, and no gradient between them:
- Representation: an SSL method trains the network (`student`); a momentum encoder follows it.
- Classifier: a linear head (`teacher`) learns on class-balanced, frozen features of the momentum encoder.
- Pseudo-labels: a labeller names the classes of the SSL method's unlabelled images.

Shape legend: B images (3, S, S), D features, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from methods.averaged import Averaged
from methods.classifier import on_frozen_features
from methods.method import Draw, Learner, Logs, Method, Network
from methods.pseudo_labels import quality

PRETRAINING = ("labelled", "unlabelled")
CO_LEARNING = (*PRETRAINING, "balanced", "partners")


class Step(NamedTuple):
    """name: of the method; train: batch -> logs, once; it draws nothing, and never waits for the device. streams: the
    parts of the batch that it asks for; draws: the numbers; state: what is saved besides networks and optimisers, by
    checkpoint key. balanced: see `Method`.
    """

    name: str
    train: Callable[[Any], Logs]
    streams: tuple[str, ...]
    draws: tuple[Draw, ...]
    state: dict[str, nn.Module]
    balanced: bool = False

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the method."""
        return {"method": self.name, "class_balanced": self.balanced}

    def __call__(self, batch: Any) -> Logs:
        return self.train(batch)


def ssl_step(method: Method, student: Averaged, labeller: Network) -> Step:
    """The first stage: an SSL method by itself."""

    def train(batch: Any) -> Logs:
        student.live.train()
        loss, logs, pseudo = method.loss(student.live, labeller, batch)
        student.descend(loss)
        return logs | quality(pseudo, batch.unlabelled.labels)

    return Step(method.name, train, PRETRAINING, (method.draw,), method.state, method.balanced)


def cossl_step(
    method: Method, student: Averaged, labeller: Network, learner: Learner, teacher: Averaged, features: Network
) -> Step:
    """Co-learning. features: images -> (B, D), of the momentum encoder.

    The batch has `labelled` and `unlabelled` images for the method, `balanced` (labelled images, each class equally
    likely) and `partners` (all images) for the learner.
    """

    def train(batch: Any) -> Logs:
        student.live.train()
        loss, logs, pseudo = method.loss(student.live, labeller, batch)
        loss_head, logs_head = on_frozen_features(features, teacher.live, learner, batch)
        student.descend(loss)
        teacher.descend(loss_head)
        return logs | logs_head | quality(pseudo, batch.unlabelled.labels)

    name = f"{method.name}+CoSSL" if learner.name == "TFE" else f"{method.name}+CoSSL, {learner.name}"
    return Step(name, train, CO_LEARNING, (method.draw, learner.draw), method.state, balanced=True)

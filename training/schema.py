"""What a run writes, and what is read of it again: one description for the writers and the readers.

Shape legend: E epochs, C classes, K rows of counts of pseudo-labels, see methods.pseudo_labels.
"""

from typing import Any

from torch import Tensor
from typing_extensions import NotRequired, TypedDict

Arguments = dict[str, str | int | float | bool | None]
Recall = list[float | None]  # (C,), percent; None for a class that the test set lacks


class Tested(TypedDict):
    """Test figures of an epoch, see `metrics.evaluate`; NaN where undefined."""

    loss: float
    top1: float
    balanced: float
    gm: float
    many: float
    medium: float
    few: float
    ece: float
    recall: Recall


class Row(TypedDict):
    """An epoch: means of the training's logs; test figures of `metrics.evaluate`, and those of the held-out part where
    that is another; confusion on the test set, int64 (C, C); of the pseudo-labels counts, int64 (K, C), and what
    `diagnostics.pseudo_columns` makes of them.
    """

    train: dict[str, float]
    test: Tested
    held_out: NotRequired[Tested]
    confusion: Tensor
    counts: NotRequired[Tensor]
    pseudo: NotRequired[dict[str, float]]


class History(TypedDict):
    """Rows of all epochs, a tensor per figure: float64 (E,) or NaN; recall float64 (E, C); counts int64 (E, K, C)."""

    train: dict[str, Tensor]
    test: dict[str, Tensor]
    held_out: NotRequired[dict[str, Tensor]]
    confusion: Tensor
    counts: NotRequired[Tensor]
    pseudo: NotRequired[dict[str, Tensor]]


class Facts(TypedDict):
    """Of a run and its data. start_...: of pre-training; unlabelled_counts: None where not known, of them
    labelled_again labelled ones; ..._files: see `Dataset`; evaluated_on: "test", "held-out"; arch, ...: if pre-trained.
    """

    method: str
    class_balanced: NotRequired[bool]
    start_epoch: int
    start_step: NotRequired[int]
    classes: list[str]
    labelled_counts: list[int]
    unlabelled_counts: list[int] | None
    unlabelled: int
    labelled_again: NotRequired[int]
    img_size: int
    mean: list[float]
    std: list[float]
    resize: NotRequired[int]
    held_out_counts: NotRequired[list[int]]
    held_out_files: NotRequired[str]
    test_files: NotRequired[str]
    evaluated_on: NotRequired[str]
    arch: NotRequired[str]
    weights_sha256: NotRequired[str]


class Published(TypedDict):
    """A checkpoint of the published code: epoch, and state dicts by their keys. file: that it was read from."""

    epoch: int
    state_dict: dict[str, Any]
    ema_state_dict: dict[str, Any]
    optimizer: dict[str, Any]
    teacher_head: NotRequired[dict[str, Any]]
    ema_teacher: NotRequired[dict[str, Any]]
    emp_distb_u: NotRequired[Tensor]
    file: NotRequired[str]


class Checkpoint(Published):
    """A checkpoint of ours. epoch: whole ones that are done; step, totals: of the one that isn't, its steps that are
    done (usually 0) and sums of their logs; history: of whole epochs, None without any; seconds: of wall time.
    """

    teacher_optimizer: NotRequired[dict[str, Any]]
    picked: NotRequired[dict[str, Tensor]]
    standard_head: NotRequired[dict[str, Tensor]]
    class_prior: NotRequired[dict[str, Tensor]]
    kappa: NotRequired[dict[str, Tensor]]
    debias: NotRequired[dict[str, Tensor]]
    step: int
    totals: dict[str, Tensor]
    history: History | None
    seconds: float
    arguments: Arguments
    facts: Facts
    versions: dict[str, str | int | None]


class Figures(TypedDict):
    """Test figures in percent (loss: nats; None: undefined) and the recall of each class."""

    loss: float | None
    top1: float | None
    balanced: float | None
    gm: float | None
    many: float | None
    medium: float | None
    few: float | None
    ece: float | None
    recall: Recall
    epoch: NotRequired[int]


class Summary(Facts):
    """`summary.json`. status: running, finished, stopped, failed; last_20_mean: over `epochs_averaged` epochs; chosen:
    of the best epoch on a held-out part beside the test set; ..._seconds: of the last epoch here, None for none;
    floor: without epochs, its figures are all the same; features_of: of which method.
    """

    status: str
    floor: NotRequired[bool]
    features_of: NotRequired[str]
    reason: NotRequired[str]
    steps_per_epoch: int
    arguments: Arguments
    epochs: int
    epochs_averaged: int
    last_20_mean: Figures | None
    last_epoch: NotRequired[Figures | None]
    best: Figures | None
    chosen: NotRequired[Figures]
    versions: dict[str, str | int | None]
    processes: int
    wall_seconds: float
    step_seconds: NotRequired[float | None]
    evaluation_seconds: NotRequired[float | None]

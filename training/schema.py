"""What a run writes, and what is read of it again: one description for the writers and the readers.

Shape legend: E epochs, C classes, K rows of counts of pseudo-labels, see methods.pseudo_labels.
"""

import types
from typing import Any, Union, get_args, get_origin

from torch import Tensor
from typing_extensions import NotRequired, TypedDict, get_type_hints, is_typeddict

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
    """An epoch: means of the training's logs; test figures of `metrics.evaluate`; confusion, int64 (C, C); of the
    pseudo-labels counts, int64 (K, C), and what `diagnostics.pseudo_columns` makes of them.
    """

    train: dict[str, float]
    test: Tested
    confusion: Tensor
    counts: NotRequired[Tensor]
    pseudo: NotRequired[dict[str, float]]


class History(TypedDict):
    """The rows of all epochs, a tensor per figure: float64 (E,), NaN where undefined; `recall` float64 (E, C); counts
    int64 (E, K, C); confusion of the last epoch only.
    """

    train: dict[str, Tensor]
    test: dict[str, Tensor]
    confusion: Tensor
    counts: NotRequired[Tensor]
    pseudo: NotRequired[dict[str, Tensor]]


class Facts(TypedDict):
    """Of a run and its data. unlabelled_counts: None where not known; resize: of crops in evaluation, pixels."""

    method: str
    start_epoch: int
    classes: list[str]
    labelled_counts: list[int]
    unlabelled_counts: list[int] | None
    unlabelled: int
    img_size: int
    mean: list[float]
    std: list[float]
    resize: NotRequired[int]


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
    """`summary.json`. status: running, finished, stopped or failed; last_20_mean: over `epochs_averaged` epochs."""

    status: str
    reason: NotRequired[str]
    steps_per_epoch: int
    arguments: Arguments
    epochs: int
    epochs_averaged: int
    last_20_mean: Figures | None
    last_epoch: NotRequired[Figures | None]
    best: Figures | None
    versions: dict[str, str | int | None]
    processes: int
    wall_seconds: float


def fault(value: Any, kind: Any, name: str = "") -> str | None:
    """What is wrong with a value that was read and should be of a kind (a type as above), in words; None if nothing."""
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return f"its {name} is damaged"
        if missing := [key for key in get_type_hints(kind) if key in kind.__required_keys__ - value.keys()]:
            return f"it lacks {', '.join(missing)}"
        hints = {key: hint for key, hint in get_type_hints(kind).items() if key in value}
        return next((wrong for key, hint in hints.items() if (wrong := fault(value[key], hint, key))), None)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        wrongs = [fault(value, part, name) for part in parts]
        return None if None in wrongs else wrongs[0]
    if origin is list and isinstance(value, list):
        return next((wrong for item in value if (wrong := fault(item, parts[0], name))), None)
    if origin is dict and isinstance(value, dict):
        return next((wrong for item in value.values() if (wrong := fault(item, parts[1], name))), None)
    wanted = {float: (int, float)}.get(kind, origin or kind)
    whole = kind is Any or (isinstance(value, wanted) and (kind is bool or not isinstance(value, bool)))
    return None if whole else f"its {name} is damaged"

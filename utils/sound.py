"""What the entries of a checkpoint must be: a file may be whole and yet not what it should be.

Shape legend: C classes.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

PARTS, ARRAYS = ("train", "test", "pseudo"), ("counts", "confusion")  # of a row of the history


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in dicts, lists and tuples, however they lie in each other or refer to themselves."""
    found, rest = set(), [value]
    while rest:
        value = rest.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in found:
            found.add(id(value))
            rest += value.values() if isinstance(value, dict) else value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _all(sound: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    """Whether a value is a list (of that length) whose items are all sound."""
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(sound, value))


def _is(kind: type, valid: Callable[[Any], bool] = lambda value: True) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) and not isinstance(value, bool) and valid(value)


def _row(row: Any) -> bool:
    """Whether that is a row of a history, see utils.log."""
    if not isinstance(row, dict) or not {"train", "test"} <= row.keys():
        return False
    parts, arrays = [[row[name] for name in names if name in row] for names in (PARTS, ARRAYS)]
    if not all(isinstance(part, dict) for part in parts) or not {"loss", "recall"} <= row["test"].keys():
        return False
    figures = [value for part in parts for name, value in part.items() if name != "recall"]
    tables = all(isinstance(array, Tensor) and array.ndim == 2 for array in arrays)
    return tables and all(map(_number, figures)) and _all(_number_or_none)(row["test"]["recall"])


def _facts(facts: Any) -> bool:
    return isinstance(facts, dict) and all(sound(facts[name]) for name, sound in FACTS.items() if name in facts)


def _arguments(arguments: Any) -> bool:
    kinds = (str, int, float, bool, type(None))
    return isinstance(arguments, dict) and all(isinstance(value, kinds) for value in arguments.values())


def _totals(totals: Any) -> bool:
    """Whether these are sums over steps: of losses and the like, 0-d, and of counts of pseudo-labels, (rows, C)."""
    dims = lambda name: 2 if name == "pseudo" else 0
    sums = isinstance(totals, dict) and all(isinstance(value, Tensor) for value in totals.values())
    return sums and all(value.ndim == dims(name) and not value.is_complex() for name, value in totals.items())


_count = _is(int, lambda value: value >= 0)
_side = _is(int, lambda value: 0 < value <= 1024)
FACTS = {
    "method": _is(str), "classes": _all(_is(str)), "labelled_counts": _all(_count), "unlabelled": _count,
    "unlabelled_counts": lambda value: value is None or _all(_count)(value), "img_size": _side, "resize": _side,
    "mean": _all(_number, 3), "std": _all(_number, 3), "start_epoch": _count,
}  # fmt: skip
SOUND = {
    "epoch": _count, "step": _count, "totals": _totals, "history": _all(_row), "arguments": _arguments,
    "facts": _facts, "seconds": _is(float, math.isfinite),
}  # fmt: skip

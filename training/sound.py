"""What the entries of a checkpoint must be: a file may be whole and yet not what it should be.

Shape legend: C classes, K rows of the counts of pseudo-labels, see methods.pseudo_labels.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from methods.pseudo_labels import ROWS

PARTS = ("train", "test", "pseudo")  # of a row of the history
SHOWN = ("top1", "balanced", "gm")  # numbers in every test of a run; the others may be undefined
TESTED = {"loss", "recall", "many", "medium", "few", *SHOWN}  # what tests of all versions have
MOST = 10**12  # no whole number of a run is as large
NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # characters that no name of a file or class has


def unsound(state: dict[str, Any]) -> list[str]:
    """The names of the entries that aren't what a run saves, or, if each by itself is, that contradict others."""
    wrong = [key for key, sound in SOUND.items() if key in state and not sound(state[key])]
    return wrong or _contradicting(state)


def _contradicting(state: dict[str, Any]) -> list[str]:
    """Entries for other numbers of classes, epochs or steps than others are; none for entries that are absent."""
    facts, history, totals = state.get("facts", {}), state.get("history", []), state.get("totals", {})
    step, pseudo = state.get("step", 0), [{"counts": totals["pseudo"]}] if "pseudo" in totals else []
    found = {"ema_state_dict": _sizes_of_weights(state.get("ema_state_dict")), "facts": _sizes_of_facts(facts)}
    found |= {"history": _sizes(history), "totals": _sizes(pseudo)}
    agreed: dict[str, int] = {}
    wrong = {key for key, sizes in found.items() for name, n in sizes if agreed.setdefault(name, n) != n}
    wrong |= {"history"} if len(history) > state["epoch"] else set()
    wrong |= {"totals"} if bool(totals) != (step > 0) else set()
    wrong |= {"step"} if step > state.get("arguments", {}).get("val_iteration", step) else set()
    return sorted(wrong)


def _sizes_of_weights(weights: Any) -> Iterator[tuple[str, int]]:
    """("C" or "K", what it is) by the weights of a network: the rows of its classifier."""
    for name in ("output.weight", "fc.weight"):
        if isinstance(weights, dict) and isinstance(weights.get(name), Tensor) and weights[name].ndim:
            yield "C", len(weights[name])


def _sizes_of_facts(facts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    lists = (facts.get(name) for name in ("classes", "labelled_counts", "unlabelled_counts"))
    yield from (("C", len(values)) for values in lists if values is not None)
    # Where the truth isn't known, some rows are missing; before there were facts, it always was.
    yield "K", len(ROWS) if facts.get("unlabelled_counts", True) else 2


def _sizes(rows: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for row in rows:
        if "test" in row:
            yield "C", len(row["test"]["recall"])
        if "counts" in row:
            yield from zip("KC", row["counts"].shape, strict=True)
        if "confusion" in row:
            yield from (("C", n) for n in row["confusion"].shape)


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
    return isinstance(value, float) or (type(value) is int and abs(value) < MOST)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _all(sound: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    """Whether a value is a list (of that length) whose items are all sound."""
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(sound, value))


def _is(kind: type, valid: Callable[[Any], bool] = lambda value: True) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) and not isinstance(value, bool) and valid(value)


def _row(row: Any) -> bool:
    """Whether that is a row of a history, see training.log."""
    if not isinstance(row, dict) or not {"train", "test"} <= row.keys():
        return False
    parts = [row[name] for name in PARTS if name in row]
    if not all(isinstance(part, dict) for part in parts) or not row["test"].keys() >= TESTED:
        return False
    figures = [item for part in parts for item in part.items() if item[0] != "recall"]
    named = all(_is(str, str.isprintable)(name) and _number(value) for name, value in figures)
    tables = all(_table(row[name]) for name in ("counts", "confusion") if name in row)
    shown = named and all(math.isfinite(row["test"][name]) for name in SHOWN)
    return shown and tables and _all(_number_or_none)(row["test"]["recall"])


def _table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.dtype == torch.int64


def _facts(facts: Any) -> bool:
    return isinstance(facts, dict) and all(sound(facts[name]) for name, sound in FACTS.items() if name in facts)


def _arguments(arguments: Any) -> bool:
    if not _plain(arguments):
        return False
    names = (arguments.get(name) for name in ("dataset", "data_root", "recipe", "resume"))
    return all(name is None or _name(name) for name in names) and _count(arguments.get("val_iteration", 0))


def _plain(values: Any) -> bool:
    """Whether these are strings, numbers and the like by their names."""
    single = lambda value: _number_or_none(value) or isinstance(value, (str, bool))
    return isinstance(values, dict) and all(isinstance(key, str) and single(value) for key, value in values.items())


def _totals(totals: Any) -> bool:
    """Whether these are sums over steps: of losses and the like, 0-d, and of counts of pseudo-labels, (K, C)."""
    scalar = lambda value: isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
    sums = isinstance(totals, dict) and all(_is(str, str.isprintable)(name) for name in totals)
    return sums and all(_table(value) if name == "pseudo" else scalar(value) for name, value in totals.items())


_count = _is(int, lambda value: 0 <= value < MOST)
_name = _is(str, lambda value: not NO_NAME.search(value))
_side = _is(int, lambda value: 0 < value <= 1024)
FACTS = {
    "method": _is(str, str.isprintable),
    "classes": _all(_name),
    "unlabelled": _count,
    "labelled_counts": lambda value: _all(_count)(value) and any(value),
    "unlabelled_counts": lambda value: value is None or _all(_count)(value),
    "img_size": _side,
    "resize": _side,
    "mean": _all(_number, 3),
    "std": _all(_number, 3),
    "start_epoch": _count,
}
SOUND = {
    "epoch": _count,
    "step": _count,
    "totals": _totals,
    "history": _all(_row),
    "arguments": _arguments,
    "facts": _facts,
    "seconds": _is(float, math.isfinite),
    "versions": _plain,
}

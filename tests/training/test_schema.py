"""What is wrong with what was read: in words, however deep it lies; and nothing is with what a run leaves."""

import json
from typing import Any, TypedDict

import pytest
import torch
from helpers.scripts import load_checkpoint
from torch import Tensor
from typing_extensions import NotRequired

from training.faults import fault
from training.schema import Arguments, Checkpoint, Published, Summary


class Inner(TypedDict):
    x: float
    names: list[str]
    tensor: NotRequired[Tensor]


class Outer(Inner):
    n: int
    inner: Inner
    rows: list[Inner]
    table: dict[str, int]
    maybe: str | None
    anything: Any
    later: NotRequired[Inner]


def inner(**changed) -> dict:
    return {"x": 1.5, "names": ["a"]} | changed


def outer(**changed) -> dict:
    whole = {"n": 1, "inner": inner(), "rows": [inner(), inner()], "table": {"a": 1}, "maybe": None, "anything": set()}
    return inner() | whole | changed


@pytest.mark.parametrize(
    "value",
    [
        outer(),
        outer(x=2, rows=[], table={}, names=[], maybe="text"),
        outer(tensor=torch.zeros(1), later=inner(tensor=torch.zeros(2))),
        outer(unheard_of=object()),
    ],
)
def test_whole(value):
    assert fault(value, Outer, "content") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "its content is damaged"),
        ([outer()], "its content is damaged"),
        ({}, "it lacks x, names, n, inner, rows, table, maybe, anything"),
        ({key: value for key, value in outer().items() if key not in ("n", "names")}, "it lacks names, n"),
        (outer(inner={"x": 1.0}), "it lacks names"),
        (outer(rows=[inner(), {"names": []}]), "it lacks x"),
        (outer(later={}), "it lacks x, names"),
        (outer(n=1.0), "its n is damaged"),
        (outer(n=True), "its n is damaged"),
        (outer(n=None), "its n is damaged"),
        (outer(x="1"), "its x is damaged"),
        (outer(x=False), "its x is damaged"),
        (outer(inner=[]), "its inner is damaged"),
        (outer(inner=inner(names=["a", 1])), "its names is damaged"),
        (outer(inner=inner(tensor=[0.0])), "its tensor is damaged"),
        (outer(rows=({},)), "its rows is damaged"),
        (outer(rows=[inner(), None]), "its rows is damaged"),
        (outer(rows=[inner(), inner(x=None)]), "its x is damaged"),
        (outer(table={"a": 1, "b": "2"}), "its table is damaged"),
        (outer(table=[1]), "its table is damaged"),
        (outer(maybe=3), "its maybe is damaged"),
        (outer(later=inner(names="a")), "its names is damaged"),
    ],
)
def test_what_is_missing_or_of_another_type_is_named(value, words):
    assert fault(value, Outer, "content") == words


@pytest.mark.parametrize("value", [True, 1, 1.5, "text", None])
def test_an_argument_is_a_plain_value(value):
    assert fault({"a": value}, Arguments, "content") is None
    assert fault({"a": [value]}, Arguments, "content") == "its content is damaged"


@pytest.mark.parametrize(
    "script", ["train_cifar_fix.py", "train_cifar_mix.py", "train_cifar_remix.py", "train_cifar_supervised.py"]
)
def test_nothing_is_wrong_with_what_a_run_leaves(script, pretrained_by):
    out = pretrained_by(script)
    summary = json.loads((out / "summary.json").read_text())
    assert fault(summary, Summary, "content") is None
    assert fault(summary | {"best": None, "last_20_mean": None}, Summary, "content") is None
    for name in ("checkpoint_1.pth.tar", "checkpoint.pth.tar"):
        state = load_checkpoint(out / name)
        assert fault(state, Checkpoint, "content") is None
        assert fault(state, Published, "content") is None
        assert state["history"]


@pytest.mark.parametrize("part", ["summary", "checkpoint"])
def test_each_entry_that_a_run_leaves_is_needed_or_known(part, pretrained):
    """What a run writes is what the schema describes, no more and no less."""
    if part == "summary":
        found, kind = json.loads((pretrained / "summary.json").read_text()), Summary
    else:
        found, kind = load_checkpoint(pretrained / "checkpoint.pth.tar"), Checkpoint
    assert kind.__required_keys__ <= found.keys() <= kind.__required_keys__ | kind.__optional_keys__
    for key in kind.__required_keys__:
        assert (
            fault({name: value for name, value in found.items() if name != key}, kind, "content") == f"it lacks {key}"
        )
        assert fault(found | {key: {1}}, kind, "content") == f"its {key} is damaged"

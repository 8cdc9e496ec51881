"""The figures of a run's epochs: their history, its summary as numbers, and `log.txt`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training.faults import fault
from training.history import SCALARS, Log, averaged_epochs, extended, length, log_columns, summarise, versions
from training.schema import History
from utils.files import to_json


def epoch(balanced: float, **others) -> dict:
    return dict.fromkeys(SCALARS, balanced) | {"recall": [balanced, None, 2 * balanced]} | others


def row(test: dict, **others) -> dict:
    return {"train": {"loss": 1.0}, "test": test, "confusion": torch.zeros(3, 3)} | others


def history_of(rows: list[dict]) -> History | None:
    history = None
    for one in rows:
        history = extended(history, one)
    return history


def summary_of(tested: list[dict]) -> dict:
    return summarise(history_of([row(test) for test in tested]))


def test_history_has_a_column_per_figure():
    """As a list of rows has; the one before stays as it is."""
    rows = [
        row(
            epoch(10.0 * n, medium=math.nan),
            counts=torch.full((5, 3), n),
            pseudo={"pl_kl": n / 3},
            confusion=torch.eye(n),
        )
        for n in range(1, 6)
    ]
    before, history = history_of(rows[:4]), history_of(rows)
    assert (length(None), length(before), length(history)) == (0, 4, 5)
    assert fault(history, History, "history") is None
    for part in ("train", "test", "pseudo"):
        for name in history[part].keys() - {"recall"}:
            column = history[part][name]
            expected = torch.tensor([one[part][name] for one in rows], dtype=torch.float64)
            torch.testing.assert_close(column, expected, rtol=0, atol=0, equal_nan=True)
    assert history["test"]["recall"].shape == (5, 3) and history["test"]["recall"][:, 1].isnan().all()
    assert torch.equal(history["test"]["recall"][:, 2], 2 * history["test"]["balanced"])
    assert torch.equal(history["counts"], torch.stack([one["counts"] for one in rows]))
    assert torch.equal(history["confusion"], torch.eye(5))


def test_a_figure_that_is_new_is_undefined_before():
    """A method may be given one more figure between two parts of a run."""
    history = history_of([row(epoch(1.0)), row(epoch(2.0), train={"loss": 0.5, "loss_new": 3.0})])
    assert history["train"]["loss"].tolist() == [1, 0.5]
    assert history["train"]["loss_new"].tolist() == [pytest.approx(math.nan, nan_ok=True), 3]


def test_summary_is_that_of_a_loop():
    random = np.random.default_rng(0)
    tested = [
        {name: random.uniform(0, 100) for name in SCALARS} | {"recall": random.uniform(0, 100, 4).tolist()}
        for _ in range(137)
    ]
    found, last = summary_of(tested), tested[-20:]
    for name in SCALARS:
        best = min if name in ("loss", "ece") else max
        assert found["last_20_mean"][name] == pytest.approx(sum(one[name] for one in last) / 20)
        assert found["best"][name] == best(one[name] for one in tested)
    for c in range(4):
        assert found["last_20_mean"]["recall"][c] == pytest.approx(sum(one["recall"][c] for one in last) / 20)
    top = max(range(137), key=lambda n: tested[n]["balanced"])
    assert (found["best"]["epoch"], found["best"]["recall"]) == (top + 1, tested[top]["recall"])
    assert found["last_epoch"] == tested[-1]


def test_summary_averages_the_last_twenty():
    """As published: of 100 epochs of co-learning, of 500 of pre-training."""
    summary = summary_of([epoch(float(n), loss=150.0 - n) for n in range(1, 101)])
    assert summary["epochs_averaged"] == 20
    assert summary["last_20_mean"]["balanced"] == 90.5  # of 81 .. 100
    assert summary["last_20_mean"]["loss"] == 59.5
    assert summary["last_20_mean"]["recall"] == [90.5, None, 181]
    assert [averaged_epochs(n) for n in (1, 9, 10, 50, 99, 100, 500)] == [1, 1, 2, 10, 19, 20, 20]


def test_summary_of_a_short_run():
    """Its last fifth, one epoch at least; and its last epoch."""
    summary = summary_of([epoch(float(n)) for n in range(1, 24)])
    assert summary["epochs_averaged"] == 4
    assert summary["last_20_mean"]["top1"] == 21.5  # of 20 .. 23
    assert summary["last_epoch"] == epoch(23.0)
    summary = summary_of([epoch(10.0), epoch(30.0)])
    assert (summary["epochs_averaged"], summary["last_20_mean"]) == (1, summary["last_epoch"])


def test_before_its_first_epoch_a_run_has_no_figures():
    assert summarise(None) == {"epochs_averaged": 0} | dict.fromkeys(("last_20_mean", "last_epoch", "best"))


def test_summary_takes_each_figures_own_best():
    history = [
        epoch(10.0, loss=0.3, top1=80.0),
        epoch(30.0, loss=0.5, top1=70.0),
        epoch(30.0, loss=0.4, top1=60.0),
    ]
    best = summary_of(history)["best"]
    assert (best["top1"], best["loss"], best["balanced"], best["epoch"]) == (80, 0.3, 30, 2)
    assert best["recall"] == [30, None, 60]


def test_summary_of_undefined_figures_is_valid_json():
    """Two classes have no medium one; an epoch that diverged is never the best."""
    history = [
        epoch(math.nan, medium=math.nan),
        epoch(1.0, medium=math.nan, loss=math.inf),
        epoch(0.5, medium=math.nan),
    ]
    summary = json.loads(to_json(summary_of(history)))
    assert summary["last_20_mean"]["medium"] is None
    assert summary["best"]["medium"] is None
    assert (summary["best"]["epoch"], summary["best"]["loss"]) == (2, 0.5)


def test_versions_are_valid_json():
    found = json.loads(to_json(versions()))
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cpus"] >= 1


def test_log_has_a_line_per_epoch_up_to_the_last(tmp_path: Path):
    """The training's loss and the test's have names of their own; a run of the published code lacks its first rows."""
    figures = {"pseudo": {"pl_kl": math.nan}}
    rows = [row(epoch(10.0 * n, loss=2.0), train={"loss": 1 / n, "mask": 0.5}, **figures) for n in (1, 2)]
    columns = log_columns(rows[0])
    assert (columns["loss"], columns["test_loss"]) == (1, 2)
    assert columns.keys() == {"mask", "test_loss", "pl_kl", *SCALARS}
    Log(tmp_path / "log.txt").write(history_of(rows), 5)
    header, *lines = [line.split("\t") for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert header == ["epoch", *columns]
    assert [line[0] for line in lines] == ["4", "5"]
    assert [float(line[header.index("balanced")]) for line in lines] == [10, 20]
    assert lines[0][header.index("pl_kl")] == "nan"


def test_log_is_the_same_written_at_once_or_epoch_by_epoch(tmp_path: Path):
    """Also where a figure is new: then the lines before have it, too."""
    rows = [row(epoch(n / 7)) for n in range(1, 5)]
    rows += [row(epoch(n / 7), train={"loss": 1.0, "loss_new": n / 3}) for n in range(5, 8)]
    log, history = Log(tmp_path / "parts.txt"), None
    for n, one in enumerate(rows, 1):
        history = extended(history, one)
        log.write(history, n)
        Log(tmp_path / "whole.txt").write(history, n)
        assert (tmp_path / "parts.txt").read_text() == (tmp_path / "whole.txt").read_text()
    header, *lines = [line.split("\t") for line in (tmp_path / "parts.txt").read_text().splitlines()]
    assert [line[header.index("loss_new")] for line in lines] == ["nan"] * 4 + ["1.66667", "2", "2.33333"]

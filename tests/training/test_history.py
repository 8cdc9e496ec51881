"""The figures of a run's epochs: their summary as numbers, and `log.txt`."""

import json
import math
from pathlib import Path

import torch

from training.history import SCALARS, averaged_epochs, log_columns, summarise, versions, write_log
from utils.files import to_json


def epoch(balanced: float, **others) -> dict:
    return dict.fromkeys(SCALARS, balanced) | {"recall": [balanced, None, 2 * balanced]} | others


def test_summary_averages_the_last_twenty():
    """As published: of 100 epochs of co-learning, of 500 of pre-training."""
    summary = summarise([epoch(float(n), loss=150.0 - n) for n in range(1, 101)])
    assert summary["epochs_averaged"] == 20
    assert summary["last_20_mean"]["balanced"] == 90.5  # of 81 .. 100
    assert summary["last_20_mean"]["loss"] == 59.5
    assert summary["last_20_mean"]["recall"] == [90.5, None, 181]
    assert [averaged_epochs(n) for n in (1, 9, 10, 50, 99, 100, 500)] == [1, 1, 2, 10, 19, 20, 20]


def test_summary_of_a_short_run():
    """Its last fifth, one epoch at least; and its last epoch."""
    summary = summarise([epoch(float(n)) for n in range(1, 24)])
    assert summary["epochs_averaged"] == 4
    assert summary["last_20_mean"]["top1"] == 21.5  # of 20 .. 23
    assert summary["last_epoch"] == epoch(23.0)
    summary = summarise([epoch(10.0), epoch(30.0)])
    assert (summary["epochs_averaged"], summary["last_20_mean"]) == (1, summary["last_epoch"])


def test_before_its_first_epoch_a_run_has_no_figures():
    assert summarise([]) == {"epochs_averaged": 0} | dict.fromkeys(("last_20_mean", "last_epoch", "best"))


def test_summary_takes_each_figures_own_best():
    history = [
        epoch(10.0, loss=0.3, top1=80.0),
        epoch(30.0, loss=0.5, top1=70.0),
        epoch(30.0, loss=0.4, top1=60.0),
    ]
    best = summarise(history)["best"]
    assert (best["top1"], best["loss"], best["balanced"], best["epoch"]) == (80, 0.3, 30, 2)
    assert best["recall"] == [30, None, 60]


def test_summary_of_undefined_figures_is_valid_json():
    """Two classes have no medium one; an epoch that diverged is never the best."""
    history = [
        epoch(math.nan, medium=math.nan),
        epoch(1.0, medium=math.nan, loss=math.inf),
        epoch(0.5, medium=math.nan),
    ]
    summary = json.loads(to_json(summarise(history)))
    assert summary["last_20_mean"]["medium"] is None
    assert summary["best"]["medium"] is None
    assert (summary["best"]["epoch"], summary["best"]["loss"]) == (2, 0.5)


def test_versions_are_valid_json():
    found = json.loads(to_json(versions()))
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cpus"] >= 1


def test_log_has_a_line_per_epoch_up_to_the_last(tmp_path: Path):
    """The training's loss and the test's have names of their own; a run of the published code lacks its first rows."""
    rows = [{"train": {"loss": 1 / n, "mask": 0.5}, "test": epoch(10.0 * n, loss=2.0)} for n in (1, 2)]
    rows = [row | {"pseudo": {"pl_kl": math.nan}} for row in rows]
    columns = log_columns(rows[0])
    assert (columns["loss"], columns["test_loss"]) == (1, 2)
    assert columns.keys() == {"mask", "test_loss", "pl_kl", *SCALARS}
    write_log(tmp_path / "log.txt", rows, 5)
    header, *lines = [line.split("\t") for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert header == ["epoch", *columns]
    assert [line[0] for line in lines] == ["4", "5"]
    assert [float(line[header.index("balanced")]) for line in lines] == [10, 20]
    assert lines[0][header.index("pl_kl")] == "nan"

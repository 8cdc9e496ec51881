"""The summary of a run's epochs, as numbers and as a file."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from training.summary import SCALARS, summarise, versions
from utils.files import atomic_write_text, to_json


def epoch(balanced: float, **others) -> dict:
    return dict.fromkeys(SCALARS, balanced) | {"recall": [balanced, None, 2 * balanced]} | others


def test_summary_averages_the_last_twenty():
    summary = summarise([epoch(float(n), loss=50.0 - n) for n in range(1, 31)])
    assert (summary["epochs"], summary["epochs_averaged"]) == (30, 20)
    assert summary["last_20_mean"]["balanced"] == 20.5  # of 11 .. 30
    assert summary["last_20_mean"]["loss"] == 29.5
    assert summary["last_20_mean"]["recall"] == [20.5, None, 41]


def test_summary_of_a_short_run():
    summary = summarise([epoch(10.0), epoch(30.0)])
    assert (summary["epochs"], summary["epochs_averaged"]) == (2, 2)
    assert summary["last_20_mean"]["top1"] == 20
    with pytest.raises(ValueError, match="no epoch"):
        summarise([])


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


def test_atomic_write_leaves_nothing_beside_the_file(tmp_path: Path):
    path = tmp_path / "summary.json"
    atomic_write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        atomic_write_text(path, "\ud800")
    assert path.read_text() == "old\n"
    atomic_write_text(path, "new é\n")
    assert path.read_text(encoding="utf-8") == "new é\n"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_its_name_and_then_the_name(tmp_path: Path, monkeypatch):
    """Only then does a file survive a power cut: content to the disk, rename, folder to the disk."""
    done, fsync, replace = [], os.fsync, Path.replace
    name = lambda handle: Path(f"/proc/self/fd/{handle}").readlink().name
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(("to disk", name(handle))), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (done.append(("renamed", new.name)), replace(old, new)))
    atomic_write_text(tmp_path / "x", "text")
    assert done == [("to disk", ".x.tmp"), ("renamed", "x"), ("to disk", tmp_path.name)]

"""The acceptance script: its stages in their small form, what it leaves, how it ends a stage, what it leaves out."""

import json
import math
import os
import select
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

import pytest
from helpers.forked import run_forked
from helpers.scripts import HANG, ROOT

from benchmarks import accept, stages
from benchmarks.accept import STAGES

HANGING = """if True:
    import subprocess, sys, time
    subprocess.Popen(["sleep", "600"], stdout=open("alive", "w"))
    open(sys.argv[2], "w").write('{"name": "a", "value": 1, "unit": "", "ok": true}\\n{"name": "cut')
    time.sleep(600)
"""


def found_by(name: str, folder: Path, end: float = math.inf) -> list[dict]:
    """What a stage finds in its small form."""
    file = folder / "found.jsonl"
    getattr(stages, name)(stages.Stage(Namespace(file=file, data_root=folder, end=end, dry=True)))
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_stages_of_acceptance_in_their_small_form(name, tmp_path, monkeypatch):
    """Each finds what it looks for. Scripts are forked; modules (torchrun, pytest) are started."""

    def forked(*words, run=stages.run, **options):
        return run(*words, **options) if words[0] == "-m" else run_forked(*words, **options)

    monkeypatch.setattr(stages, "run", forked)
    found = found_by(name, tmp_path)
    assert found and not [one for one in found if one["ok"] is False]


@pytest.mark.slow
def test_acceptance_leaves_a_table(tmp_path):
    only = ["facts", "flags"]
    command = [
        sys.executable,
        "benchmarks/accept.py",
        "--out",
        tmp_path,
        "--data_root",
        tmp_path,
        "--dry",
        "--only",
        *only,
    ]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    results = json.loads((tmp_path / "results.json").read_text())["stages"]
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, f"{done.stdout}\n{log[-3000:]}"
    assert list(results) == only
    assert all(stage["state"] == "ok" and stage["found"] for stage in results.values())
    assert (tmp_path / "table.txt").read_text().count("\n") > len(only)


@pytest.mark.slow
def test_a_stage_without_time_is_skipped(tmp_path):
    command = [sys.executable, "benchmarks/accept.py", "--out", tmp_path, "--dry", "--only", "facts", "bits"]
    done = subprocess.run([*map(str, command), "--seconds", "31"], cwd=ROOT, capture_output=True, text=True)
    assert "bits skipped" in done.stdout  # 40 seconds must be left
    assert json.loads((tmp_path / "results.json").read_text())["stages"]["bits"]["state"] == "skipped"


@pytest.mark.parametrize(("name", "settings"), [("times", 4), ("flags", 3)])
def test_a_setting_without_time_is_a_finding(name, settings, tmp_path):
    found = found_by(name, tmp_path, end=time.monotonic())
    assert len({one["name"] for one in found}) == len(found) == settings
    assert all(one["name"].endswith(": skipped") and one["value"] <= -3 and one["ok"] is None for one in found)


def test_cases_of_resume_run_beside_each_other_and_are_told_in_order(monkeypatch, tmp_path):
    first_may_end = threading.Event()
    monkeypatch.setattr(stages, "CUDA", False)
    monkeypatch.setattr(stages, "interrupted", lambda words: [("first", first_may_end.wait(HANG), True)])
    monkeypatch.setattr(stages, "begun_on_the_cpu", lambda: first_may_end.set() or [("last", [1, 0], False)])
    found = [(one["name"], one["value"], one["ok"]) for one in found_by("resume", tmp_path)]
    assert found == [("first", True, True), ("last", [1, 0], False)]


def test_a_stage_that_hangs_leaves_what_it_found_and_no_process(monkeypatch, tmp_path):
    """The time limit begins once it has found something, however slow the machine is."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "stages.py").write_text(HANGING)
    monkeypatch.setattr(accept, "ROOT", tmp_path)
    os.mkfifo(tmp_path / "alive")
    alive, wait = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK), subprocess.Popen.wait

    def patient(process, timeout):
        while process.poll() is None and not (tmp_path / "facts.jsonl").exists():
            time.sleep(0.01)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", patient)
    result = accept.run_stage("facts", tmp_path, Namespace(data_root=tmp_path, dry=True), limit=1)
    assert (result["state"], [one["name"] for one in result["found"]]) == ("FAILED", ["a"])
    assert result["line"] == "1 findings, exit -9"
    assert select.select([alive], [], [], 10)[0] and os.read(alive, 1) == b""  # nobody holds it open
    os.close(alive)

"""CUDA graphs and what goes with them: refusals, the acceptance script's dry run.

The graph itself needs a GPU: `benchmarks/accept.py` compares its bits with those of eager steps.
"""

import json
import math
import subprocess
import sys
from argparse import Namespace

import pytest
from helpers.scripts import ROOT, TINY, assert_refused, run_here

from benchmarks import stages
from benchmarks.accept import STAGES
from training.speed import check_cuda_flags
from utils.errors import UserError


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("train_cifar_fix", ["--graph"], "--graph: for a CUDA GPU"),
        ("train_cifar_fix", ["--tf32"], "--tf32: for a CUDA GPU"),
        ("train_cifar_remix", ["--cudnn_benchmark"], "--cudnn_benchmark: for a CUDA GPU"),
        ("train_food_fix", ["--graph"], "unrecognized arguments: --graph"),
    ],
)
def test_flags_for_a_gpu_are_refused_in_one_line(script, flags, words, tmp_path):
    settings = TINY if "cifar" in script else ["--gpu", "cpu"]
    assert_refused(run_here(f"{script}.py", *settings, *flags, "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ranks", "compiling", "words"),
    [(2, None, "--graph: for one process"), (1, "reduce-overhead", "--graph: a step is one graph already")],
)
def test_a_graph_is_of_one_process_and_of_steps_that_are_no_graph_yet(ranks, compiling, words, as_rank):
    flags = Namespace(graph=True, tf32=True, cudnn_benchmark=False, compile=compiling)
    as_rank(0, ranks)
    with pytest.raises(UserError, match=words):
        check_cuda_flags(flags, "cuda")
    as_rank(0, 1)
    check_cuda_flags(Namespace(**vars(flags) | {"compile": "default"}), "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_stages_of_acceptance_in_their_small_form(name, tmp_path):
    """Each finds what it looks for."""
    file = tmp_path / "found.jsonl"
    getattr(stages, name)(stages.Stage(Namespace(file=file, data_root=tmp_path, end=math.inf, dry=True)))
    found = [json.loads(line) for line in file.read_text().splitlines()]
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

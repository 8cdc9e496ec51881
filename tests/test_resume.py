"""Killed and resumed runs repeat the bits of runs that weren't, in both stages; other runs aren't mixed up."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, assert_refused, command, run_script

EPOCHS = 4
LENGTH = ["--epoch", EPOCHS, "--val-iteration", 12]
RECIPES = {
    "train_cifar_fix.py": {"epoch", "state_dict", "ema_state_dict", "optimizer", "history", "seconds", "arguments"},
    "train_cifar_fix_cossl.py": {"epoch", "state_dict", "ema_state_dict", "optimizer", "teacher_head", "ema_teacher",
                                 "teacher_optimizer", "history", "seconds", "arguments"},
}  # fmt: skip


@pytest.fixture(params=RECIPES)
def recipe(request, pretrained):
    """(script, its flags besides --out, keys of its checkpoints)"""
    start = ["--resume", pretrained / "checkpoint.pth.tar"] if "cossl" in request.param else []
    return request.param, [*TINY, *LENGTH, *start], RECIPES[request.param]


def run_and_kill(out: Path, after: int, script: str, flags: list) -> None:
    """Start a run and kill -9 it in the middle of the epoch that follows epoch `after`."""
    process = subprocess.Popen(
        command(script, *flags, "--out", out), cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    for line in process.stdout:
        if line.startswith(f"epoch {after}/"):
            break
    time.sleep(0.1)
    process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert torch.load(out / "checkpoint.pth.tar", weights_only=True)["epoch"] in (after, after + 1)


def assert_same(a, b, path="checkpoint"):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if path + f".{key}" not in ("checkpoint.seconds", "checkpoint.arguments"):
                assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def summary(out: Path) -> dict:
    found = json.loads((out / "summary.json").read_text())
    found.pop("wall_seconds")
    found["arguments"].pop("out")
    return found


def test_killed_run_goes_on_bit_for_bit(recipe, tmp_path):
    script, flags, keys = recipe
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run_script(script, *flags, "--out", whole)
    assert result.returncode == 0, result.stderr
    run_and_kill(killed, 2, script, flags)
    result = run_script(script, *flags, "--out", killed)
    assert result.returncode == 0, result.stderr
    assert "epoch 2/" not in result.stdout
    a, b = (torch.load(out / "checkpoint.pth.tar", weights_only=True) for out in (whole, killed))
    assert set(a) == keys
    assert a["epoch"] == EPOCHS
    assert_same(a, b)
    assert (whole / "log.txt").read_text() == (killed / "log.txt").read_text()
    assert summary(whole) == summary(killed)
    assert not list(killed.glob(".*.tmp"))
    # A finished run says so again, and trains no more.
    before = (killed / "checkpoint.pth.tar").stat().st_mtime_ns
    result = run_script(script, *flags, "--out", killed)
    assert result.returncode == 0
    assert "mean balanced accuracy" in result.stdout
    assert (killed / "checkpoint.pth.tar").stat().st_mtime_ns == before


def test_resume_flag_goes_back_to_that_checkpoint(pretrained, tmp_path):
    """Pre-training from checkpoint_1 of another folder, and made longer: the same as that run from there on."""
    flags = [*TINY, "--val-iteration", 6, "--resume", pretrained / "checkpoint_1.pth.tar"]
    result = run_script("train_cifar_fix.py", *flags, "--epoch", 3, "--out", tmp_path / "longer")
    assert result.returncode == 0, result.stderr
    mine, theirs = ((out / "log.txt").read_text().splitlines() for out in (tmp_path / "longer", pretrained))
    assert mine[:3] == theirs
    assert len(mine) == 4


def test_another_run_in_the_folder_is_refused_unless_overwritten(pretrained, tmp_path):
    out = tmp_path / "run"
    flags = [*TINY, "--val-iteration", 2, "--epoch", 1, "--out", out]
    assert run_script("train_cifar_fix.py", *flags).returncode == 0
    before = (out / "checkpoint.pth.tar").read_bytes()
    result = run_script("train_cifar_fix.py", *flags, "--lr", "0.003", "--tau", "0.8")
    assert_refused(result, "--out", "--lr (0.002 there, 0.003 now)", "--tau (0.95 there, 0.8 now)", "--overwrite")
    cossl = [*flags, "--resume", pretrained / "checkpoint.pth.tar"]
    assert_refused(run_script("train_cifar_fix_cossl.py", *cossl), "--out", "lacks teacher_head")
    assert (out / "checkpoint.pth.tar").read_bytes() == before
    (out / "checkpoint_101.pth.tar").touch()
    (out / "notes.txt").write_text("mine")
    result = run_script("train_cifar_fix.py", *flags, "--lr", "0.003", "--overwrite")
    assert result.returncode == 0, result.stderr
    assert torch.load(out / "checkpoint.pth.tar", weights_only=True)["arguments"]["lr"] == 0.003
    assert not (out / "checkpoint_101.pth.tar").exists()
    assert (out / "notes.txt").exists()
    assert len(list((out / "tensorboard").iterdir())) == 1


def test_copies_of_checkpoints(pretrained, tmp_path):
    assert {path.name for path in pretrained.glob("*.tar")} == {"checkpoint.pth.tar", "checkpoint_1.pth.tar"}


def test_a_published_checkpoint_starts_both_stages(pretrained, tmp_path):
    """It has the network, its average and the optimiser, but neither arguments nor history."""
    ours = torch.load(pretrained / "checkpoint_1.pth.tar", weights_only=True)
    published = tmp_path / "checkpoint_1.pth.tar"
    torch.save({key: ours[key] for key in ("epoch", "state_dict", "ema_state_dict", "optimizer")}, published)
    flags = [*TINY, "--val-iteration", 6, "--resume", published]
    result = run_script("train_cifar_fix.py", *flags, "--epoch", 2, "--out", tmp_path / "fix")
    assert result.returncode == 0, result.stderr
    mine, theirs = ((out / "log.txt").read_text().splitlines() for out in (tmp_path / "fix", pretrained))
    assert mine == [theirs[0], theirs[2]]
    result = run_script("train_cifar_fix_cossl.py", *flags, "--epoch", 1, "--out", tmp_path / "cossl")
    assert result.returncode == 0, result.stderr
    result = run_script("train_cifar_fix.py", *flags, "--epoch", 1, "--out", tmp_path / "none")
    assert_refused(result, "--epochs 1", "1 epochs already", "raise")
    assert not (tmp_path / "none").exists()


def test_interrupt_is_one_line_and_leaves_a_checkpoint(tmp_path):
    flags = [*TINY, "--val-iteration", 20, "--epoch", 50, "--out", tmp_path]
    process = subprocess.Popen(
        command("train_cifar_fix.py", *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.terminate()
    assert "interrupted" in process.stderr.read()
    assert process.wait() == 130
    assert torch.load(tmp_path / "checkpoint.pth.tar", weights_only=True)["epoch"] >= 1

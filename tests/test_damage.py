"""Full disks, and checkpoints that are damaged: one line, and the last whole checkpoint stays."""

import io
import random
import resource
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, TINY, TWO_THREADS, assert_refused, assert_runs, command, load_checkpoint
from test_resume import assert_same
from test_scripts import FIX

from utils.checkpoint_file import DAMAGED, NAME, load
from utils.log import Board


def run_limited(limit: int, *flags: object) -> subprocess.CompletedProcess:
    """A run that can't write files of more than `limit` bytes, as with a full disk or an exhausted quota."""
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    started = command(FIX, *map(str, flags))
    shared = {"capture_output": True, "text": True, "cwd": ROOT, "env": TWO_THREADS, "timeout": 300}
    return subprocess.run(started, preexec_fn=limited, **shared)


def test_full_disk_keeps_the_last_checkpoint(pretrained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    size = (out / NAME).stat().st_size
    (out / NAME).unlink()
    (out / "checkpoint_1.pth.tar").rename(out / NAME)
    flags = [*TINY, "--val-iteration", 6, "--epoch", 2, "--out", out]
    assert_refused(run_limited(size // 2, *flags), f"--out {out}", NAME, "File too large", "the file before it is kept")
    assert load_checkpoint(out / NAME)["epoch"] == 1
    assert not list(out.glob(".*.tmp"))
    assert_runs(FIX, *flags)
    assert_same(*(load_checkpoint(folder / NAME) for folder in (pretrained, out)))


def test_full_disk_under_tensorboard_is_an_error_of_its_own(tmp_path, capfd):
    """There is no thread of TensorBoard's that would print a traceback."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(OSError, match="too large"):
            Board(tmp_path, 0).write({"train": {"loss": 1.0}}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def whole(pretrained) -> bytes:
    return (pretrained / NAME).read_bytes()


def test_truncated_at_any_byte(whole, tmp_path):
    path = tmp_path / NAME
    places = [*range(0, 40), *random.Random(0).sample(range(len(whole)), 100), *range(len(whole) - 40, len(whole))]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(DAMAGED):
            load(path)


def test_flipped_bytes_are_found_or_don_t_matter(whole, tmp_path):
    path, chance, found = tmp_path / NAME, random.Random(1), 0
    original = torch.load(io.BytesIO(whole), weights_only=True)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            assert_same(original, load(path))
        except DAMAGED:
            found += 1
    assert found > 75  # the others lie between the entries of the archive

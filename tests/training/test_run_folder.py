"""One run at a time in a folder, also among processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.scripts import FIX, HANG, ROOT, TINY, assert_refused, run_here

from training.folder import Lock, discard_run, in_use, make_folder
from utils.errors import UserError

HOLDS = """
import sys
from pathlib import Path
from training.folder import Lock
with Lock(Path(sys.argv[1])):
    print("within", flush=True)
    sys.stdin.read()
print("left", flush=True)
sys.stdin.close()
"""


@contextmanager
def another_process(out: Path) -> Iterator[subprocess.Popen]:
    """Within, another process holds the folder's lock."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], **pipes) as process:
        try:
            assert process.stdout.readline() == "within\n"
            yield process
        finally:
            process.kill()
            process.wait(HANG)


@pytest.mark.slow
def test_a_folder_is_in_use_while_another_process_is_within(tmp_path):
    assert not in_use(tmp_path)  # no lock yet
    assert not in_use(tmp_path / "missing")
    with another_process(tmp_path) as process:
        assert in_use(tmp_path)
        holder = f"process {process.pid} on "
        with pytest.raises(UserError, match=f"--out {tmp_path}: {holder}.* is training there; wait"), Lock(tmp_path):
            pass
        assert in_use(tmp_path)  # those who asked took nothing away
        for script in (FIX, "train_cifar_fix_crest.py"):
            assert_refused(run_here(script, *TINY, "--out", tmp_path), holder, "is training there")
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        process.stdin.close()  # it leaves
        assert process.stdout.readline() == "left\n"
        assert not in_use(tmp_path)
    with Lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.slow
def test_a_killed_process_leaves_its_folder_free(tmp_path):
    with another_process(tmp_path) as process:
        process.kill()
        process.wait(HANG)
        assert (tmp_path / ".lock").exists()
        assert not in_use(tmp_path)


def test_discarding_a_run_leaves_what_is_not_its_own(tmp_path):
    make_folder(tmp_path / "a" / "run")
    run = tmp_path / "a" / "run"
    (run / "tensorboard").mkdir()
    ours = ["checkpoint.pth.tar", "checkpoint_101.pth.tar", ".checkpoint.pth.tar.tmp", "log.txt", "summary.json"]
    ours += ["diagnostics.npz", "shifted.json", "tensorboard/events.out.tfevents.1.x.2"]
    others = ["notes.txt", "tensorboard/notes.txt", "weights.pth.tar", ".lock"]
    for name in (*ours, *others):
        (run / name).touch()
    discard_run(run)
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == set(others)


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--out {tmp_path}/file: cannot be made"):
        make_folder(tmp_path / "file")
    with pytest.raises(UserError, match=f"--out {tmp_path}/none: cannot be written to"), Lock(tmp_path / "none"):
        pass

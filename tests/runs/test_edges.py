"""Edges of a system: closed streams, odd settings and names, file systems that lack calls, folders taken away."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers.forked import run_forked
from helpers.places import watched
from helpers.scripts import (
    FIX,
    HANG,
    ROOT,
    TINY,
    assert_refused,
    assert_runs,
    command,
    environment,
    run_here,
    run_script,
)

import utils.files
from training.checkpoint import LATEST
from training.folder import Lock
from utils.errors import UserError
from utils.files import atomic_write_text
from utils.text import warn_once

RUN = [*TINY, "--epoch", 2, "--val-iteration", 3]


@pytest.mark.parametrize("kept", ["log.txt", "summary.json", "diagnostics.npz", "checkpoint_1.pth.tar", "shifted.json"])
def test_results_without_their_last_checkpoint_are_not_overwritten(kept, pretrained, tmp_path):
    """Whatever a run would replace; not so what it has left of an epoch that was its first."""
    out = tmp_path / "run"
    out.mkdir()
    source = pretrained / kept
    (out / kept).write_bytes(source.read_bytes() if source.exists() else b"{}")
    before = (out / kept).read_bytes()
    assert_refused(run_here(FIX, *RUN, "--out", out), f"--out {out}", kept, "--overwrite")
    assert (out / kept).read_bytes() == before
    assert_runs(FIX, *RUN, "--out", out, "--overwrite")


def test_a_run_that_ended_in_its_first_epoch_begins_anew(tmp_path):
    class Crash(Exception):
        pass

    def crash(place):
        if place == "step 1":
            raise Crash

    with watched(crash), pytest.raises(Crash):
        run_here(FIX, *RUN, "--out", tmp_path)
    assert (tmp_path / "summary.json").exists() and not (tmp_path / LATEST).exists()
    assert_runs(FIX, *RUN, "--out", tmp_path)


@pytest.mark.parametrize("when", ["save", "step 4"])
@pytest.mark.parametrize("taken_over", [True, False])
def test_a_run_whose_folder_was_taken_away_writes_nothing_more(taken_over, when, tmp_path):
    """rm -rf OUT, while it saves epoch 1 or after that, and another run begins there: its files stay as they are."""
    out = tmp_path / "run"

    def replace(place):
        if place == when:
            while when == "step 4" and json.loads((out / "summary.json").read_text())["epochs"] < 1:
                time.sleep(0.01)  # that is written in the background
            shutil.rmtree(out)
            if taken_over:
                out.mkdir()
                (out / ".lock").touch()
                (out / LATEST).write_bytes(b"another run's")

    with watched(replace):
        result = run_here(FIX, *RUN, "--out", out)
    assert_refused(result, f"--out {out}", "was removed")
    left = {path.name: path.read_bytes() for path in out.iterdir()} if out.exists() else {}
    assert left == ({".lock": b"", LATEST: b"another run's"} if taken_over else {})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_closed_terminal_and_slurms_signal_save(name, code, tmp_path):
    result = run_forked("tests/helpers/signalled.py", "step 2", name, FIX, *RUN, "--out", tmp_path)
    assert result.returncode == code
    (line,) = result.stderr.splitlines()
    assert f"({name})" in line and "saved after step 3 of epoch 1" in line
    assert (tmp_path / LATEST).exists()


@pytest.mark.slow
def test_nohup_keeps_a_run_alive(tmp_path):
    ignoring = f"trap '' HUP; exec {' '.join(map(str, command('tests/helpers/signalled.py', *['step 2', 'SIGHUP'])))}"
    flags = " ".join(map(str, [FIX, *RUN, "--out", tmp_path]))
    quoted = ignoring.replace("step 2", "'step 2'")
    done = subprocess.run(["bash", "-c", f"{quoted} {flags}"], cwd=ROOT, env=environment(), timeout=HANG)
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_imports_is_one_line(number, code, tmp_path):
    """torch, which says here that it is being imported, is the first that takes time."""
    (tmp_path / "torch.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings = environment(PYTHONPATH=str(tmp_path))
    with subprocess.Popen(command(FIX), cwd=ROOT, env=settings, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        assert process.wait(HANG) == code
        assert len(process.stderr.read().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py") if path.stem != "cossl"))
def test_a_missing_package_is_one_line(script, tmp_path):
    for name in ("torch", "numpy", "jinja2", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n")
    done = run_script(script, env=environment(PYTHONPATH=str(tmp_path)))
    assert_refused(done, "No module named", "pip install -r requirements.txt")


@pytest.mark.slow
def test_training_scripts_start_without_a_package_for_bars():
    """It takes hold of the standard streams, so it is imported where a bar is shown."""
    program = "import sys, importlib; sys.modules['progressbar'] = None; [*map(importlib.import_module, sys.argv[1:])]"
    scripts = sorted(path.stem for path in ROOT.glob("train_*.py"))
    done = subprocess.run([sys.executable, "-c", program, *scripts], cwd=ROOT, capture_output=True, text=True)
    assert scripts and done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(closed, tmp_path):
    flags = " ".join(map(str, [*RUN, "--out", tmp_path / "out"]))
    line = f"{sys.executable} {ROOT / FIX} {flags} {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment(), timeout=HANG, capture_output=True)
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "out" / "log.txt").read_text().startswith("epoch\t")


@pytest.mark.slow
def test_odd_settings_of_launchers_are_no_error(tmp_path):
    done = run_script(FIX, "--help", env=environment(LOCAL_WORLD_SIZE="abc"))
    assert done.returncode == 0, done.stderr


def test_what_a_terminal_obeys_is_not_printed(tmp_path):
    result = run_here(FIX, *RUN, "--out", tmp_path / "out", "--resume", tmp_path / "\x1b]0;x\x07\nno")
    assert_refused(result, "no such file")
    assert "\x1b" not in result.stderr and "\x07" not in result.stderr


def test_a_lock_that_is_no_text(tmp_path, monkeypatch):
    (tmp_path / ".lock").write_bytes(b"\xff\xfe")

    def taken(*_):
        raise BlockingIOError

    monkeypatch.setattr("fcntl.lockf", taken)
    with pytest.raises(UserError, match="is training there"):
        Lock(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_what_a_file_system_lacks_is_said_once(number, tmp_path, monkeypatch, capsys):
    def lacking(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", lacking)
    monkeypatch.setattr("fcntl.lockf", lacking)
    warn_once.cache_clear()
    for text in "ab":
        atomic_write_text(tmp_path / "file", text)
    with Lock(tmp_path):
        assert (tmp_path / "file").read_text() == "b"
    said = capsys.readouterr().err
    assert (said.count("on the disk"), said.count("cannot be locked")) == (1, 1)


def test_a_failing_disk_is_an_error(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(utils.files.os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        atomic_write_text(tmp_path / "file", "a")


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("run_*.sh") if path.name != "run_tests.sh"))
def test_shell_scripts_run_from_anywhere(script, tmp_path):
    """Also by a link, and where CDPATH leads cd elsewhere."""
    (tmp_path / "link.sh").symlink_to(ROOT / script)
    (tmp_path / "elsewhere" / ".").mkdir()
    done = subprocess.run(
        ["bash", "link.sh", "--help"],
        cwd=tmp_path,
        env=environment(CDPATH=str(tmp_path / "elsewhere")),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / "elsewhere") not in done.stdout


@pytest.mark.ranks
def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        settings = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = run_script(FIX, *RUN, env=environment(**settings))
    assert done.returncode == 2
    assert f"error: MASTER_PORT {port}: in use" in done.stderr.splitlines()[-1]

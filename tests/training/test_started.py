"""Scripts that another one starts: what becomes of signals."""

import subprocess
import sys

import pytest
from helpers.scripts import HANG, ROOT, environment

STARTER = """if True:
    import sys
    from pathlib import Path
    from training import scripts
    from utils.start import run_main
    scripts._ROOT = Path(sys.argv[1])
    run_main(lambda: [scripts.run_script(name) for name in ("first", "second")])
"""
LATE = """if True:  # the first script notes a signal that came to both, and comes to its end
    import os, signal, time
    from utils.stop import handle_signals
    came = []
    handle_signals(lambda *_: came.append(1))
    os.kill(os.getppid(), signal.SIGTERM)
    while not came:
        time.sleep(0.01)
"""
EARLY = """if True:
    import os, signal, time
    os.kill(os.getpid(), signal.SIGINT)
    print("imports")
    from utils.stop import end_on_signals
    end_on_signals()
    time.sleep(60)
"""


def started(first, folder):
    (folder / "first.py").write_text(first)
    (folder / "second.py").write_text("print('second')")
    program = [sys.executable, "-c", STARTER, folder]
    settings = environment(PYTHONPATH=str(ROOT))
    return subprocess.run(program, env=settings, capture_output=True, text=True, timeout=HANG, cwd=folder)


@pytest.mark.slow
def test_a_signal_as_late_as_the_end_of_a_script_ends_what_started_it(tmp_path):
    done = started(LATE, tmp_path)
    assert done.returncode == 143 and "second" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("first.py has ended; give the same command again, without --overwrite")


@pytest.mark.slow
def test_a_signal_as_early_as_the_start_of_a_script_waits_until_it_is_handled(tmp_path):
    done = started(EARLY, tmp_path)
    assert done.returncode == 130 and "imports" in done.stdout and "second" not in done.stdout
    assert [line.split(":")[0].split(";")[0] for line in done.stderr.splitlines()] == [
        "interrupted",
        "first.py has ended",
    ]

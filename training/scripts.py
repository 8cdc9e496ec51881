"""Scripts of this repository, started one after another by another one."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.args import Flag
from utils.stop import GOES_ON, Stopped, block_signals, end_on_signals, end_with_parent, handle_signals

_ROOT = Path(__file__).resolve().parents[1]


def as_flags(values: dict[str, Any], flags: Iterable[Flag]) -> list[str]:
    """Arguments as they are given on the command line; those that aren't among `flags` are left out."""
    found = []
    for one in flags:
        value = values.get(one.name)
        if value is True:
            found.append(one.names[0])
        elif value is not None and value is not False:  # 0 is a value, and equals False
            found += [one.names[0], str(value)]
    return found


def run_script(name: str, *arguments: Any, quiet: bool = False, limit: float | None = None) -> None:
    """Run a script to its end, by this Python. Its output is ours; signals go to it, and it ends as by itself.

    name: of its file, without its ending; quiet: a trial, of which only what it writes to stderr is seen; limit:
    seconds, after which it is killed and TimeoutError raised. If this process is killed, the script gets SIGTERM.
    Raises Stopped if it fails or there is a signal, even one so late that the script ends as usual; SystemExit where
    its exit code is 2, after a mistake of the user's.
    """
    command = [sys.executable, str(_ROOT / f"{name}.py"), *map(str, arguments)]
    print(f"$ python {shlex.join([os.path.relpath(command[1]), *command[2:]])}", flush=True)
    child = subprocess.Popen(command, preexec_fn=_begin, stdout=subprocess.DEVNULL if quiet else None)
    signals = list[int]()

    def hand_on(number: int, _: object) -> None:
        signals.append(number)
        child.send_signal(number)

    handle_signals(hand_on)
    try:
        code = child.wait(limit)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise TimeoutError from None
    finally:
        end_on_signals()
    if code == 2:  # it has said what is wrong
        raise SystemExit(code)
    if code or signals:
        code = code if code > 0 else 128 + (-code or signals[0])
        words = "it was a trial, of which nothing is kept: the same command begins anew" if quiet else GOES_ON
        raise Stopped(code, f"{name}.py has ended; {words}")


def _begin() -> None:
    """What a script does before it starts: signals wait until it handles them."""
    end_with_parent(signal.SIGTERM)
    block_signals()

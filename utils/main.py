"""How a script starts, and how it ends: exit code, and one line on stderr where something is wrong."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from utils import ranks
from utils.errors import EXIT_CODES, LEFT, REASONS, Interrupted, UserError
from utils.ranks import Disconnected

OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)  # PyTorch's words, CPU and GPU


def run_main(main: Callable[[], None]) -> None:
    """Run a script's `main`; exit 2 with one line after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM.

    Under torchrun each process prints its line, all but rank 0 with `rank k: ` before it. Where one of them has ended,
    the others do so with exit code 1.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr's: files' names need not be Unicode
    try:
        code, line = _outcome(main)
    except Interrupted as stop:
        reason = REASONS[stop.number]
        if stop.number == signal.SIGTERM and ranks.world_size() > 1:
            reason += ", which torchrun sends where another process of the run has ended"
        code, line = EXIT_CODES[stop.number], f"{reason}: {stop.left}"
    if code:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, to the processes that are left
        who = f"rank {ranks.rank()}: " if ranks.rank() else ""
        print(who + line, file=sys.stderr, flush=True)
    if ranks.launched():
        _leave_at_once(code)
    if code:
        raise SystemExit(code)


def _leave_at_once(code: int) -> NoReturn:
    """End the process without taking Python down first: a thread of gloo that lets go of its last tensor meanwhile
    aborts it ("terminate called without an active exception"), also where the process group has been destroyed.
    """
    with suppress(OSError):  # what can't be written any more has been told
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # GNU's timeout and Slurm's srun send a signal twice
    raise Interrupted(number)


def _outcome(main: Callable[[], None]) -> tuple[int, str]:
    """Exit code and last line."""
    try:
        with ranks.joined():
            main()
        print(end="", flush=True)  # here, where an error is told
        return 0, ""
    except UserError as error:
        line = f"error: {' '.join(str(error).splitlines())}"  # names of files may hold newlines
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python's own last flush can go
        line = f"error: what read the output has ended (broken pipe); send it to a file; {LEFT}"
    except OSError as error:  # a file that vanished, a full disk, a folder where a file should be
        line = f"error: {error}; check the path and the space on its disk"
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        line = "error: out of memory; lower --batch-size, --width, --img_size or the number of images"
    except Disconnected as error:
        remedy = "the same command, without --overwrite, continues from the last whole epoch"
        return 1, f"error: another process of this run has ended ({error}); {remedy}"
    return 2, line

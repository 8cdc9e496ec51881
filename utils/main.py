"""How a script starts, and how it ends: exit code, and one line on stderr where something is wrong."""

import io
import os
import re
import sys
from collections.abc import Callable

from utils import ranks
from utils.errors import UserError
from utils.ranks import Disconnected
from utils.stop import GOES_ON, Stopped, end_at_once, end_on_signals

OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)  # PyTorch's words, CPU and GPU


def run_main(main: Callable[[], None]) -> None:
    """Run a script's `main`; exit 2 with one line after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM.

    Under torchrun each process prints its line, all but rank 0 with `rank k: ` before it. Where one of them has ended,
    the others do so with exit code 1.
    """
    end_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr's: files' names need not be Unicode
    code, line = _outcome(main)
    if ranks.launched():
        end_at_once(code, line)
    if code:
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(code)


def _outcome(main: Callable[[], None]) -> tuple[int, str]:
    """Exit code and last line."""
    try:
        with ranks.joined():
            main()
        print(end="", flush=True)  # here, where an error is told
        return 0, ""
    except Stopped as stopped:
        return stopped.code, str(stopped)
    except UserError as error:
        line = f"error: {' '.join(str(error).splitlines())}"  # names of files may hold newlines
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python's own last flush can go
        line = f"error: what read the output has ended (broken pipe); send it to a file; {GOES_ON}"
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

"""How a script starts, and how it ends: exit code, and one line on stderr where something is wrong.

Scripts import it before all else, so that a signal or a missing package during their imports is one line, too: it is
the only module that does something when it is imported.
"""

import io
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from utils import ranks
from utils.errors import UserError
from utils.ranks import Disconnected
from utils.stop import GOES_ON, RANKS_GO_ON, Stopped, end_at_once, end_on_signals
from utils.text import one_line

OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)  # PyTorch's words, CPU and GPU


def _guard_imports() -> None:
    """Until `run_main` goes on: a signal ends the script, and a missing package is one line."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, ModuleNotFoundError):
            end_at_once(2, f"error: {error}; install what is missing: pip install -r requirements.txt")
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
    end_on_signals()


if (
    Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve().parent
    == Path(__file__).resolve().parents[1]
):
    _guard_imports()


def run_main(main: Callable[[], None]) -> None:
    """Run a script's `main`; exit 2 with one line after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM.

    Under torchrun each process prints its line, all but rank 0 with `rank k: ` before it. Where one of them has ended,
    the others do so with exit code 1.
    """
    end_on_signals()
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr's: files' names need not be Unicode
    try:
        code, line = _outcome(main)
    except Exception:  # a fault of ours, which is told in full
        if not ranks.launched():
            raise
        code, line = 1, traceback.format_exc().rstrip()
    if ranks.launched():  # whatever is left of the process group
        end_at_once(code, line)
    if code:
        try:
            print(line, file=sys.stderr, flush=True)
        except BrokenPipeError:
            _lead_nowhere(2)
        raise SystemExit(code)


def _lead_nowhere(number: int) -> None:
    """Of a stream that nothing reads any more: Python's own last flush can go there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _open_closed_streams() -> None:
    """Where standard streams are closed (`>&-`), they lead nowhere: else files of ours would get their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the whole process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123


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
        line = f"error: {one_line(error)}"
    except BrokenPipeError:
        _lead_nowhere(sys.stdout.fileno())
        line = f"error: what read the output has ended (broken pipe); send it to a file; {GOES_ON}"
    except OSError as error:  # a file that vanished, a full disk, a folder where a file should be
        line = f"error: {one_line(error)}; check the path and the space on its disk"
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        line = "error: out of memory; lower --batch-size, --width, --img_size or the number of images"
    except Disconnected as error:
        return 1, f"error: another process of this run has ended ({error}); {RANKS_GO_ON}"
    return 2, line

"""Mistakes a user can make end in one line on stderr and exit code 2, never in a traceback.

Shape legend: none.
"""

import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake of the user's; the message names the flag or file and the remedy, in one line."""


def run_main(main: Callable[[], None]) -> None:
    """Run a script's `main`; exit 2 with one line after a `UserError`, 130 after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)  # names of files may hold newlines
        raise SystemExit(2) from None
    except OSError as error:  # a file that vanished, a full disk, a folder where a file should be
        print(f"error: {error}; check the path and the space on its disk", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: a training run continues from its last whole epoch by the same command", file=sys.stderr)
        raise SystemExit(130) from None

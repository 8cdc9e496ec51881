"""One run at a time in a folder."""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.folder import make_folder
from utils.errors import UserError
from utils.ranks import rank


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder `out` of a run, if it is missing; within, no other process can enter. Under torchrun rank 0 does
    it for all.

    The lock is on `out`/.lock, which stays there; it ends with its process, however that ends. (It is one of lockf, for
    flock's would pass on to the worker processes, which may live a little longer.) Where the file system has no locks,
    a line on stderr says so. Raises UserError if another process is within, or the folder can't be written to.
    """
    if rank():
        yield
        return
    make_folder(out)
    try:
        file = (out / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror}); take another folder") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = " ".join(file.read(200).split()) or "another process"
            remedy = "wait for its end, or take another folder"
            raise UserError(f"--out {out}: {holder} is training there; {remedy}") from None
        except OSError as error:
            about = f"cannot be locked ({error.strerror}); see to it that no other run uses it"
            print(f"warning: --out {out}: {about}", file=sys.stderr)
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield

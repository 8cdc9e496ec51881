"""The folder of a run: one run at a time in it."""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError

LOCK = ".lock"
WRITTEN = (
    *("checkpoint*.pth.tar", ".checkpoint*.pth.tar.tmp", "tensorboard/events.out.tfevents.*"),
    *("log.txt", "summary.json", "diagnostics.npz", "shifted.json"),
)


def make_folder(out: Path) -> None:
    """Raises UserError where it can't be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror}); take another folder") from error


def discard_run(out: Path) -> None:
    """Remove what an earlier run left in a folder, and nothing else."""
    for path in (path for pattern in WRITTEN for path in out.glob(pattern)):
        path.unlink()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Within, no other process can enter the folder `out`.

    The lock is on `out`/.lock, which stays there; it ends with its process, however that ends. (It is one of lockf, for
    flock's would pass on to the worker processes, which may live a little longer.) Where the file system has no locks,
    a line on stderr says so. Raises UserError if another process is within, or the folder can't be written to.
    """
    try:
        file = (out / LOCK).open("a+")
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


def in_use(out: Path) -> bool:
    """Whether a process trains in the folder; False where that can't be told."""
    with suppress(OSError), (out / LOCK).open("rb") as file:
        try:
            os.lockf(file.fileno(), os.F_TEST, 0)
        except (BlockingIOError, PermissionError):
            return True
    return False

"""Downloads: one process at a time; a failed one is a line that says which files to put where, and leaves nothing."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from utils.errors import UserError


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Wait until no other process of this machine is within, for the same folder: runs that start together on several
    devices don't unpack over each other.
    """
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"cossl-{os.getuid()}-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process
        yield


@contextmanager
def downloading(what: str, files: str, home: str, root: Path, folder: Path) -> Iterator[None]:
    """Around the download of `what` into `folder`, which is `root` or lies in it: a failure becomes a UserError that
    names `files`, which `home` offers. Of `folder` and its parents, those that were made and are empty are removed.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]  # the innermost first
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        reason = " ".join(str(error).split())
        raise UserError(
            f"--data_root {root}: {what} not found and could not be downloaded or unpacked ({reason}); "
            f"put {files} from {home} there"
        ) from None

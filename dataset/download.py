"""Downloads: one process at a time; a failed one is a line that says which files to put where, and leaves nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from utils.errors import UserError
from utils.files import NOT_SUPPORTED
from utils.text import printable, reason, warn

_LOCK = ".download.lock"


def await_download(root: Path) -> None:
    """Wait until no other process downloads to `root`: what it has unpacked so far is not the whole."""
    with suppress(PermissionError):  # another user's, who downloads no more or leaves nothing to read
        if (root / _LOCK).exists():
            with _locked(root):
                pass


@contextmanager
def downloading(what: str, files: str, home: str, root: Path, folder: Path) -> Iterator[None]:
    """Around the download of `what` into `folder`, which is `root` or lies in it: a failure becomes a UserError that
    names `files`, which `home` offers. Of `folder` and its parents, those that were made and are empty are removed.

    Waits for another process that downloads to `root`, so that what is within finds what that one has left.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]  # the innermost first
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            yield
    except (OSError, RuntimeError, HTTPException) as error:
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise UserError(
            f"--data_root {root}: {what} not found and could not be downloaded or unpacked ({reason(error)}); "
            f"put {files} from {home} there"
        ) from None


def unpack_or_download(source: Any, root: Path, home: str) -> None:
    """Make the folder of `source` in `root`, a data set of torchvision with one archive: of that, or downloaded from
    `home`. Raises UserError for a damaged archive, and where nothing can be downloaded.
    """
    from torchvision.datasets.utils import check_integrity

    archive = root / source.filename
    with downloading(source.__name__, source.filename, home, root, root):
        # torchvision would silently download over a damaged archive; it may be all that an offline user has.
        if archive.exists() and not check_integrity(archive, source.tgz_md5):
            raise UserError(f"{archive}: damaged or incomplete (checksum differs); replace it from {home}")
        source(root, download=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """The lock ends with the process. Its file is removed while it is held; who waits for it notices that."""
    lock = FileLock(root / _LOCK)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"waiting for another process that downloads to {printable(root)}", flush=True)
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_SUPPORTED:
            raise
        warn(f"--data_root {root}: cannot be locked; see to it that no other process downloads to it")
    try:
        yield
    finally:
        (root / _LOCK).unlink(missing_ok=True)
        lock.release()

"""What a failed download becomes: one line that says which files to put where, and nothing left behind.

Shape legend: none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from utils.errors import UserError


@contextmanager
def downloading(what: str, files: str, home: str, root: Path) -> Iterator[None]:
    """Around the download of `what` into the folder `root`: a failure becomes a UserError that names `files`, which
    `home` offers, and the empty folders that it made are removed.
    """
    existed = root.exists()
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        folders = [path for path in root.rglob("*") if path.is_dir()] + ([] if existed else [root])
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        reason = " ".join(str(error).split())
        raise UserError(
            f"--data_root {root}: {what} not found and could not be downloaded or unpacked ({reason}); "
            f"put {files} from {home} there"
        ) from None

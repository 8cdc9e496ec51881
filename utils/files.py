"""Files that are whole at any moment, JSON, and the files of a folder."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError
from utils.text import warn_once

# What calls that a file system lacks give; other errors are of the disk.
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK}


def jsonable(value: Any) -> Any:
    """`value` with None for every NaN and infinity, which JSON lacks; goes into dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> str:
    """JSON text with keys in their given order, so that equal values are equal files."""
    return json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError, with the rest of a sentence about the file, if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_json)
    except (OSError, ValueError, RecursionError):
        raise ValueError("is not readable JSON") from None


def _no_json(text: str) -> NoReturn:
    raise ValueError(text)  # NaN and the like


def is_file(path: Path) -> bool:
    """False, and no error, for a name that no file can have, because it is too long."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file may raise


def sha256_of(file: Path) -> str:
    """Of its content, hexadecimal, read in parts."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def walk(root: Path, left_out: Callable[[str], bool] | None = None) -> tuple[dict[Path, list[str]], dict[Path, str]]:
    """{folder: names of its files} of a folder and those below it; {path: problem} of folders that can't be read, and
    of links to nothing. Links are followed, and each folder comes once, by a path without links if it has one.
    left_out: names of files and folders that aren't looked at.
    """
    found: dict[Path, list[str]] = {}
    problems, seen, ahead, links = {}, set(), [root], list[Path]()
    while ahead or links:
        folder = ahead.pop() if ahead else links.pop(0)
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problems[folder] = f"a folder that can't be read ({error.strerror})"
            continue
        found[folder] = []
        for entry in inside:
            if left_out is not None and left_out(entry.name):
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - Path.exists may raise
                problems[folder / entry.name] = "a link to what isn't there, or out of reach"
            elif entry.is_dir():
                (links if entry.is_symlink() else ahead).append(folder / entry.name)
            else:
                found[folder].append(entry.name)
    return found, problems


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end: readers see a whole file, old or new, also after the
    machine has lost its power.
    """
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The same for files that belong together: none is renamed before all are whole and on the disk."""
    # Always the same names, so that a killed run leaves one set at most.
    temporaries = [path.with_name(f".{path.name}.tmp") for path in paths]
    try:
        yield temporaries
        for temporary in temporaries:
            _to_disk(temporary)
        for temporary, path in zip(temporaries, paths, strict=True):
            temporary.replace(path)
        for folder in {path.parent for path in paths}:  # which hold the names
            _to_disk(folder)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        if error.errno != errno.EINVAL:  # which is usual for folders
            folder = path if path.is_dir() else path.parent
            warn_once(f"{folder}: its file system can't say when a file is on the disk ({error.strerror})")
    finally:
        os.close(handle)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`; an interruption leaves the old file or the new one, never half."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(out: Path, flag: str = "--out") -> None:
    """Raise UserError unless the folder `out` can be written to or made; makes nothing. flag: that names it."""
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {out}: {existing} is not a folder that can be written to; take another {flag}")

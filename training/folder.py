"""The folder of a run: one run at a time in it."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path

from utils.errors import UserError
from utils.files import read_json
from utils.text import warn

LOCK, SUMMARY = ".lock", "summary.json"
GENERATION = "generation_"  # its number follows
WRITTEN = (
    *("checkpoint*.pth.tar", ".checkpoint*.pth.tar.tmp", "tensorboard/events.out.tfevents.*"),
    *("log.txt", SUMMARY, "diagnostics.npz", "shifted.json"),
)


def make_folder(out: Path) -> None:
    """Raises UserError where it can't be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror}); take another folder") from error


def generation_folder(out: Path, generation: int) -> Path:
    """Of a run that is one of several generations, 0, 1, ..."""
    return out / f"{GENERATION}{generation}"


def written(out: Path) -> list[Path]:
    """What a run, or a floor, has left in a folder."""
    return [path for pattern in WRITTEN for path in out.glob(pattern)]


def discard_run(out: Path) -> None:
    """Remove what an earlier run left in a folder, and the generations that came of it, and nothing else."""
    for folder in (*reversed(_later_generations(out)), out):
        for path in written(folder):
            path.unlink()


def _later_generations(out: Path) -> list[Path]:
    """Folders of the generations that follow on one in `out`; none for another run."""
    number = out.name.removeprefix(GENERATION)
    if not (out.name.startswith(GENERATION) and number.isdecimal()):
        return []
    following = takewhile(Path.is_dir, (generation_folder(out.parent, g) for g in count(int(number) + 1)))
    return list(following)


def refuse_results(out: Path) -> None:
    """Raise UserError if a folder without a last checkpoint holds files that a run would replace: of more than the
    beginning of its first epoch.
    """
    with suppress(ValueError, TypeError, LookupError):
        if read_json(out / SUMMARY)["best"] is None:
            return
    for path in written(out):
        if not path.name.endswith(".tmp"):
            remedy = "take another folder, or --overwrite"
            raise UserError(f"--out {out}: holds {path.name} of another run, and no last checkpoint; {remedy}")


class Lock:
    """Of a folder `out`, for this process: on `out`/.lock, which stays there.

    It ends with its process, however that ends. (It is one of lockf, for flock's would pass on to the worker processes,
    which may live a little longer.) Where the file system has no locks, a line on stderr says so. Raises UserError if
    another process has it, or the folder can't be written to.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / LOCK
        try:
            self.file = self.path.open("a+", errors="replace")
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written to ({error.strerror}); take another folder") from error
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.file.seek(0)
            holder = " ".join(self.file.read(200).split()) or "another process"
            self.file.close()
            remedy = "wait for its end, or take another folder"
            raise UserError(f"--out {out}: {holder} is training there; {remedy}") from None
        except OSError as error:
            warn(f"--out {out}: cannot be locked ({error.strerror}); see to it that no other run uses it")
        self.file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=self.file, flush=True)

    def check(self) -> None:
        """Raise UserError if the folder isn't the one that was locked."""
        mine = os.fstat(self.file.fileno())
        try:
            there = self.path.stat()
        except OSError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev):
            problem = "was removed while this run trained in it, and may be another run's by now"
            raise UserError(f"--out {self.out}: {problem}; nothing more is written")

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@contextmanager
def writing(lock: Lock | None) -> Iterator[None]:
    """Within, files are written in the folder. Raises UserError if it isn't the one that was locked, before that and
    where it fails.
    """
    if lock is not None:
        lock.check()
    try:
        yield
    except (OSError, UserError):
        if lock is not None:
            lock.check()
        raise


def in_use(out: Path) -> bool:
    """Whether a process trains in the folder; False where that can't be told."""
    with suppress(OSError), (out / LOCK).open("rb") as file:
        try:
            os.lockf(file.fileno(), os.F_TEST, 0)
        except (BlockingIOError, PermissionError):
            return True
    return False

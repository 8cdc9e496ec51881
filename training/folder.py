"""The folder of a run, or of anything else that is written."""

import os
from pathlib import Path

from training.checkpoint import NAME
from utils.errors import UserError


def check_writable(out: Path) -> None:
    """Raise UserError unless the folder `out` can be written to or made; makes nothing."""
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--out {out}: {existing} is not a folder that can be written to; take another --out")


def make_folder(out: Path, overwrite: bool = False) -> None:
    """Make the folder of a run; with `overwrite`, remove what an earlier run left in it, and nothing else."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror}); take another folder") from error
    if overwrite:
        for pattern in ("checkpoint*.pth.tar", ".checkpoint*.pth.tar.tmp", "tensorboard/events.out.tfevents.*"):
            for path in out.glob(pattern):
                path.unlink()
        for name in ("log.txt", "summary.json", "diagnostics.npz", "shifted.json"):
            (out / name).unlink(missing_ok=True)


def stamp(out: Path) -> tuple[int, int] | None:
    """Which checkpoint a run's folder holds: its file's number and time, in nanoseconds; None without any."""
    try:
        status = (out / NAME).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns

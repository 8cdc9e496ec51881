"""Checkpoint files: written whole or not at all; read without running code from them. Content: training.schema."""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import Tensor

from training.faults import fault
from training.schema import Checkpoint, Published
from utils.errors import UserError
from utils.files import replacing
from utils.text import warn

LATEST, BEST = "checkpoint.pth.tar", "checkpoint_best.pth.tar"  # the latter by the held-out part, where there is one
# What a file raises that isn't a whole archive of PyTorch's.
UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, MemoryError, ImportError),
    *(RuntimeError, OSError, AssertionError, ArithmeticError, struct.error, zipfile.BadZipFile),
)


def save_checkpoint(state: dict[str, Any], paths: Iterable[Path]) -> None:
    """Write `state` to each path through a temporary file that is renamed. Raises UserError if that fails."""
    for path in paths:
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's own; its context is what happened
            cause: BaseException = error
            while cause.__context__ is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
            kept = "the file before it is kept; " if path.exists() else ""
            remedy = f"{kept}free some space, or take another folder"
            raise UserError(f"--out {path.parent}: cannot write {path.name} ({reason}); {remedy}") from error


def bring_best(out: Path, start: Path, epoch: int) -> None:
    """Copy the checkpoint of an epoch, the best so far, to the folder of a run that goes on from `start`: that file, or
    one beside it. Warns where none is of that epoch. Raises UserError for damaged ones.
    """
    for file in (start, start.with_name(BEST), start.with_name(f"checkpoint_{epoch}.pth.tar")):
        if file.is_file() and (state := read_checkpoint(file, ""))["epoch"] == epoch and not state.get("step"):
            with replacing(out / BEST) as temporary:
                copyfile(file, temporary)
            return
    warn(f"epoch {epoch} was the best on the held-out part so far, and its checkpoint is not beside {start}")


def read_checkpoint(path: Path, source: str) -> dict[str, Any]:
    """The checkpoint in `path`, of ours or of the published code, on the CPU. source: the flag that named the file.

    Raises UserError for a file that is missing, damaged, or no such checkpoint.
    """
    name = f"{source} {path}".strip()
    if not path.is_file():
        problem = "a folder, or no file" if path.exists() else "no such file"
        raise UserError(f"{name}: {problem}; give the path of a checkpoint, such as RUN/{LATEST}")
    try:
        state = load_archive(path)
    except UNREADABLE as error:
        reason = error if isinstance(error, zipfile.BadZipFile) else "truncated, or of another program"
        raise UserError(f"{name}: not a readable checkpoint ({reason}){_remedy(path)}") from error
    ours = isinstance(state, dict) and "arguments" in state
    if wrong := fault(state, Checkpoint if ours else Published, "content"):
        raise UserError(f"{name}: not a checkpoint of this kind of run, or damaged: {wrong}{_remedy(path)}")
    return {key: _without_wrapper(value) for key, value in state.items()} | {"file": str(path)}


def _without_wrapper(entry: Any) -> Any:
    """A state dict by the names of the network itself: the published code for Food-101 saves some of DataParallel's."""
    if isinstance(entry, dict) and entry and all(str(name).startswith("module.") for name in entry):
        return {name.removeprefix("module."): value for name, value in entry.items()}
    return entry


def load_archive(path: Path) -> Any:
    """What torch.save has put into a file, on the CPU. Runs no code from it. Raises one of UNREADABLE.

    Every byte of an archive is checked by its checksum, since torch.load does so for some only. Files of PyTorch before
    1.6, such as published ones may be, have none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of its {entry!a} differs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols, where the file isn't a checkpoint
        return torch.load(path, map_location="cpu", weights_only=True)


def on_host(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of a state whose tensors are on the CPU and its own, so that training doesn't change them."""
    copied = copy(state)  # with the versions of modules, which PyTorch attaches to a state dict
    copied.update({key: _host(value) for key, value in state.items()})
    return copied


def _host(value: Any) -> Any:
    if isinstance(value, dict):
        return on_host(value)
    if isinstance(value, list):
        return [_host(item) for item in value]
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def finite(state: dict[str, Any]) -> bool:
    """Whether all floating tensors of a state hold numbers only. Reads each device once."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in _tensors(state):
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, []).append(tensor.isfinite().all())
    return all(bool(torch.stack(flags).all()) for flags in by_device.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _remedy(path: Path) -> str:
    """What to do about a damaged checkpoint; empty where nothing can be done."""
    if path.name == BEST:
        return "; remove it, and a run goes on without it"
    if path.name != LATEST or not any(path.parent.glob("checkpoint_*.pth.tar")):
        return ""
    return f"; rename an earlier checkpoint_N.pth.tar beside it to {LATEST} to go on from there"

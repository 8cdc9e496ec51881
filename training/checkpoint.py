"""Checkpoint files: written whole or not at all; read without running code from them, and only where they are sound.

Shape legend: C classes. What a checkpoint holds: see training.resume.
"""

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dataset.safe_pickle import PICKLE_ERRORS
from training.sound import tensors, unsound
from utils.errors import UserError
from utils.files import replacing

NAME = "checkpoint.pth.tar"
# What a file raises that isn't a whole archive of PyTorch's.
DAMAGED = (*PICKLE_ERRORS, RuntimeError, OSError, AssertionError, ArithmeticError, struct.error, zipfile.BadZipFile)
# How files of PyTorch before 1.6 begin, which aren't archives.
OLD = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
# All that the pickles of a training name. PyTorch admits more, such as bytearray, which makes memory out of a number.
NAMED = re.compile(
    r"collections (OrderedDict|Counter)|torch(\.cuda)? [A-Z]\w*Storage|torch\._utils _rebuild_(tensor(_v2)?|parameter)"
)


def save(state: dict[str, Any], paths: Iterable[Path]) -> None:
    """Write `state` to each path through a temporary file that is renamed. Raises UserError if that fails."""
    for path in paths:
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's own; its context is what happened
            while error.__context__ is not None and not isinstance(error, OSError):
                error = error.__context__
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            kept = "the file before it is kept; " if path.exists() else ""
            remedy = f"{kept}free some space, or take another folder"
            raise UserError(f"--out {path.parent}: cannot write {path.name} ({reason}); {remedy}") from error


def read(path: Path, source: str, keys: Iterable[str]) -> dict[str, Any]:
    """The checkpoint in `path`, on the CPU; it has all of `keys`. source: the flag that named the file.

    Raises UserError for a file that is missing, damaged, or no such checkpoint.
    """
    name = f"{source} {path}".strip()
    if not path.is_file():
        problem = "a folder, or no file" if path.exists() else "no such file"
        raise UserError(f"{name}: {problem}; give the path of a checkpoint, such as RUN/{NAME}")
    try:
        state = load(path)
    except DAMAGED as error:
        reason = str(error) if isinstance(error, Unsound) else "truncated, or of another program"
        raise UserError(f"{name}: not a readable checkpoint ({reason}){_whole_copy(path)}") from error
    missing = [key for key in ("epoch", *keys) if not isinstance(state, dict) or key not in state]
    if missing:
        raise UserError(f"{name}: not a checkpoint of this kind of run, it lacks {', '.join(missing)}")
    if wrong := unsound(state):
        raise UserError(f"{name}: damaged or of another program, see its {', '.join(wrong)}{_whole_copy(path)}")
    return state


class Unsound(ValueError):
    """What is wrong with the archive, in words."""


def load(path: Path) -> Any:
    """What torch.save has put into a file. Every byte of it is checked by its CRC (torch.load does so for some only),
    and what it unpacks to is no larger than the file. Files of PyTorch before 1.6, such as published ones may be, have
    no CRC: what is found wrong with them is what can't be read, or has other shapes than it should. Raises one of
    DAMAGED.
    """
    with path.open("rb") as file:
        old = file.read(len(OLD)) == OLD
    if not old:
        _check_archive(path)
    _check_names(path, old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols, where the file isn't a checkpoint
        state = torch.load(path, map_location="cpu", weights_only=True)
    for tensor in tensors(state):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise Unsound("it holds tensors that no training has")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise Unsound("it holds a tensor that is larger than its content")
    return state


def _check_archive(path: Path) -> None:
    """Raise one of DAMAGED unless the archive is whole, and as large as what it holds."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Unsound("packed by another program")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise Unsound("it unpacks to more than it is")
        if (entry := archive.testzip()) is not None:
            raise Unsound(f"damaged, the checksum of its {entry!a} differs")


def _check_names(path: Path, old: bool) -> None:
    """Raise one of DAMAGED unless the pickles in a file name nothing but what is NAMED."""
    with path.open("rb") as file:
        pickles = file if old else io.BytesIO(torch._C.PyTorchFileReader(file).get_record("data.pkl"))
        for _ in range(5 if old else 1):  # magic number, protocol, machine, state, numbers of the storages
            for code, value, _ in pickletools.genops(pickles):
                if code.name == "GLOBAL" and not NAMED.fullmatch(value):
                    raise Unsound(f"it asks for {value!a:.60}")


def finite(state: dict[str, Any]) -> bool:
    """Whether all floating tensors of a state hold numbers only. Reads the device."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors(state) if tensor.is_floating_point())


def _whole_copy(path: Path) -> str:
    """The latest whole copy of an earlier epoch beside a damaged checkpoint, in words; empty if there is none."""
    number = lambda copy: int("".join(filter(str.isdecimal, copy.name)) or 0)
    copies = path.parent.glob("checkpoint_*.pth.tar") if path.name == NAME else ()
    for copy in sorted(copies, key=number, reverse=True):
        try:
            state = load(copy)
            if unsound(state):
                continue
        except DAMAGED:
            continue
        return f"; {copy.name} beside it, of epoch {state['epoch']}, is whole: rename it to {NAME} to go on from there"
    return ""

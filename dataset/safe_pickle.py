"""Reading pickles of NumPy arrays without running what else they may ask for."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


class _Array(np.ndarray):
    """One of numbers, which are all in the file: NumPy would make any number of Nones, or of bytes, out of a shape."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, content = state
        if dtype.kind not in "buif":
            raise pickle.UnpicklingError("an array of other things than numbers")
        super().__setstate__((version, shape, np.dtype(dtype.str), fortran, content))


def _reconstruct(*_: Any) -> np.ndarray:
    """Empty: shape, kind and content of an array follow in its state."""
    return np.empty(0, np.uint8).view(_Array)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # others make text longer, over and over
        raise pickle.UnpicklingError(f"asks for text in {encoding:.20}")
    return text.encode(encoding)


ADMITTED = {
    ("numpy", "ndarray"): "ndarray",  # named, not called
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes for Python 2
}
# What a file that isn't a whole pickle of arrays may raise.
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
    ImportError,
)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which is not admitted")
        return ADMITTED[module, name]


def load_arrays(path: Path) -> Any:
    """What the pickle in `path` holds: NumPy arrays, numbers, strings, bytes, and dicts, lists, tuples of them.

    Strings of Python 2 are read as Latin-1. Raises one of PICKLE_ERRORS for anything else.
    """
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()

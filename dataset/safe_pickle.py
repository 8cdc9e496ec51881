"""Reading pickles of NumPy arrays without running what else they may ask for."""

import pickle
from pathlib import Path
from typing import Any

# All that a pickle of arrays names; the last is how Python 3 writes bytes for Python 2.
ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
# What a file that isn't a whole pickle of arrays may raise.
PICKLE_ERRORS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError),
    *(MemoryError, OverflowError, ImportError),
)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which is not admitted")
        return super().find_class(module, name)


def load_arrays(path: Path) -> Any:
    """What the pickle in `path` holds: NumPy arrays, numbers, strings, bytes, and dicts, lists, tuples of them.

    Strings of Python 2 are read as Latin-1. Raises one of PICKLE_ERRORS for anything else.
    """
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()

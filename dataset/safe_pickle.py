"""Reading pickles of NumPy arrays without running what else they may ask for.

Shape legend: none.
"""

import pickle
from pathlib import Path
from typing import Any

ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
}
# What a file that isn't a whole pickle of arrays may raise.
PICKLE_ERRORS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, MemoryError, OverflowError,
    ImportError,
)  # fmt: skip


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

"""Why a run has failed, left in its folder for the report."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_write_text
from utils.ranks import rank

NAME = "failed.txt"


@contextmanager
def told(out: Path) -> Iterator[None]:
    """Around the training of a run: where it ends by an error, `out`/failed.txt says by which, in one line, until the
    run goes on or starts anew. Interruptions are no failures. Under torchrun rank 0, which has the lock, does it.
    """
    if rank():
        yield
        return
    (out / NAME).unlink(missing_ok=True)
    try:
        yield
    except (UserError, OSError) as error:
        with suppress(OSError):  # where the folder can't be written to, the error itself is all that is left
            atomic_write_text(out / NAME, " ".join(str(error).split()) + "\n")
        raise

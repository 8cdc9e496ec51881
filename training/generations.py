"""Self-training in generations, one after another: each is a run of its own, in a folder of its own."""

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from time import monotonic
from typing import Protocol, TypeVar

from training.checkpoint import LATEST
from training.folder import Lock, generation_folder
from training.resume import is_in
from utils.errors import UserError
from utils.ranks import rank


class GenerationFlags(Protocol):
    """The flags that a generation changes: it is called `generation`, 0, 1, ..., has a folder in `out`, and what is
    left of the time limit; `resume` is a checkpoint of one of them.
    """

    out: Path
    resume: Path | None
    overwrite: bool
    time_limit: float | None
    num_generation: int
    generation: int


_Flags = TypeVar("_Flags", bound=GenerationFlags)


def generations(args: _Flags) -> Iterator[_Flags]:
    """The arguments of one generation after another, from the last that has begun. No other process can enter `out`
    meanwhile.

    Raises UserError where another one trains there, where generations follow on one that is to begin or to go back
    (without `--overwrite`), or where `--resume` is of none.
    """
    folders = [generation_folder(args.out, g) for g in range(args.num_generation)]
    lock = None
    end = None if args.time_limit is None else monotonic() + 60 * args.time_limit
    for g in range(first := _first(args, folders), len(folders)):
        if lock is None and rank() == 0 and args.out.is_dir():  # the first run makes the folder, and locks its own
            lock = Lock(args.out)
        if lock is not None:
            lock.check()
        one = copy(args)
        one.generation, one.out, one.resume = g, folders[g], args.resume if g == first else None
        one.time_limit = None if end is None else max(0.0, (end - monotonic()) / 60)
        print(f"generation {g} (0 to {len(folders) - 1})")
        yield one


def _first(args: GenerationFlags, folders: list[Path]) -> int:
    """Where to go on: at the last one whose predecessors are all there. Its picks are in its checkpoint."""
    begun = [(folder / LATEST).exists() for folder in folders]
    first = max(0, [*begun, False].index(False) - 1)
    if args.resume is not None:
        inside = [g for g, folder in enumerate(folders) if is_in(args.resume, folder)]
        if not inside:
            problem = f"in none of {folders[0]} to {folders[-1].name}"
            raise UserError(f"--resume {args.resume}: {problem}; by itself, the same command goes on with the last one")
        first = inside[0]
    if args.overwrite:
        return 0 if args.resume is None else first
    if any(later := begun[first + 1 :]):
        name = folders[first + 1 + later.index(True)].name
        problem = f"holds {name}, which came of another {folders[first].name}"
        raise UserError(f"--out {args.out}: {problem}; remove it, take another folder, or --overwrite")
    return first

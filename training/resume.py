"""Whether a checkpoint fits a run: refused where it doesn't, in one line that names the flags.

State: what `read_checkpoint` returns. Arguments, facts: see training.schema.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dataset.held_out import HELD_OUT_FILES, TEST_FILES, other_facts
from training.checkpoint import LATEST, read_checkpoint
from utils.args import PLACE
from utils.errors import UserError
from utils.files import sha256_of
from utils.flags import spelled, with_role

State = dict[str, Any]


def differing(now: Mapping[str, Any], then: Mapping[str, Any], names: Iterable[str]) -> str:
    """Those of the arguments `names` whose values differ, in words; empty if none does."""
    different = [name for name in names if now.get(name) != then.get(name)]
    return ", ".join(f"{spelled(name)} ({then.get(name)} there, {now.get(name)} now)" for name in different)


def starting_point(out: Path, path: Path | None, overwrite: bool, arguments: Mapping[str, Any]) -> State | None:
    """Where a run in the folder `out` goes on, None at the start. Of pre-training: the checkpoint `path`, which
    `--resume` names, else the one in `out`. Of co-learning: that in `out`.

    A pre-training that was resumed from elsewhere and then interrupted goes on from its own checkpoint.
    Raises UserError if `out` holds another run and `overwrite` isn't given, or `path` is of another one.
    """
    cossl, inside = arguments["recipe"].endswith("_cossl"), path is not None and is_in(path, out)
    if inside and overwrite:
        raise UserError(f"--overwrite would delete the checkpoint that --resume {path} names; take another --out")
    if (out / LATEST).exists() and not overwrite and (cossl or not inside):
        state = read_checkpoint(out / LATEST, "--out")
        if "arguments" not in state:
            raise UserError(f"--out {out}: holds a run of the published code; take another folder, or --overwrite")
        longer = "" if cossl else " (there, --resume makes a run longer)"
        remedy = f"take another folder{longer}, or --overwrite"
        refuse_other_run(state, arguments, set(), f"--out {out}: holds another run", remedy)
        return state
    if cossl or path is None:
        return None
    state = read_checkpoint(path, "--resume")
    refuse_cossl(state, path)
    free = set() if inside else {"epochs"}  # in a folder of its own, a run may be made longer
    remedy = "give the same arguments, or a new --out"
    refuse_other_run(state, arguments, free, f"--resume {path}: of another run", remedy)
    return state


def is_in(path: Path, folder: Path) -> bool:
    return path.resolve().parent == folder.resolve()


def refuse_other_run(state: State, now: Mapping[str, Any], free: set[str], problem: str, remedy: str) -> None:
    """Raise UserError if the arguments in `state` aren't those of this run, but for their place and those that are
    free. Published checkpoints have none.
    """
    then, free = state.get("arguments", now), {*with_role(PLACE), *free, *moved_weights(state, now)}
    if difference := differing(now, then, [name for name in {**now, **then} if name not in free]):
        raise UserError(f"{problem}: {difference}; {remedy}")


def moved_weights(state: State, now: Mapping[str, Any]) -> set[str]:
    """The argument `weights` if it names another file with the content of the one that a run began with."""
    sha256, file = state.get("facts", {}).get("weights_sha256"), Path(str(now.get("weights")))
    elsewhere = differing(now, state.get("arguments", now), ["weights"])  # else the file isn't read
    return {"weights"} if sha256 and elsewhere and file.is_file() and sha256_of(file) == sha256 else set()


def refuse_cossl(state: State, path: Path) -> None:
    """Raise UserError if `state` is a co-learning checkpoint where one of pre-training is wanted."""
    if "teacher_head" in state:
        raise UserError(
            f"--resume {path}: a CoSSL checkpoint, give one of pre-training; a CoSSL run continues by its own command"
        )


def same_data(state: State, facts: Mapping[str, Any]) -> None:
    """Raise UserError if a run would go on with other classes, numbers of images or test images than its own."""
    counts = ("labelled_counts", "held_out_counts", HELD_OUT_FILES, "unlabelled_counts", "unlabelled", TEST_FILES)
    if other := differing_facts(state, facts, ("classes", *counts, "evaluated_on")):
        problem = f"--data_root: not the images that the run began with ({other} differ)"
        raise UserError(f"{problem}; bring those back, or start anew in another --out")


def differing_facts(state: State, facts: Mapping[str, Any], names: Iterable[str]) -> str:
    """Those of the facts `names` that differ, in words. Published checkpoints lack them, and are taken to agree."""
    other = other_facts(state.get("facts", facts), {name: facts.get(name) for name in names})
    return ", ".join(name.replace("_", " ") for name in other)

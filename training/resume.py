"""Whether a checkpoint fits a run: refused where it doesn't, in one line that names the flags.

State: what `read_checkpoint` returns. Arguments, facts: see training.schema.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from training.checkpoint import LATEST, read_checkpoint
from utils.args import DATA, PLACE, REFUSE, WARN, Flag
from utils.errors import UserError
from utils.flags import FLAGS, UNLABELLED, spelled, with_role
from utils.text import warn

State = dict[str, Any]
TAKEN_OVER = {"data_root", "skip_corrupt", "batch_size", "manualSeed", "lr_body"}


class Stage1Flags(Protocol):
    """The flags of co-learning that are read here before the others. resume: the pre-training checkpoint."""

    recipe: str
    out: Path
    resume: Path
    overwrite: bool


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


def stage1_arguments(args: Stage1Flags) -> dict[str, Any]:
    """What co-learning takes over from its pre-training unless it is given: data, network, seed and batch size. Empty
    for a published checkpoint. `--unlabelled` is, from the same SSL method alone: others were published with other
    defaults. A run that goes on doesn't need the pre-training any more.
    """
    latest = args.out / LATEST
    going_on = latest.is_file() and not args.overwrite
    try:
        then: dict[str, Any] = read_checkpoint(args.resume, "--resume").get("arguments", {})
    except UserError:  # `Run.pretrained` will tell
        then = read_checkpoint(latest, "--out").get("arguments", {}) if going_on else {}
    ours, theirs = (recipe.split("_")[:3] for recipe in (args.recipe, then.get("recipe", args.recipe)))
    return {name: then[name] for name, one in FLAGS.items() if name in then and _is_taken_over(one, ours == theirs)}


def _is_taken_over(one: Flag, same_method: bool) -> bool:
    """Flags of the data and of the network are, those of methods not."""
    taken_over = one.role == DATA or one.stages == REFUSE or one.name in TAKEN_OVER
    return same_method if one is UNLABELLED else taken_over


def is_in(path: Path, folder: Path) -> bool:
    return path.resolve().parent == folder.resolve()


def refuse_other_run(state: State, now: Mapping[str, Any], free: set[str], problem: str, remedy: str) -> None:
    """Raise UserError if the arguments in `state` aren't those of this run, but for their place and those that are
    free. Published checkpoints have none.
    """
    then, free = state.get("arguments", now), {*with_role(PLACE), *free}
    if difference := differing(now, then, [name for name in {**now, **then} if name not in free]):
        raise UserError(f"{problem}: {difference}; {remedy}")


def check_pretraining(state: State, now: Mapping[str, Any], path: Path) -> None:
    """Raise UserError if a checkpoint that co-learning would start from is of another data set or network; warn if it
    is of another labelled set or SSL method, or if the method had other hyper-parameters.
    """
    refuse_cossl(state, path)
    if "standard_head" in state:
        raise UserError(f"--resume {path}: of a method with two heads (ABC, ACR); give a checkpoint of another method")
    if state.get("step"):
        warn(f"--resume {path} was saved in the middle of epoch {state['epoch'] + 1}")
    now = {**now, "recipe": now["recipe"].removesuffix("_cossl")}
    then = state.get("arguments", now)
    both = now.keys() & then.keys()
    stages = {name: flag.stages for name, flag in FLAGS.items() if name in both}
    if now.get("holdout") is not None and "manualSeed" in both:
        stages["manualSeed"] = REFUSE  # with another seed, images that are held out now were trained on
    found = {kind: differing(now, then, [name for name in stages if stages[name] == kind]) for kind in (REFUSE, WARN)}
    if found[REFUSE]:
        raise UserError(f"--resume {path}: pre-trained otherwise: {found[REFUSE]}; give the same arguments")
    if other := ", ".join(filter(None, [found[WARN], differing(now, then, ["recipe"])])):
        warn(f"--resume {path} was pre-trained otherwise: {other}")


def refuse_cossl(state: State, path: Path) -> None:
    """Raise UserError if `state` is a co-learning checkpoint where one of pre-training is wanted."""
    if "teacher_head" in state:
        raise UserError(
            f"--resume {path}: a CoSSL checkpoint, give one of pre-training; a CoSSL run continues by its own command"
        )


def same_data(state: State, facts: Mapping[str, Any]) -> None:
    """Raise UserError if a run would go on with other classes, or other numbers of images, than its checkpoint has."""
    counts = ("labelled_counts", "held_out_counts", "unlabelled_counts", "unlabelled")
    if other := _differing_facts(state, facts, ("classes", *counts, "evaluated_on")):
        problem = f"--data_root: not the images that the run began with ({other} differ)"
        raise UserError(f"{problem}; bring those back, or start anew in another --out")


def same_classes(state: State, facts: Mapping[str, Any]) -> None:
    """Raise UserError if pre-training had other classes than co-learning has; warn of other numbers of labels."""
    name = f"--resume {state['file']}"
    if _differing_facts(state, facts, ("classes",)):
        raise UserError(f"{name}: pre-trained on other classes; pre-train on those of --data_root")
    if other := _differing_facts(state, facts, ("labelled_counts", "held_out_counts")):
        if "held_out_counts" in facts:
            problem = f"pre-trained on other images ({other} differ), maybe on those that are held out now"
            raise UserError(f"{name}: {problem}; pre-train on those of --data_root")
        warn(f"{name} was pre-trained on another number of labelled images")


def _differing_facts(state: State, facts: Mapping[str, Any], names: Iterable[str]) -> str:
    """Those of the facts `names` that differ, in words. Published checkpoints lack them, and are taken to agree."""
    then = state.get("facts", facts)
    return ", ".join(name.replace("_", " ") for name in names if then.get(name) != facts.get(name))

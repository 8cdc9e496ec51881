"""Co-learning from a pre-training: what it takes over, and whether that fits.

State: what `read_checkpoint` returns. Arguments, facts: see training.schema.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dataset.held_out import HELD_OUT_FILES
from training.checkpoint import LATEST, read_checkpoint
from training.resume import State, differing, differing_facts, moved_weights, refuse_cossl
from utils.args import DATA, REFUSE, WARN, Flag
from utils.errors import UserError
from utils.flags import FLAGS, UNLABELLED
from utils.text import warn

TAKEN_OVER = {"data_root", "skip_corrupt", "batch_size", "manualSeed", "lr_body"}


class Stage1Flags(Protocol):
    """The flags of co-learning that are read here before the others. resume: the pre-training checkpoint."""

    recipe: str
    out: Path
    resume: Path
    overwrite: bool


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
    stages = {name: flag.stages for name, flag in FLAGS.items() if name in both - moved_weights(state, now)}
    if now.get("holdout") is not None and "manualSeed" in both:
        stages["manualSeed"] = REFUSE  # with another seed, images that are held out now were trained on
    found = {kind: differing(now, then, [name for name in stages if stages[name] == kind]) for kind in (REFUSE, WARN)}
    if found[REFUSE]:
        raise UserError(f"--resume {path}: pre-trained otherwise: {found[REFUSE]}; give the same arguments")
    if other := ", ".join(filter(None, [found[WARN], differing(now, then, ["recipe"])])):
        warn(f"--resume {path} was pre-trained otherwise: {other}")


def same_classes(state: State, facts: Mapping[str, Any]) -> None:
    """Raise UserError if pre-training had other classes than co-learning has; warn of other numbers of labels."""
    name = f"--resume {state['file']}"
    if differing_facts(state, facts, ("classes",)):
        raise UserError(f"{name}: pre-trained on other classes; pre-train on those of --data_root")
    if other := differing_facts(state, facts, ("labelled_counts", "held_out_counts", HELD_OUT_FILES)):
        if "held_out_counts" in facts:
            problem = f"pre-trained on other images ({other} differ), maybe on those that are held out now"
            raise UserError(f"{name}: {problem}; pre-train on those of --data_root")
        warn(f"{name} was pre-trained on another number of labelled images")

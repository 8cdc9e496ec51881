"""Checkpoints: which one a run goes on from, refused where it doesn't fit.

A checkpoint is a dict with the published keys (epoch, state_dict, ema_state_dict, optimizer;
CoSSL: teacher_head, ema_teacher) and ours: history (a row per epoch), seconds, arguments, facts (of the data),
teacher_optimizer, and for an epoch that isn't whole, step (how many of its steps are done, usually 0) and totals (the
sums of their logs).
"""

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.checkpoint import NAME, read
from training.folder import check_writable, stamp
from utils.args import flag, plain
from utils.errors import UserError

REMEDY = "take another folder (there, --resume makes a run longer), or --overwrite"
# What may differ between the parts of one run: where things are and what they run on, not what is computed.
FREE = {
    "out",
    "data_root",
    "gpu",
    "overwrite",
    "resume",
    "copy_every",
    "workers",
    "skip_corrupt",
    "time_limit",
    "graph",
}
FOUND = "found"  # entry of a state that was read: which file the run's folder held then, see `stamp`
# What older checkpoints, which lack these arguments, were trained with.
ADDED = {"img_size": 32, "skip_corrupt": False, "amp": False, "channels_last": False, "compile": None}
ADDED |= {"tf32": False, "cudnn_benchmark": False}


def restore(objects: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    """Load every object's state; an optimiser keeps the hyper-parameters it was made with (the flags').

    Raises UserError if a network of the checkpoint is of another data set, depth or width.
    """
    for key, target in objects.items():
        groups = [group.copy() for group in getattr(target, "param_groups", [])]
        try:
            target.load_state_dict(state[key])
            _check_shapes(target)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            remedy = "give the --dataset, --width and --depth it was trained with"
            raise UserError(f"{path}: its {key} doesn't fit this network; {remedy}") from error
        for group, own in zip(getattr(target, "param_groups", []), groups, strict=True):
            group.update({name: value for name, value in own.items() if name != "params"})
            for parameter in group["params"] if group.get("fused") else []:  # those count their steps on the device
                if (moments := target.state.get(parameter)) is not None:
                    moments["step"] = moments["step"].to(parameter.device)


def _check_shapes(target: Any) -> None:
    """Raise ValueError if an optimiser has taken what isn't of its parameters' shapes."""
    for parameter, state in getattr(target, "state", {}).items():
        if any(value is not None and value.shape not in (parameter.shape, ()) for value in state.values()):
            raise ValueError("moments of other shapes")


def differing(now: dict[str, Any], then: dict[str, Any], free: set[str] = FREE) -> str:
    """The flags whose values differ, in words; empty if none does."""
    then = {name: value for name, value in ADDED.items() if name in now} | then
    names = [name for name in now | then if name not in free and not _same(name, now.get(name), then.get(name))]
    return ", ".join(f"{flag(name)} ({then.get(name)} there, {now.get(name)} now)" for name in names)


def _same(name: str, now: Any, then: Any) -> bool:
    if name == "resume" and now and then:
        return Path(now).resolve() == Path(then).resolve()
    return now == then


def continued(args: Namespace, keys: Iterable[str], free: set[str] = FREE) -> dict[str, Any] | None:
    """The checkpoint of the run that `--out` holds, if this is the same run; None for a new one.

    free: the arguments that may differ. Raises UserError if the folder holds another run and `--overwrite` isn't given,
    or can't be written to.
    """
    out = args.out
    check_writable(out)
    found = stamp(out)
    if args.overwrite or found is None:
        return None
    state = read(out / NAME, "--out", keys) | {FOUND: found}
    if "arguments" not in state:
        raise UserError(f"--out {out}: holds a run of the published code; take another folder, or --overwrite")
    refuse_other_run(state, args, free, f"--out {out}: holds another run", REMEDY)
    return state


def resumed(args: Namespace, keys: Iterable[str]) -> dict[str, Any] | None:
    """Where pre-training continues: the checkpoint `--resume` names, else the one in `--out`; None: at the start.

    A run that was resumed from elsewhere and then interrupted goes on from its own checkpoint.
    """
    path, out = args.resume, args.out
    inside = path is not None and _inside(path, args)
    own = None if inside else continued(args, keys)
    if own is not None or path is None:
        return own
    check_writable(out)
    found = stamp(out)
    state = read(path, "--resume", keys) | {FOUND: found}
    refuse_cossl(state, path)
    free = FREE if inside else FREE | {"epochs"}  # in a folder of its own, a run may be made longer
    refuse_other_run(state, args, free, f"--resume {path}: of another run", "give the same arguments, or a new --out")
    return state


def refuse_outdated(state: dict[str, Any] | None, args: Namespace) -> None:
    """Raise UserError if, since `state` was read (None: since there was nothing to read), another process has trained
    in `--out`. For a process that holds the folder's lock."""
    if not args.overwrite and stamp(args.out) != (state or {}).get(FOUND):
        raise UserError(f"--out {args.out}: another process has trained there meanwhile; give the command once more")


def again(args: Namespace) -> str:
    """The command that goes on where this one ends, in words."""
    if args.overwrite:
        return "the same command without --overwrite"
    copy = args.resume is not None and args.resume.name != NAME and _inside(args.resume, args)
    return "the same command" + " without --resume" * (copy and not args.recipe.endswith("_cossl"))


def pretrained(args: Namespace, keys: Iterable[str]) -> dict[str, Any]:
    """The pre-training checkpoint `--resume` names, from which co-learning starts.

    Raises UserError if it is of another data set or network; warns if it is of another labelled set or SSL method, or
    if the method had other hyper-parameters.
    """
    path = args.resume
    _inside(path, args)
    state = read(path, "--resume", keys)
    refuse_cossl(state, path)
    if state.get("step"):
        print(f"warning: --resume {path} was saved in the middle of epoch {state['epoch'] + 1}", file=sys.stderr)
    expected = {"num_max", "ratio", "imb_ratio_l", "imb_ratio_u", "labeled_percent", "manualSeed", "recipe"}
    expected |= {"tau", "T", "mix_alpha", "w_rot", "w_ent", "align"}
    now = plain(args) | {"recipe": args.recipe.removesuffix("_cossl")}
    then = state.get("arguments", now)
    everything = {*now, *then}
    free = everything - {"dataset", "width", "depth", "img_size"}
    refuse_other_run(state, args, free, f"--resume {path}: pre-trained otherwise", "give the same arguments")
    if other := differing(now, then, everything - (expected & {*now} & {*then})):
        print(f"warning: --resume {path} was pre-trained otherwise: {other}", file=sys.stderr)
    return state


def refuse_cossl(state: dict[str, Any], path: Path) -> None:
    """Raise UserError if `state` is a co-learning checkpoint where one of pre-training is wanted."""
    if "teacher_head" in state:
        raise UserError(
            f"--resume {path}: a CoSSL checkpoint, give one of pre-training; a CoSSL run continues by its own command"
        )


def refuse_other_run(state: dict[str, Any], args: Namespace, free: set[str], problem: str, remedy: str) -> None:
    """Raise UserError if the arguments in `state` aren't those of this run. Published checkpoints have none."""
    now = plain(args)
    if difference := differing(now, state.get("arguments", now), free):
        raise UserError(f"{problem}: {difference}; {remedy}")


def same_data(state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise UserError if a run would go on with other classes, or other numbers of images, than its checkpoint has."""
    names = ("classes", "labelled_counts", "unlabelled_counts", "unlabelled")
    if other := _differing_facts(state, facts, names):
        problem = f"--data_root: not the images that the run began with ({other} differ)"
        raise UserError(f"{problem}; bring those back, or start anew in another --out")


def same_classes(state: dict[str, Any], facts: dict[str, Any], path: Path) -> None:
    """Raise UserError if pre-training had other classes than co-learning has; warn of other numbers of labels."""
    if _differing_facts(state, facts, ("classes",)):
        raise UserError(f"--resume {path}: pre-trained on other classes; pre-train on those of --data_root")
    if _differing_facts(state, facts, ("labelled_counts",)):
        print(f"warning: --resume {path} was pre-trained on another number of labelled images", file=sys.stderr)


def _differing_facts(state: dict[str, Any], facts: dict[str, Any], names: Iterable[str]) -> str:
    """Those of the facts `names` that differ, in words. Checkpoints that lack them are taken to agree."""
    then = state.get("facts", {})
    return ", ".join(name.replace("_", " ") for name in names if then.get(name, facts.get(name)) != facts.get(name))


def _inside(path: Path, args: Namespace) -> bool:
    """Whether the checkpoint lies in `--out`. Raises UserError if `--overwrite` would delete it."""
    inside = path.resolve().parent == args.out.resolve()
    if inside and args.overwrite:
        raise UserError(f"--overwrite would delete the checkpoint that --resume {path} names; take another --out")
    return inside

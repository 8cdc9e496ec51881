"""Flags: spellings and defaults of the published scripts, plus a few that they lack. A flag knows what it decides."""

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError
from utils.flag_types import a_name, positive_int, wrn_depth

# What a flag decides. DATA, RESULT: the images and the numbers of a run. SPEED: the last digits of these: a run keeps
# its value, and the report counts runs that differ in it as alike. PLACE: where a run is and how long: always free.
DATA, RESULT, SPEED, PLACE = "data", "result", "speed", "place"
# What co-learning makes of a pre-training that had another value.
WARN, REFUSE = "warn", "refuse"


# Arguments -> other defaults of some of them.
Defaults = Callable[[argparse.Namespace], dict[str, Any]]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of flags that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line; `--help` shows every default."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


class _Ignore(argparse.Action):
    """Reads a flag, and leaves no trace of it among the arguments."""

    def __call__(self, *_: Any, **__: Any) -> None:
        return


@dataclass(frozen=True)
class Flag:
    """A flag of the training scripts. names: its spellings; role: DATA, RESULT, SPEED or PLACE; stages: WARN or REFUSE
    where both stages should have the same value; options: of argparse.
    """

    names: tuple[str, ...]
    role: str
    stages: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """What it is called among the arguments of a run."""
        return self.names[0].removeprefix("--").replace("-", "_")


def flag(names: str, kind: Callable[[str], Any], default: Any, about: str, **more: Any) -> Flag:
    """A flag with a value. names: its spellings, with spaces between them; more: `role`, `stages`, and argparse's."""
    options = {"type": kind, "default": default, "help": about}
    return Flag(tuple(names.split()), more.pop("role", RESULT), more.pop("stages", ""), options | more)


def switch(name: str, about: str, role: str = RESULT, stages: str = "", action: Any = "store_true") -> Flag:
    """A flag that is on or off, which is the default."""
    return Flag((name,), role, stages, {"action": action, "default": False, "help": about})


class _Arch(argparse.Action):
    """`wrn-D-W` is another spelling of a depth and a width."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        if found := re.fullmatch(r"wrn-(\d+)-(\d+)", value):
            with suppress(argparse.ArgumentTypeError):
                namespace.depth, namespace.width = wrn_depth(found[1]), positive_int(found[2])
                value = None
        setattr(namespace, self.dest, value)


def arch(about: str) -> Flag:
    """`--arch`."""
    options = {"action": _Arch, "type": a_name, "default": None, "help": about, "metavar": "NAME"}
    return Flag(("--arch",), RESULT, REFUSE, options)


def ignored(name: str, **more: Any) -> Flag:
    """A flag that published scripts accept, and never use. more: argparse's."""
    options = {"action": _Ignore, "default": argparse.SUPPRESS, "help": "ignored, as in the published scripts"}
    return Flag((name,), PLACE, "", options | more)


def recipe_args(
    recipe: Path, doc: str, *groups: tuple[Flag, ...], stage1: Defaults | None = None, **defaults: Any
) -> argparse.Namespace:
    """The arguments of a training script. recipe: its file, by whose name `recipe` among them calls it; doc: its
    docstring, whose first paragraph `--help` shows; groups: its flags; defaults: those that are its own; stage1: what
    co-learning takes from its pre-training, unless it is given, out of the other arguments.

    Raises UserError for wrong flags.
    """
    parser = Parser(" ".join(doc.split("\n\n")[0].split()))
    for one in (one for group in groups for one in group):
        parser.add_argument(*one.names, **one.options)
    parser.set_defaults(recipe=recipe.stem, **defaults)
    args = parser.parse_args()
    choices = {one.name: one.options.get("choices") for group in groups for one in group}
    inherited = stage1(args) if stage1 else {}
    # What this recipe can't mean, as another's data set, keeps its default, so that it is told as a difference.
    inherited = {name: value for name, value in inherited.items() if value in (choices.get(name) or [value])}
    parser.set_defaults(**{name: value for name, value in inherited.items() if name in choices})
    found = _dependent(parser.parse_args()) | inherited
    parser.set_defaults(**{name: value for name, value in found.items() if name in choices})
    return parser.parse_args()


def _dependent(args: argparse.Namespace) -> dict[str, Any]:
    """Defaults where a network has pre-trained weights, for FixMatch's are for one that starts from nothing; on the
    short schedule, for it leaves the head few steps; and those that presets of `train_cifar_fix_prior.py`, ACR on
    STL-10, and SimPro on ImageNet-1k-LT were published with.
    """
    short: dict[str, Any] = {"lr_tfe": 0.02} if getattr(args, "schedule", None) == "short" else {}
    found = {"tau": 0.7, "lr": 0.0005, "lr_body": 0.0002} if getattr(args, "weights", None) else short
    dataset = getattr(args, "dataset", None)
    found |= {"unlabelled": "included"} if getattr(args, "preset", None) in ("la", "adello") else {}
    found |= {"unlabelled": "disjoint"} if (args.recipe, dataset) == ("train_cifar_fix_acr", "stl10") else {}
    published = {"labeled_percent": 0.2, "unlabelled": "disjoint"}
    return found | (published if dataset == "small_imagenet1k" else {})


def plain(args: argparse.Namespace) -> dict[str, str | int | float | bool | None]:
    """The arguments as plain values, for checkpoints and summaries."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}

"""Flags: spellings and defaults of the published scripts, plus a few that they lack. A flag knows what it decides."""

import argparse
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError

# What a flag decides. DATA, RESULT: the images and the numbers of a run. SPEED: the last digits of these: a run keeps
# its value, and the report counts runs that differ in it as alike. PLACE: where a run is and how long: always free.
DATA, RESULT, SPEED, PLACE = "data", "result", "speed", "place"
# What co-learning makes of a pre-training that had another value.
WARN, REFUSE = "warn", "refuse"


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


def ignored(name: str, **more: Any) -> Flag:
    """A flag that published scripts accept, and never use. more: argparse's."""
    options = {"action": _Ignore, "default": argparse.SUPPRESS, "help": "ignored, as in the published scripts"}
    return Flag((name,), PLACE, "", options | more)


def recipe_args(recipe: Path, doc: str, *groups: tuple[Flag, ...], **defaults: Any) -> argparse.Namespace:
    """The arguments of a training script. recipe: its file, by whose name `recipe` among them calls it; doc: its
    docstring, whose first paragraph `--help` shows; groups: its flags; defaults: those that are its own.

    Raises UserError for wrong flags.
    """
    parser = Parser(" ".join(doc.split("\n\n")[0].split()))
    for one in (one for group in groups for one in group):
        parser.add_argument(*one.names, **one.options)
    parser.set_defaults(recipe=recipe.stem, **defaults)
    return parser.parse_args()


def plain(args: argparse.Namespace) -> dict[str, str | int | float | bool | None]:
    """The arguments as plain values, for checkpoints and summaries."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}


def number(kind: type, valid: Callable[[float], bool], meaning: str) -> Callable[[str], float]:
    """A type for argparse: an int or float within bounds; `meaning` completes "expected ..." in the error."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            value: float = kind(text)
            if valid(value):
                return value
        raise argparse.ArgumentTypeError(f"expected {meaning}, got {text!r}")

    return parse


positive_int = number(int, lambda v: 0 < v < 1e9, "a whole number above 0 and below 1e9")
non_negative_int = number(int, lambda v: 0 <= v < 2**32, "a whole number from 0 to 2^32 - 1")
nonzero_int = number(int, lambda v: 0 < abs(v) < 1e9, "a whole number other than 0, from -1e9 to 1e9")
positive_float = number(float, lambda v: 0 < v < 1e9, "a number above 0 and below 1e9")
sensible_float = number(float, lambda v: 1e-3 <= v <= 1e3, "a number from 0.001 to 1000")
non_negative_float = number(float, lambda v: 0 <= v < 1e9, "a number of at least 0 and below 1e9")
minutes = number(float, lambda v: 0 < v <= 1e6, "minutes, above 0 and up to 1e6")
positive_share = number(float, lambda v: 0 < v <= 1, "a number above 0 and up to 1")
share = number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
inner_share = number(float, lambda v: 0 < v < 1, "a number above 0 and below 1")
worker_count = number(int, lambda v: 0 <= v <= 256, "a whole number from 0 to 256")
image_size = number(int, lambda v: 16 <= v <= 512 and v % 8 == 0, "a multiple of 8 from 16 to 512")
wrn_depth = number(int, lambda v: 10 <= v < 1000 and v % 6 == 4, "6 n + 4, as 10, 16, 22, 28")


def gpu(text: str) -> str:
    return text if text == "cpu" else str(number(int, lambda v: 0 <= v < 1000, "a device number or 'cpu'")(text))


def path(text: str) -> Path:
    """A path; `~` is the user's home, which a shell leaves as it is in --out=~/x."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises for ~nobody


def path_or_none(text: str) -> Path | None:
    return path(text) if text else None


def spare_cpus() -> int:
    """How many worker processes this one may have: its share of the CPUs that it may use, 8 at most."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return min(8, max(1, cpus // max(1, int(processes) if processes.isdecimal() else 1)))

"""Types of flags: text -> value, or argparse's error."""

import argparse
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


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


def weights(text: str) -> str | None:
    """A file, as an absolute path; `default`; None for `none`."""
    return None if text == "none" else text if text == "default" else str(path(text).absolute())


def tune(text: str) -> str:
    if text in ("all", "norm", "none") or re.fullmatch(r"last:[1-9]\d{0,3}", text):
        return text
    raise argparse.ArgumentTypeError(f"expected all, norm, none, or last:N as last:10, got {text!r}")


def class_order(text: str) -> str:
    """`consistent`, `reversed`, or every class number once, from 0, with commas between them."""
    if text in ("consistent", "reversed"):
        return text
    if re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})+", text):
        classes = [int(number) for number in text.split(",")]
        if sorted(classes) == list(range(len(classes))):
            return ",".join(map(str, classes))
    example = "each class number from 0 once, as 2,0,1"
    raise argparse.ArgumentTypeError(f"expected consistent, reversed, or {example}, got {text[:40]!r}")


def strength(text: str) -> float | str:
    """A number of at least 0, or `fit`."""
    return text if text == "fit" else non_negative_float(text)


def a_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got ''")
    return text


def path_or_none(text: str) -> Path | None:
    return path(text) if text else None


def spare_cpus() -> int:
    """How many worker processes this one may have: its share of the CPUs that it may use, 8 at most."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return min(8, max(1, cpus // max(1, int(processes) if processes.isdecimal() else 1)))

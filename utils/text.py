"""Text that a line on any terminal or a file can hold, and warnings."""

import sys
from functools import lru_cache


def printable(text: object) -> str:
    """In characters that a line on any terminal, a file and a figure can hold: files' names may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def one_line(text: object) -> str:
    """For stderr: names of files may hold newlines, and what a terminal obeys."""
    return printable(" ".join(str(text).splitlines()))


def reason(error: BaseException) -> str:
    """What is wrong with a file, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {one_line(text)}", file=sys.stderr)


warn_once = lru_cache(warn)

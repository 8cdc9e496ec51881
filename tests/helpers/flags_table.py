"""The table of docs/flags.md, out of the parsers of the training scripts.

python tests/helpers/flags_table.py writes it anew.
"""

import argparse
import importlib
import sys
from itertools import chain, combinations
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))  # for a process of its own

from utils.args import Parser
from utils.flags import FLAGS

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "flags.md"
RECIPES = tuple(path.stem for path in sorted(ROOT.glob("train_*_*.py")))
FAMILIES = {"CIFAR": "cifar", "Small-ImageNet": "small_imagenet127", "Food": "food"}
STAGES = {"": (True, False), ", pre-training": (False,), ", co-learning": (True,)}


class Parsed(Exception):
    """Carries the parser of a script out of it."""


def parser_of(recipe: str) -> Parser:
    def stop(self, *_):
        raise Parsed(self)

    with patch.object(Parser, "parse_args", stop):
        try:
            importlib.import_module(recipe).main()
        except Parsed as found:
            return found.args[0]
    raise AssertionError(f"{recipe} parses no flags")


def default_of(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.dest == "workers":
        return "CPUs, at most 8"
    value = action.default
    if value is None or value is argparse.SUPPRESS:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def rows() -> dict[tuple[str, str, str, str], list[str]]:
    """(flag, default, role, meaning) -> scripts."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for recipe in RECIPES:
        parser = parser_of(recipe)
        for action in parser._actions:
            if action.dest == "help":
                continue
            value = f" [{(action.metavar or 'MODE')}]" if action.nargs == "?" else ""
            value = f" {action.metavar}" if action.metavar and not value else value
            names = ", ".join(f"`{name}{value}`" for name in action.option_strings)
            choices = ", ".join(f"`{choice}`" for choice in action.choices or ())
            about = action.help.replace(" (default: %(default)s)", "") + (f"; one of {choices}" if choices else "")
            default = parser.get_default(action.dest)
            action.default = action.default if default is None else default
            found.setdefault((names, default_of(action), FLAGS[action.dest].role, about), []).append(recipe)
    return found


def in_words(scripts: list[str]) -> str:
    if scripts == list(RECIPES):
        return "all"
    subsets = chain.from_iterable(combinations(FAMILIES, n) for n in (1, 2, 3))
    for families in subsets:
        for words, stages in STAGES.items():
            chosen = [r for r in RECIPES if r.endswith("_cossl") in stages and any(FAMILIES[f] in r for f in families)]
            if chosen == scripts:
                return " and ".join(families) + words if len(families) < 3 else words.removeprefix(", ")
    others = [name for name in RECIPES if name not in scripts]
    named = ", ".join(f"`{name.removeprefix('train_')}`" for name in min(scripts, others, key=len))
    return f"all but {named}" if len(others) < len(scripts) else named


def order(item: tuple) -> tuple[int, int]:
    (names, *_), scripts = item
    name = names.split("`")[1].split()[0].removeprefix("--").replace("-", "_")
    return [*FLAGS].index(name), RECIPES.index(scripts[0])


def table() -> str:
    lines = ["| flag | default | role | meaning | scripts |", "| --- | --- | --- | --- | --- |"]
    for (names, default, role, about), scripts in sorted(rows().items(), key=order):
        lines.append(f"| {names} | {default} | {role} | {about} | {in_words(scripts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    start = text.index("| flag | default |")
    DOCUMENT.write_text(text[:start] + table() + text[text.index("\n\n", start) :], encoding="utf-8")

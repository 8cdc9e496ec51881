"""The rules of the house: floors, no circles, who sees a run's arguments, names, lengths.

Each list of exceptions names what still breaks a rule, and nothing else: it may only shrink.
"""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package imports those on lower floors, and none beside it. Scripts and benchmarks stand above all.
FLOORS = {"utils": 1, "models": 1, "methods": 2, "dataset": 2, "training": 3, "reporting": 4}
MODULES = {f"{path.parent.name}.{path.stem}": path for package in FLOORS for path in (ROOT / package).glob("*.py")}
RECIPES = sorted(ROOT.glob("train_*.py"))

SEES_ARGUMENTS = {*("training.epoch", "training.loop", "training.recorder", "training.resume", "training.speed")}
LONG_FILES = {
    *("reporting.shifted", "training.resume", "training.sound", "utils.args", "utils.ranks"),
}
LONG_BODIES = {
    *("train_cifar_fix_cossl", "train_cifar_mix_cossl", "train_cifar_remix_cossl"),
    *("train_food_fix_cossl", "train_small_imagenet127_fix_cossl"),
}
# Every method has its own views and its own loss.
SHARED_NAMES = {"VIEWS", "semi_loss"}
AMBIGUOUS_NAMES = {
    *("DAMAGED", "FILES", "HOME", "NAME", "NAMES", "PARTS", "REMEDY", "ROWS", "Run"),
    *("columns", "dataset_of", "load", "method_of", "read_run", "write"),
}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever it does; a package stands for its `__init__`."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= modules & MODULES.keys() or {node.module}
    return {f"{name}.__init__" if name in FLOORS else name for name in found}


def test_no_import_goes_up_or_sideways():
    for name, path in MODULES.items():
        package = name.split(".")[0]
        for other in imports(path):
            there = other.split(".")[0]
            assert there == package or FLOORS.get(there, 0) < FLOORS[package], f"{name} imports {other}"
            assert not (ROOT / f"{there}.py").exists() and there not in ("benchmarks", "tests"), f"{name}: {other}"


def test_no_circles():
    graph = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # a circle raises


def test_who_sees_the_arguments_of_a_run():
    names = lambda path: {node.id for node in ast.walk(parsed(path)) if isinstance(node, ast.Name)}
    found = {name for name, path in MODULES.items() if "Namespace" in names(path)}
    assert found - {"utils.args", "training.run"} == SEES_ARGUMENTS


def public_names(path: Path) -> set[str]:
    found = set()
    for node in parsed(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_a_public_name_means_one_thing():
    where = defaultdict(set)
    for module, path in MODULES.items():
        for name in public_names(path):
            where[name].add(module)
    assert {name for name, modules in where.items() if len(modules) > 1} - SHARED_NAMES == AMBIGUOUS_NAMES


def test_files_fit_on_a_few_screens():
    long = {name for name, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > 150}
    assert long == LONG_FILES


def body_lines(path: Path) -> int:
    """Lines of a recipe's `main`, without its first."""
    (main,) = [node for node in parsed(path).body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    return main.end_lineno - main.lineno


def test_a_recipe_reads_as_the_paper():
    assert {path.stem for path in RECIPES if body_lines(path) > 40} == LONG_BODIES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_imports_constants_and_main(path):
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr, ast.If)
    others = [node for node in parsed(path).body if not isinstance(node, kinds)]
    assert [getattr(node, "name", None) for node in others] == ["main"]


def test_formatting_is_never_skipped():
    skip = "fmt: " + "skip"
    files = [path for folder in (".", "benchmarks", "tests", *FLOORS) for path in (ROOT / folder).glob("*.py")]
    assert [path for path in files if skip in path.read_text(encoding="utf-8")] == []

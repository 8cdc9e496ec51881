"""The rules of the house: floors, no circles, who sees a run's arguments, names, lengths.

Each list of exceptions names what still breaks a rule, and nothing else: it may only shrink.
"""

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package imports those on lower floors, and none beside it. Scripts and benchmarks stand above all.
FLOORS = {"utils": 0, "models": 1, "methods": 2, "dataset": 2, "training": 3, "reporting": 4}
MODULES = {f"{path.parent.name}.{path.stem}": path for package in FLOORS for path in (ROOT / package).glob("*.py")}
RECIPES = sorted(ROOT.glob("train_*_*.py"))

SEES_ARGUMENTS = {"utils.args", "training.run"}
LONG_FILES = {"reporting.shifted", "training.run", "utils.ranks"}
# Every method has its own views and its own loss.
SHARED_NAMES = {"VIEWS", "semi_loss"}
AMBIGUOUS_NAMES: set[str] = set()
LONG_FUNCTIONS = {"methods.remixmatch.remixmatch"}  # a formula of four terms
MANY_PARAMETERS = {"benchmarks.pillow.draw_views", "dataset.rows.draw_rows"}  # RandAugment's numbers among them


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
            assert there == package or FLOORS.get(there, -1) < FLOORS[package], f"{name} imports {other}"
            assert not (ROOT / f"{there}.py").exists() and there not in ("benchmarks", "tests"), f"{name}: {other}"


def test_no_circles():
    graph = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # a circle raises


def test_who_sees_the_arguments_of_a_run():
    """Scripts, and these two; other functions say by a Protocol what they read."""
    found = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(parsed(path))
        if getattr(node, "id", getattr(node, "attr", None)) == "Namespace"
    }
    assert found == SEES_ARGUMENTS


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


def lines_of(function: ast.FunctionDef) -> int:
    """Without its docstring."""
    first = function.body[0]
    text = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if text else 0)


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)]


def test_functions_are_short_and_take_few_parameters():
    """Recipes have a rule of their own."""
    scripts = {path.stem: path for path in ROOT.glob("*.py") if path not in RECIPES}
    files = MODULES | scripts | {f"benchmarks.{path.stem}": path for path in (ROOT / "benchmarks").glob("*.py")}
    long, many = set(), set()
    for name, path in files.items():
        for function in functions(path):
            inputs = function.args
            taken = [each.arg for each in (*inputs.posonlyargs, *inputs.args, *inputs.kwonlyargs)]
            if lines_of(function) > 30:
                long.add(f"{name}.{function.name}")
            if len(set(taken) - {"self", "cls"}) > 7:
                many.add(f"{name}.{function.name}")
    assert (long, many) == (LONG_FUNCTIONS, MANY_PARAMETERS)


def test_no_text_is_multiplied_by_a_truth_value():
    for path in (*MODULES.values(), *ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                sides = ast.unparse(node.left), ast.unparse(node.right)
                text = any(side.startswith(("'", "f'", "[")) for side in sides)
                truth = any(re.search(r"bool\(|any\(|all\(|==|[<>]| in | not ", side) for side in sides)
                assert not (text and truth), f"{path.name}:{node.lineno}"


def test_a_recipe_reads_as_the_paper():
    long = {path.stem for path in RECIPES for main in functions(path) if main.name == "main" and lines_of(main) > 41}
    assert long == set()  # 40, and the line of its name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_imports_constants_and_main(path):
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr, ast.If)
    others = [node for node in parsed(path).body if not isinstance(node, kinds)]
    assert [getattr(node, "name", None) for node in others] == ["main"]


def test_formatting_is_never_skipped():
    skip = "fmt: " + "skip"
    files = [path for folder in (".", "benchmarks", *FLOORS) for path in (ROOT / folder).glob("*.py")]
    files += (ROOT / "tests").rglob("*.py")
    assert [path for path in files if skip in path.read_text(encoding="utf-8")] == []

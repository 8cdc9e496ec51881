"""The examples of docs/own-images.md in Python, run as they stand there."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.scripts import HANG, ROOT, assert_runs, environment


def example(words: str) -> str:
    """The only block of Python in the page with these words."""
    page = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if words in code]
    return code


def run_python(code: str, folder: Path, path: str | Path = ROOT) -> list[list[str]]:
    """The words of each line that it prints, in a process of its own in that folder. path: of modules."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    usual = {"cwd": folder, "env": environment(PYTHONPATH=str(path)), "timeout": HANG}
    done = subprocess.run([sys.executable, "-c", code], **pipes, **usual)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def predicted(checkpoint: Path, images: Path, out: Path, *flags: object) -> list[dict[str, str]]:
    """The answers of `predict.py`, a row an image, written to `out`."""
    assert_runs("predict.py", "--checkpoint", checkpoint, images, "--out", out, "--gpu", "cpu", *flags)
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def agrees(found: list[list[str]], folder: Path, out: Path) -> None:
    """That (file, class, probability) of each unlabelled image are those of `predict.py`, to the three places shown."""
    expected = predicted(folder / "results" / "cossl" / "checkpoint.pth.tar", folder / "images" / "unlabelled", out)
    for (name, label, probability), row in zip(found, expected, strict=True):
        assert (name, label) == (Path(row["file"]).name, row["class"])
        assert float(probability) == pytest.approx(float(row["probability"]), abs=6e-4)

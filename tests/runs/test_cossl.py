"""`cossl.load`: the example of the documentation, word for word; what it refuses."""

import csv
import re
import subprocess
import sys

import pytest
import torch
from helpers.own_images import image_folder, write_image
from helpers.published_runs import published_state
from helpers.scripts import FIX, FIX_COSSL, HANG, ROOT, SHORT, assert_runs, environment

from cossl import load
from utils.errors import UserError

DOCS = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
FLAGS = ["--dataset", "folder", "--img_size", 24, "--depth", 10, "--width", 1, "--batch-size", 4, "--gpu", "cpu"]


@pytest.fixture
def folder(tmp_path):
    """Where the documentation's commands have been followed."""
    images = image_folder(tmp_path / "images")
    for i, size in enumerate([(30, 40), (50, 20)]):
        write_image(tmp_path / "images" / "unlabelled" / f"e{i}.jpg", i, size)
    run = [*FLAGS, "--data_root", images, *SHORT]
    assert_runs(FIX, *run, "--out", tmp_path / "results" / "fix")
    start = tmp_path / "results" / "fix" / "checkpoint.pth.tar"
    assert_runs(FIX_COSSL, *run, "--resume", start, "--out", tmp_path / "results" / "cossl")
    return tmp_path


def example(word):
    """The only block of Python in the documentation with that word."""
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if word in code]
    return code


def run_python(code, folder):
    """In a process of its own, in that folder."""
    command, env = [sys.executable, "-c", code], environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def predicted(folder):
    """The answers of `predict.py`, a row per image."""
    checkpoint, out = folder / "results" / "cossl" / "checkpoint.pth.tar", folder / "out.csv"
    flags = ["--checkpoint", checkpoint, folder / "images" / "unlabelled", "--out", out, "--gpu", "cpu"]
    assert_runs("predict.py", *flags)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_example_in_the_documentation(folder):
    code = example("from cossl import load")
    assert len(code.splitlines()) <= 10
    found, expected = run_python(code, folder), predicted(folder)
    assert len(found) == 11
    for (name, label, probability), row in zip(found, expected, strict=True):
        assert (name, label) == (row["file"].rpartition("/")[2], row["class"])
        assert float(probability) == pytest.approx(float(row["probability"]), abs=6e-4)


def test_published_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(published_state("train_cifar_fix_cossl"), path)
    names = list("abcdefghij")
    predictor, classes = load(path, classes=names)
    assert classes == names
    assert predictor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    assert load(str(path), classes=names, dataset="cifar100", img_size=64)[0].img_size == 64
    with pytest.raises(UserError, match=r"--classes: .* doesn't name its classes"):
        load(path)
    with pytest.raises(UserError, match="--classes: 2 entries"):
        load(path, classes=names[:2])
    with pytest.raises(UserError, match="dataset mnist: not known; give one of cifar10"):
        load(path, classes=names, dataset="mnist")
    with pytest.raises(UserError, match=r"^/.*nowhere.tar: no such file"):
        load(tmp_path / "nowhere.tar")

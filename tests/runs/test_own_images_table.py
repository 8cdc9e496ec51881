"""The table of own images: what is recorded, and that all seeds take the steps of one plan."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import own_images, own_images_table
from dataset.layouts import list_images
from dataset.overlap import overlaps

FIGURES = {"floor/logistic_regression": 70.0, "fix": 75.0, "cossl": 80.0}
STEPS = {"supervised": {"supervised": 900}, "fix": {"fix": 400}, "cossl": {"fix": 300, "cossl": 150}}


@pytest.fixture
def commands(monkeypatch):
    """Of train_folder.py, which is not run."""
    commands = []

    def train_folder(command: list[str], **others) -> None:
        commands.append(command)
        out, method = Path(command[-1]), command[command.index("--method") + 1]
        (out / "plan.json").write_text(json.dumps({"steps": STEPS[method], "epochs": 5}))
        for part, balanced in FIGURES.items() if "--plan" not in command else ():
            (out / part).mkdir(parents=True)
            summary = {"last_20_mean": {"balanced": balanced + 2 * int(out.name)}}
            (out / part / "summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(own_images_table.subprocess, "run", train_folder)
    return commands


def table(monkeypatch, *flags: object) -> None:
    monkeypatch.setattr("sys.argv", ["own_images_table.py", *map(str, flags)])
    own_images_table.main()


def test_seeds_take_the_steps_that_were_planned_and_are_recorded_once(commands, monkeypatch, capsys, tmp_path):
    for more in (["--plan"], ["--seeds", 1], ["--seeds", 1, 2]):
        table(monkeypatch, "--out", tmp_path, "--only", "fashion-10-scratch-cossl", *more)
    plan, *runs = commands
    assert "--plan" in plan and "--steps" not in plan
    assert [Path(run[-1]).name for run in runs] == ["1", "2"]
    for run in runs:
        assert run[run.index("--steps") : -2] == ["--steps", "300", "--steps_cossl", "150", "--evaluations", "5"]
    lines = capsys.readouterr().out.splitlines()
    assert "| fashion | scratch | 73.0 ± 1.4 | - | - |" in lines
    assert "| fashion | scratch | 10 | - | - | 83.0 ± 1.4 | +10.0 ± 0.0 | - |" in lines  # FixMatch: two thirds of a run


def test_differences_are_of_the_seeds_that_both_have():
    figures = {("1", "supervised"): 80, ("1", "cossl"): 84, ("2", "supervised"): 70, ("2", "cossl"): 75}
    figures |= {("3", "cossl"): 90, ("3", "logistic_regression"): 60}
    rows = [
        {"images": "a", "start": "b", "minutes": "10", "seed": seed, "balanced": str(value), "part": part}
        | {"method": part if part in own_images_table.METHODS else "cossl"}
        for (seed, part), value in figures.items()
    ]
    *_, last = own_images_table.table(rows).splitlines()
    assert last == "| a | b | 10 | 75.0 ± 7.1 (2) | - | 83.0 ± 7.5 | +30.0 (1) | +4.5 ± 0.7 (2) |"


@pytest.mark.parametrize(
    ("method", "lengths"), [("fix", ["--steps", "400"]), ("supervised", ["--steps", "600", "--steps_cossl", "300"])]
)
def test_methods_of_one_stage_are_as_long_as_planned(commands, monkeypatch, tmp_path, method, lengths):
    table(monkeypatch, "--out", tmp_path, "--only", f"fashion-10-scratch-{method}", "--seeds", 1)
    assert commands[1][commands[1].index("--steps") : -2] == [*lengths, "--evaluations", "5"]


def test_drawings_are_in_one_place_each(tmp_path):
    """Copies of a drawing, also larger ones, count once; in two classes they are of none, as is what is left out."""
    rng = np.random.default_rng(0)
    for name, n in (("animals", 104), ("food", 101), ("music", 20), ("special", 120)):
        (tmp_path / "png" / name / "more").mkdir(parents=True)
        for i in range(n):
            pixels = np.kron(rng.integers(0, 256, (2, 2), dtype=np.uint8), np.ones((256, 256), np.uint8))
            Image.fromarray(pixels).save(tmp_path / "png" / name / f"{i}.png")
    animals, food = tmp_path / "png" / "animals", tmp_path / "png" / "food"
    large = Image.open(animals / "0.png")
    large.resize((256, 256)).save(animals / "more" / "0.png")
    shutil.copy(animals / "1.png", animals / "more" / "1.png")
    shutil.copy(animals / "2.png", food / "of-animals.png")
    own_images.write_clipart(tmp_path / "png", tmp_path / "out", 1)
    found = list_images(tmp_path / "out", False)
    assert found.classes == ("animals", "food") and not any(overlaps(found).values())
    pixels = {Image.open(path).tobytes() for path in found.paths}
    assert len(pixels) == len(found.paths) == 103 + 101 and Image.open(found.paths[0]).size == (256, 256)
    assert (
        large.resize((256, 256)).tobytes() in pixels
        and Image.open(animals / "2.png").resize((256, 256)).tobytes() not in pixels
    )

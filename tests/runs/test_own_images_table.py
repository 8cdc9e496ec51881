"""The table of own images: what is recorded, and that all seeds take the steps of one plan."""

import json
from pathlib import Path

import pytest

from benchmarks import own_images_table

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
    assert "| fashion | scratch | 10 | cossl | 83.0 ± 1.4 | 2 |" in lines
    assert "| fashion | scratch | - | logistic_regression | 73.0 ± 1.4 | 2 |" in lines
    assert not any("| fix |" in line for line in lines)  # it is two thirds of a run, not one of its own


@pytest.mark.parametrize(
    ("method", "lengths"), [("fix", ["--steps", "400"]), ("supervised", ["--steps", "600", "--steps_cossl", "300"])]
)
def test_methods_of_one_stage_are_as_long_as_planned(commands, monkeypatch, tmp_path, method, lengths):
    table(monkeypatch, "--out", tmp_path, "--only", f"fashion-10-scratch-{method}", "--seeds", 1)
    assert commands[1][commands[1].index("--steps") : -2] == [*lengths, "--evaluations", "5"]

"""The table of own images: what is recorded, and that all seeds take the steps of one plan."""

import json
from pathlib import Path

from benchmarks import own_images_table

FIGURES = {"floor/logistic_regression": 70.0, "fix": 75.0, "cossl": 80.0}


def test_seeds_take_the_steps_that_were_planned_and_are_recorded_once(monkeypatch, capsys, tmp_path):
    commands = []

    def train_folder(command: list[str], **others) -> None:
        commands.append(command)
        out, plan = Path(command[-1]), {"parts": ["fix", "cossl"], "steps": {"fix": 300, "cossl": 150}, "epochs": 5}
        (out / "plan.json").write_text(json.dumps(plan))
        for part, balanced in FIGURES.items() if "--plan" not in command else ():
            (out / part).mkdir(parents=True)
            summary = {"last_20_mean": {"balanced": balanced + 2 * int(out.name)}}
            (out / part / "summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(own_images_table.subprocess, "run", train_folder)
    flags = ["--out", str(tmp_path), "--only", "fashion-10-scratch-cossl"]
    for more in (["--plan"], ["--seeds", "1"], ["--seeds", "1", "2"]):
        monkeypatch.setattr("sys.argv", ["own_images_table.py", *flags, *more])
        own_images_table.main()
    plan, *runs = commands
    assert "--plan" in plan and "--steps" not in plan
    assert [Path(run[-1]).name for run in runs] == ["1", "2"]
    for run in runs:
        assert run[run.index("--steps") : -2] == ["--steps", "300", "--steps_cossl", "150", "--evaluations", "5"]
    lines = capsys.readouterr().out.splitlines()
    assert "| fashion | scratch | 10 | cossl | 83.0 ± 1.4 | 2 |" in lines
    assert "| fashion | scratch | - | logistic_regression | 73.0 ± 1.4 | 2 |" in lines
    assert not any("| fix |" in line for line in lines)  # it is two thirds of a run, not one of its own

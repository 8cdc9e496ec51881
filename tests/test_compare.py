"""The comparison of runs, started as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from utils.compare import load_runs
from utils.summary import summarise, to_json

ROOT = Path(__file__).parents[1]
OUTPUTS = ["curves.png", "per_class.png", "summary.json"]
TESTED = ["top1", "balanced", "gm", "many", "medium", "few"]


def make_run(folder: Path, method: str, level: float, classes: int = 10, epochs: int = 25, start: int = 0) -> Path:
    """A run of top-1 `level` + 0.1 per epoch, balanced accuracy 1 less, and so on; class 1 is absent."""
    folder.mkdir()
    history, lines = [], ["\t".join(["epoch", "loss", "mask", "test_loss", *TESTED])]
    for n in range(1, epochs + 1):
        figures = {name: level + 0.1 * n - i for i, name in enumerate(TESTED)}
        recall = [None if c == 1 else level - c / classes for c in range(classes)]
        history.append(figures | {"loss": 3 / n, "recall": recall})
        lines.append("\t".join(map(str, [n, 1.5, 0.5, 3 / n, *figures.values()])))
    counts = [1 + (7 * c) % classes for c in range(classes)]
    facts = {"method": method, "classes": [f"class {c}" for c in range(classes)], "labelled_counts": counts}
    facts |= {"unlabelled_counts": counts, "steps_per_epoch": 500, "start_epoch": start, "arguments": {}}
    (folder / "summary.json").write_text(to_json(facts | summarise(history)))
    (folder / "log.txt").write_text("\n".join(lines) + "\n")
    return folder


def compare(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "utils.compare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("classes", [10, 100])
def test_two_runs(tmp_path, classes):
    fixmatch = make_run(tmp_path / "a", "FixMatch", 40, classes)
    cossl = make_run(tmp_path / "b", "FixMatch + CoSSL", 60, classes, epochs=3, start=20)
    out = tmp_path / "new" / "out"
    done = compare(fixmatch, cossl, "--out", out, "--title", "CIFAR, imbalance 100")
    assert (done.returncode, done.stderr) == (0, "")

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert rows[0] == [
        *[
            "method",
            "top-1",
            "balanced accuracy",
            "geometric mean",
            "many",
            "medium",
            "few",
            "epochs averaged",
        ]
    ]
    # The mean of epochs 6 .. 25 is that of 15.5, the mean of 1 .. 3 that of 2.
    assert rows[2] == ["FixMatch", "41.55", "40.55", "39.55", "38.55", "37.55", "36.55", "20"]
    assert rows[3] == ["FixMatch + CoSSL", "60.20", "59.20", "58.20", "57.20", "56.20", "55.20", "3"]
    assert "CIFAR, imbalance 100" in done.stdout
    assert "last-20 mean" in done.stdout

    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    for name in OUTPUTS[:2]:
        height, width = imread(out / name).shape[:2]
        assert 600 <= height <= 1500
        assert 1000 <= width <= 2000
    check_summary(json.loads((out / "summary.json").read_text()))


def check_summary(found: dict) -> None:
    assert [run["label"] for run in found["runs"]] == ["FixMatch", "FixMatch + CoSSL"]
    assert found["runs"][0]["best"]["epoch"] == 25
    difference = found["last_20_mean_last_minus_first"]
    assert difference["top1"] == pytest.approx(60.2 - 41.55)
    assert difference["recall"][:3] == pytest.approx([20, None, 20])


def test_one_epoch_and_repeated_methods(tmp_path):
    runs = [make_run(tmp_path / name, "FixMatch", 50, classes=2, epochs=1) for name in ("x", "y", "z")]
    done = compare(*runs, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "FixMatch (x)" in done.stdout
    assert "FixMatch (z)" in done.stdout
    before = [(tmp_path / "out" / name).read_bytes() for name in OUTPUTS]
    compare(*runs, "--out", tmp_path / "out")
    assert before == [(tmp_path / "out" / name).read_bytes() for name in OUTPUTS]


def test_a_run_from_a_checkpoint_continues_the_axis(tmp_path):
    first = make_run(tmp_path / "a", "FixMatch", 40, epochs=4)
    second = make_run(tmp_path / "b", "FixMatch + CoSSL", 60, epochs=2, start=4)
    runs = load_runs([first, second])
    assert [run["epochs"] for run in runs] == [[1, 2, 3, 4], [5, 6]]
    assert np.allclose(runs[1]["columns"]["test_loss"], [3, 1.5])  # not the training loss


def no_summary(run: Path) -> None:
    (run / "summary.json").unlink()


def broken_json(run: Path) -> None:
    (run / "summary.json").write_text("{")


def no_figures(run: Path) -> None:
    (run / "summary.json").write_text('{"method": "FixMatch"}')


def no_log(run: Path) -> None:
    (run / "log.txt").unlink()


def foreign_log(run: Path) -> None:
    (run / "log.txt").write_text("epoch\tloss\n1\t2\n")


def words_in_log(run: Path) -> None:
    path = run / "log.txt"
    path.write_text(path.read_text().replace("1.5", "many").replace("\t3.0\t", "\tlots\t"))


def other_classes(run: Path) -> None:
    path = run / "summary.json"
    path.write_text(path.read_text().replace("class 3", "cat"))


SPOILERS = {
    no_summary: "summary.json can't be read",
    broken_json: "summary.json isn't valid JSON",
    no_figures: "summary.json lacks classes",
    no_log: "log.txt can't be read",
    foreign_log: "log.txt needs numbers",
    words_in_log: "log.txt needs numbers",
    other_classes: "other classes than",
}


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_bad_input_ends_in_one_line(tmp_path, spoil):
    good, bad = (make_run(tmp_path / name, name, 50, epochs=2) for name in ("good", "bad"))
    spoil(bad)
    done = compare(good, bad, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert SPOILERS[spoil] in done.stderr
    assert str(bad) in done.stderr
    assert not (tmp_path / "out").exists()


def test_out_never_overwrites_a_run(tmp_path):
    run = make_run(tmp_path / "a", "FixMatch", 40, epochs=2)
    before = (run / "summary.json").read_bytes()
    done = compare(run, "--out", run)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (run / "summary.json").read_bytes() == before


def test_out_that_is_a_file(tmp_path):
    run = make_run(tmp_path / "a", "FixMatch", 40, epochs=2)
    (tmp_path / "file").write_text("mine")
    done = compare(run, "--out", tmp_path / "file")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--out" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"

"""The table of the field's methods: what is recorded, what it shows, and the oracles of its ceilings."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.golden import normal
from helpers.scripts import HANG, ROOT, TINY, environment, log_lines, steps, summary
from torch.nn.functional import cross_entropy

from benchmarks import field
from benchmarks.oracles import KnownLabels, know_the_prior
from methods.prior import ClassPrior
from training.checkpoint import LATEST


def finish(folder, balanced: float) -> None:
    folder.mkdir(parents=True)
    found = {"status": "finished", "last_20_mean": {"balanced": balanced, "gm": 50.0}, "best": {"balanced": 90.0}}
    (folder / "summary.json").write_text(json.dumps(found))


def test_what_has_been_run_is_recorded_once_and_shown(tmp_path):
    for setting, seed, cossl, la in (("uniform", 1, 80.0, 81.0), ("uniform", 2, 82.0, 85.0), ("consistent", 1, 70, 70)):
        for method, balanced in (("CoSSL", cossl), ("LA", la)):
            finish(tmp_path / setting / method / str(seed), balanced)
            field.record(tmp_path, setting, method, seed)
    finish(tmp_path / "uniform" / "CReST+" / "1" / "generation_0", 60.0)
    finish(tmp_path / "uniform" / "CReST+" / "1" / "generation_1", 65.0)
    field.record(tmp_path, "uniform", "CReST+", 1)
    found = field.recorded(tmp_path)
    assert found["uniform", "CReST+"] == {"1": {"mean": 65.0, "gm": 50.0, "best": 90.0}}
    rows = {line.split(" | ")[0]: line for line in field.table(found).splitlines()}
    assert rows["| LA"] == "| LA | 70.0 | 83.0 ± 2.8 | - | - |  |  | 1/2/0/0 |"
    assert "| LA | 50.0; 90.0 | 50.0 ± 0.0; 90.0 ± 0.0 | -; - | -; - |" in field.others(found).splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in field.differences(found).splitlines()}
    assert rows["| LA"][1:4] == ["+0.0", "+2.0 ± 1.4", "-"] and "| CoSSL" not in rows


def test_what_the_pseudo_labels_were_like(tmp_path):
    for method, seed, tv, rare in (("SimPro", 1, 0.1, 40), ("SimPro", 2, 0.2, 60), ("FixMatch", 1, None, 50)):
        finish(folder := tmp_path / "uniform" / method / str(seed), 80.0)
        names = ["epoch", "mask", "pl_recall_many", "pl_recall_medium", "pl_recall_few", *(["prior_tv"] if tv else [])]
        lines = [[1, 0.1, 1, 1, 1, 0.9], [2, 0.5, 80, 70, rare, tv]]
        text = ["\t".join(names), *("\t".join(map(str, line[: len(names)])) for line in lines)]
        (folder / "log.txt").write_text("\n".join(text) + "\n")
    finish(tmp_path / "uniform" / "supervised" / "1", 80.0)
    rows = field.pseudo_labels(tmp_path).splitlines()[2:]
    assert rows == ["| FixMatch |  | 50; 80/70/50 |  |  |", "| SimPro |  | 0.15; 50; 80/70/50 |  |  |"]


def test_a_run_that_is_recorded_is_not_run_again(monkeypatch, tmp_path):
    monkeypatch.setattr(field, "run", lambda *args: pytest.fail("runs"))
    finish(tmp_path / "uniform" / "LA" / "1", 80.0)
    field.record(tmp_path, "uniform", "LA", 1)
    arguments = ["field.py", "--out", str(tmp_path), "--seeds", "1", "--only", "uniform, LA"]
    monkeypatch.setattr("sys.argv", arguments)
    field.main()


def test_an_oracle_knows_the_shares():
    prior = ClassPrior(torch.tensor([40.0, 10.0]), 100, truth=torch.tensor([20.0, 60.0]))
    know_the_prior(prior, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(prior(), torch.tensor([0.25, 0.75]))


def test_an_oracle_s_head_learns_from_the_true_labels():
    known, head, f_s = KnownLabels(), torch.nn.Linear(5, 4), normal(0, (6, 5))
    known.labels, keep = torch.tensor([0, 3, 1]), torch.tensor([0.5, 1.0, 1.0, 0.2])
    coins = torch.tensor([0.4, 0.3, 0.9, 0.6, 0.1, 0.2])
    loss = known.on_unlabelled(head, normal(1, (3, 5)), f_s, keep, 0.95, coins)
    counted = [0, 2, 4, 5]  # of both views: kept are those whose coin is below their class's chance
    expected = sum(cross_entropy(head(f_s[i]), known.labels[i % 3]) for i in counted) / 3
    torch.testing.assert_close(loss, expected)


@pytest.mark.slow
def test_runs_of_an_oracle_say_so(pretrained, tmp_path):
    script, start = "train_cifar_fix_prior_cossl.py", ["--resume", pretrained / LATEST, "--warm_tfe", 1]
    flags = [*TINY, *steps(script, 2), "--epochs", 1, "--lam_h", 1, *start, "--out", tmp_path]
    command = [sys.executable, "-m", "benchmarks.oracles", "labels", script, *flags]
    subprocess.run(list(map(str, command)), cwd=ROOT, env=environment(), timeout=HANG, check=True)
    assert "oracle of labels" in summary(tmp_path)["method"]
    header, figures = (line.split("\t") for line in log_lines(tmp_path))
    assert float(figures[header.index("prior_tv")]) == 0

"""Pseudo-labels and test figures per class over the epochs: against loops, and what a run leaves of them."""

import csv
import math

import numpy as np
import pytest
import torch
from helpers.scripts import TINY, assert_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from methods.pseudo_labels import PseudoLabels, quality
from training.diagnostics import divergence, pseudo_columns, shares
from training.totals import Totals

GUESSED, SELECTED, PRESENT, RIGHT, USED = COUNTS = [[8, 4, 0], [4, 0, 0], [6, 4, 2], [5, 2, 0], [3, 0, 0]]


@pytest.mark.parametrize("tau", [0.1, 0.8, 2.0])
def test_an_epochs_accuracy_of_the_selected_is_that_of_all_of_them(tau):
    """Steps that select much count for more, those that select nothing for nothing; against a loop over images."""
    rng, totals, right = np.random.default_rng(0), Totals(), []
    for step in range(6):
        guess, truth, confidence = rng.integers(3, size=40), rng.integers(2, size=40), rng.random(40) * step / 5
        pseudo = PseudoLabels(torch.from_numpy(guess), 3, torch.from_numpy(confidence >= tau))
        totals.add(quality(pseudo, torch.from_numpy(truth)))
        totals.step += 1
        right += [g == y for g, y, c in zip(guess, truth, confidence, strict=True) if c >= tau]
    assert totals.means()["acc_selected"] == pytest.approx(sum(right) / max(1, len(right)))
    means, counts = totals.over_ranks()
    assert means == totals.means()
    assert counts[1].sum() == len(right) == pytest.approx(means["mask"] * 240)


def facts(unlabelled=(600, 400, 200)):
    return {"labelled_counts": [30, 10, 1], "unlabelled_counts": unlabelled and list(unlabelled)}


def test_shares_of_a_small_case():
    found = {name: value.tolist() for name, value in shares(torch.tensor(COUNTS)).items()}
    assert found["mask_rate"] == pytest.approx([50, 0, math.nan], nan_ok=True)
    assert found["precision"] == pytest.approx([75, math.nan, math.nan], nan_ok=True)
    assert found["recall"] == [50, 0, 0]
    assert set(shares(torch.tensor(COUNTS[:2]))) == {"mask_rate"}  # the truth is not known


def test_columns_are_means_over_thirds_by_training_frequency():
    found = pseudo_columns(torch.tensor(COUNTS), facts())
    assert found["pl_precision_many"] == 75
    assert math.isnan(found["pl_precision_few"])
    assert (found["pl_recall_many"], found["pl_recall_medium"], found["pl_mask_many"]) == (50, 0, 50)
    turned = torch.tensor(COUNTS).flip(1)
    assert pseudo_columns(turned, facts() | {"labelled_counts": [1, 10, 30]})["pl_precision_many"] == 75
    assert set(pseudo_columns(torch.tensor(COUNTS[:2]), facts(None))) == {
        "pl_mask_many",
        "pl_mask_medium",
        "pl_mask_few",
    }
    assert set(pseudo_columns(torch.tensor(COUNTS[:2]), facts(None), selects=False)) == set()


def test_divergence():
    guessed, true = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([49.0, 29.0, 19.0])
    assert divergence(guessed, true).item() == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.3))
    true = torch.tensor([600.0, 300.0, 0.0])
    assert divergence(true + 1, true).item() == pytest.approx(0, abs=1e-6)
    assert math.isfinite(divergence(torch.tensor([0.0, 0.0, 5.0]), true))
    assert math.isnan(divergence(torch.zeros(3), true))  # nothing selected: no distribution


@pytest.mark.parametrize("script", ["train_cifar_fix.py", "train_cifar_mix.py", "train_cifar_supervised.py"])
def test_what_a_run_leaves(script, pretrained_by):
    """The arrays agree with each other and with log.txt, epoch by epoch."""
    out = pretrained_by(script)
    arrays = np.load(out / "diagnostics.npz")
    with (out / "log.txt").open() as file:
        log = list(csv.DictReader(file, delimiter="\t"))
    assert arrays["epoch"].tolist() == [1, 2]
    assert np.nanmean(arrays["test_recall"], axis=1) == pytest.approx([float(row["balanced"]) for row in log], rel=1e-4)
    confusion = arrays["confusion"]
    assert confusion.diagonal() / confusion.sum(1) * 100 == pytest.approx(arrays["test_recall"][-1])
    if "supervised" in script:
        assert set(arrays) == {"epoch", "test_recall", "confusion"}
        assert not any(name.startswith("pl_") for name in log[0])
        return
    assert arrays["guessed"].sum(1).tolist() == arrays["present"].sum(1).tolist() == [6 * 16] * 2
    if "mix" in script:  # it uses all its guesses
        assert np.array_equal(arrays["selected"], arrays["guessed"])
        assert "mask_rate" not in arrays and not [name for name in log[0] if "mask" in name]
    else:
        mask = arrays["selected"].sum(1) / arrays["guessed"].sum(1)
        assert mask == pytest.approx([float(row["mask"]) for row in log], rel=1e-4)
        assert arrays["mask_rate"].shape == (2, 10)
        used = arrays["right_selected"].sum(1) / np.maximum(1, arrays["selected"].sum(1))
        assert used == pytest.approx([float(row["acc_selected"]) for row in log], rel=1e-4)
    right = arrays["right"].sum(1) / arrays["present"].sum(1)
    assert right == pytest.approx([float(row["acc_u"]) for row in log], rel=1e-4)
    many = arrays["recall"][:, :3].mean(1)  # 10 classes, the first ones the most frequent
    assert many == pytest.approx([float(row["pl_recall_many"]) for row in log], rel=1e-4)
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    for name in (name for name in log[0] if name.startswith("pl_")):
        logged = {n: float(row[name]) for n, row in enumerate(log, 1) if row[name] != "nan"}
        shown = {event.step: event.value for event in events.Scalars(f"pseudo/{name}")} if logged else {}
        assert shown == pytest.approx(logged, rel=1e-4), name
        assert logged or "fix" in script  # whose loss may have used none


def test_a_continued_run_has_the_rows_of_both_parts(pretrained, tmp_path):
    flags = [*TINY, "--val-iteration", 6, "--epoch", 2, "--resume", pretrained / "checkpoint_1.pth.tar"]
    assert_runs("train_cifar_fix.py", *flags, "--out", tmp_path)
    whole, parts = (np.load(folder / "diagnostics.npz") for folder in (pretrained, tmp_path))
    assert set(parts) == set(whole)
    for key in whole:
        assert np.array_equal(parts[key], whole[key], equal_nan=whole[key].dtype.kind == "f"), key
    assert (tmp_path / "log.txt").read_text() == (pretrained / "log.txt").read_text()

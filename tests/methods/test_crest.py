"""CReST+ against slow loops: alignment, which images join, and what a generation is."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataset.long_tail import class_profile
from methods.crest import Picked, aligned, crest, flattened, pick, picking_rates, surest
from methods.fixmatch import fixmatch
from methods.remixmatch import RunningMean

COUNTS = torch.tensor([50, 20, 7, 1])


@pytest.mark.parametrize("generation", range(6))
def test_the_target_is_the_labelled_distribution_to_a_power_that_falls(generation):
    t = (1 - generation / 5) * 1 + generation / 5 * 0.5
    powers = [(n / 78) ** t for n in COUNTS.tolist()]
    expected = [power / sum(powers) for power in powers]
    torch.testing.assert_close(flattened(COUNTS.double(), generation, 6, 0.5).tolist(), expected)


def test_a_single_generation_is_aligned_with_the_labelled_distribution():
    torch.testing.assert_close(flattened(COUNTS.double(), 0, 1, 0.5), COUNTS.double() / 78)


def test_guesses_are_aligned_as_a_loop_does():
    torch.manual_seed(0)
    mean, target = RunningMean(4), flattened(COUNTS.double(), 2, 6, 0.5).float()
    batches, means = [torch.randn(5, 4) for _ in range(3)], []
    labeller = aligned(lambda images: images, mean, target)
    for batch in batches:
        p = batch.softmax(dim=1)
        means.append(p.mean(dim=0))
        expected = []
        for row in p.tolist():
            averages = [sum(m[c].item() for m in means) / len(means) for c in range(4)]
            moved = [x * (target[c].item() + 1e-6) / (averages[c] + 1e-6) for c, x in enumerate(row)]
            expected.append([x / sum(moved) for x in moved])
        torch.testing.assert_close(labeller(batch).softmax(dim=1), torch.tensor(expected))
    torch.testing.assert_close(mean.state_dict(), torch.stack(means))


@pytest.mark.parametrize(("classes", "gamma"), [(10, 100), (10, 150), (100, 20), (2, 3)])
def test_rates_are_the_published_ones(classes, gamma):
    mu = (1 / gamma) ** (1 / (classes - 1))
    expected = [(mu ** (classes - 1 - c)) ** (1 / 3) for c in range(classes)]
    rates = picking_rates(class_profile(classes, gamma), 3)
    assert rates == expected
    assert rates[-1] == 1  # of the rarest class all
    assert picking_rates(class_profile(classes, -gamma), 3) == expected[::-1]


def test_rates_of_own_images_are_by_the_order_of_their_counts():
    assert picking_rates([10, 80, 40, 20], 1) == [1, 10 / 80, 20 / 80, 40 / 80]
    assert picking_rates([5, 5], 3) == [1, 1]


def test_the_surest_of_each_class_join_as_in_a_loop():
    torch.manual_seed(0)
    logits, rates = torch.randn(60, 4), [0.2, 0.5, 0.77, 1.0]
    expected = []
    for c, rate in enumerate(rates):
        members = [i for i in range(60) if logits[i].argmax() == c]
        members.sort(key=lambda i: -logits[i].max().item())
        expected += [(i, c) for i in members[: math.floor(len(members) * rate)]]
    places, guess = surest(logits, rates)
    assert list(zip(places.tolist(), guess.tolist(), strict=True)) == expected


def test_a_class_that_nobody_guesses_gets_nothing():
    places, guess = surest(torch.tensor([[2.0, 1.0], [3.0, 1.0]]), [1.0, 1.0])
    assert (places.tolist(), guess.tolist()) == ([1, 0], [0, 0])


def data_of(truth):
    """Images 10 to 15 are unlabelled; 12 is labelled, too. Each is its own logits."""
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [9.0, 0.0], [0.0, 5.0], [0.0, 1.0], [1.0, 0.0]])
    sweep = [([part], label) for part, label in zip(logits.split(4), truth, strict=True)]
    asked = []
    unlabelled = SimpleNamespace(members=np.arange(10, 16), sweep=lambda wanted: asked.append(wanted) or sweep)
    return SimpleNamespace(unlabelled=unlabelled, labelled=SimpleNamespace(members=np.array([12, 3]))), asked


def test_picked_are_unlabelled_images_and_the_truth_is_only_told(capsys):
    data, asked = data_of([torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0])])
    picked = pick(lambda images: images, data, [0.7, 1.0])
    assert (picked.images.tolist(), picked.labels.tolist()) == ([10, 11, 13, 14], [0, 0, 1, 1])
    assert asked == [("plain",)]
    words = "4 of 5 unlabelled images join the labelled ones, 75.0 % of them in their own class\n"
    assert capsys.readouterr().out == words
    pick(lambda images: images, data_of([None, None])[0], [0.7, 1.0])
    assert capsys.readouterr().out == "4 of 5 unlabelled images join the labelled ones\n"
    assert pick(lambda images: images, data, [0.0, 0.0]).images.tolist() == []


def test_a_generation_says_which_it_is_and_saves_what_it_needs():
    picked, mean = Picked([4, 7], [1, 0]), RunningMean(4)
    names = [crest(fixmatch(0.9), g, 3, picked, mean).name for g in range(3)]
    assert names == ["FixMatch+CReST+, generation 0", "FixMatch+CReST+, generation 1", "FixMatch+CReST+"]
    assert crest(fixmatch(0.9), 0, 1, picked, mean).state == {"picked": picked, "emp_distb_u": mean}
    assert {k: v.tolist() for k, v in picked.state_dict().items()} == {"images": [4, 7], "labels": [1, 0]}
    assert all(len(value) == 0 and value.dtype == torch.int64 for value in Picked().state_dict().values())

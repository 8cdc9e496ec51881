"""CDMAD: what it takes away, when, and that the rest of the batch and the last bias don't matter."""

import copy

import pytest
import torch
from helpers.golden import integers, normal

from dataset.batches import Batch, Minibatch
from methods.cdmad import ConstantImage, cdmad, debiased
from methods.fixmatch import fixmatch
from models.wrn import WideResNet
from reporting.trained import _network

CLASSES, ROWS, SIZE = 4, 6, 16


@pytest.fixture
def network() -> WideResNet:
    torch.manual_seed(0)
    network = WideResNet(CLASSES, depth=10, width=1)
    torch.nn.init.normal_(network.output.bias)
    network(normal(9, (32, 3, SIZE, SIZE)))  # statistics that aren't those of a new network
    return network.eval()


def batch_of(debias: float) -> Batch:
    views = [normal(seed, (ROWS, 3, SIZE, SIZE)) for seed in range(4)]
    numbers = {"debias": torch.tensor(debias)}
    return Batch(numbers, Minibatch(views[:1], integers(0, CLASSES, ROWS)), Minibatch(views[1:], None))


def test_logits_less_those_of_the_constant_image(network):
    images, constant = normal(0, (ROWS, 3, SIZE, SIZE)), ConstantImage(SIZE)
    expected = torch.stack([network(image[None])[0] - network(torch.ones(1, 3, SIZE, SIZE))[0] for image in images])
    torch.testing.assert_close(debiased(network, constant)(images), expected, atol=1e-4, rtol=1e-4)


def test_in_eval_mode_the_rest_of_the_batch_does_not_matter(network):
    images, score = normal(0, (ROWS, 3, SIZE, SIZE)), debiased(network, ConstantImage(SIZE))
    torch.testing.assert_close(score(images)[:2], score(images[:2]), atol=1e-4, rtol=1e-4)


def test_the_last_bias_changes_no_label_and_no_prediction(network):
    constant, batch = ConstantImage(SIZE), batch_of(1.0)
    images, results = batch.unlabelled.views[0], []
    for shift in (torch.zeros(CLASSES), 3 * normal(5, (CLASSES,))):
        with torch.no_grad():
            network.output.bias += shift
        guess = cdmad(constant, 0).loss(network, network, batch)[2].guess
        results.append((guess, debiased(network, constant)(images)))
    (first, logits), (second, others) = results
    assert torch.equal(first, second)
    torch.testing.assert_close(logits, others, atol=1e-4, rtol=1e-4)


def test_before_it_begins_it_is_fixmatch_with_all_soft_targets(network):
    method = cdmad(ConstantImage(SIZE), begin=3)
    assert [float(method.draw(t, ROWS)["debias"]) for t in (0, 2, 3, 9)] == [0, 0, 1, 1]
    loss, _, pseudo = method.loss(network, network, batch_of(0.0))
    expected = fixmatch(0.0, soft=True).loss(network, network, batch_of(0.0))[0]
    torch.testing.assert_close(loss, expected)
    assert pseudo.selected is None
    assert not torch.equal(method.loss(network, network, batch_of(1.0))[0], expected)


def test_the_average_s_statistics_stay_and_a_live_network_s_move(network):
    constant, batch = ConstantImage(SIZE), batch_of(1.0)
    student = WideResNet(CLASSES, depth=10, width=1).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    cdmad(constant, 0).loss(student, network, batch)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    seen = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {int(module.num_batches_tracked) for module in seen} == {1}
    cdmad(constant, 0).loss(student, student, batch)  # as published: the batch, the weak view, and the constant image
    assert {int(module.num_batches_tracked) for module in seen} == {4}


def test_a_live_labeller_s_statistics_after_three_steps():
    """As if constant image, weak view and the rest had passed through it one after the other."""
    torch.manual_seed(0)
    student, constant, batch = WideResNet(CLASSES, depth=10, width=1).train(), ConstantImage(SIZE), batch_of(1.0)
    expected = copy.deepcopy(student)
    ((x,), _), ((weak, *strong), _) = batch.labelled, batch.unlabelled
    for _ in range(3):
        cdmad(constant, 0).loss(student, student, batch)
        for images in (constant.image.repeat(2, 1, 1, 1), weak, torch.cat([x, *strong])):
            expected(images)
    torch.testing.assert_close(dict(student.named_buffers()), dict(expected.named_buffers()))


def test_tools_fold_it_into_the_bias(network):
    constant, images = ConstantImage(SIZE), normal(0, (ROWS, 3, SIZE, SIZE))
    state = {"ema_state_dict": network.state_dict(), "debias": constant.state_dict()}
    expected = debiased(network, constant)(images).detach()
    torch.testing.assert_close(_network(state, CLASSES)(images).detach(), expected, atol=1e-4, rtol=1e-4)

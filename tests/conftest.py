"""Shared by the tests: the golden files and the inputs they were made from (weights and images out of seeds)."""

import hashlib
import importlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from dataset.small_imagenet127 import class_map
from utils.args import pick_device
from utils.main import run_main

GOLDEN = Path(__file__).parent / "golden"
# Seconds after which what a test waits for is taken to hang. Nothing comes near it, however loaded the machine is.
HANG = 600


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def normal(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 standard normal numbers of NumPy's legacy generator: the inputs of all golden numbers."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def integers(seed: int, high: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, high, size))


def fill(module: torch.nn.Module, base: int) -> torch.nn.Module:
    """Fill a network with the golden weights number `base`, in the order of its state dict."""
    scale = 3.0 if base == 500 else 1.0
    for i, (key, value) in enumerate(module.state_dict().items()):
        r = normal(base + i, tuple(value.shape))
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith("running_var"):
            r = scale * (1 + 0.1 * r.abs())
        elif key.endswith("running_mean") or (r.ndim == 1 and not key.endswith("weight")):
            r = 0.1 * r
        elif r.ndim == 1:
            r = 1 + 0.1 * r
        else:
            r = r * np.sqrt(2 / np.prod(r.shape[1:])).item()
        value.copy_(r)
    return module


def pytest_sessionstart():
    """What differs between machines decides nothing: how long an example of Hypothesis takes, nor which ones it draws.

    One thread: on small tensors a second one mostly waits, on a busy machine for seconds.
    """
    from hypothesis import HealthCheck, settings

    slow = [HealthCheck.too_slow]
    settings.register_profile("same", deadline=None, suppress_health_check=slow, derandomize=True, database=None)
    settings.load_profile("same")
    torch.set_num_threads(1)


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
def as_rank(monkeypatch):
    """rank -> from here on this process takes the rows of that rank of two."""

    def become(rank: int, of: int = 2) -> None:
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": of}.items():
            monkeypatch.setenv(name, str(value))

    return become


ROOT = Path(__file__).parent.parent
# A run of seconds: real images that need no download, a small network, few steps.
TINY = [
    "--dataset",
    "digits",
    "--gpu",
    "cpu",
    "--num_max",
    40,
    "--imb_ratio_l",
    20,
    "--imb_ratio_u",
    20,
    "--depth",
    10,
    "--width",
    1,
    "--batch-size",
    16,
    "--ema-decay",
    0.9,
    "--manualSeed",
    1,
]
FOOD = [
    "--gpu",
    "cpu",
    "--num_max",
    12,
    "--imb_ratio_l",
    3,
    "--imb_ratio_u",
    3,
    "--depth",
    10,
    "--img_size",
    16,
    "--batch-size",
    8,
    "--ema-decay",
    0.9,
    "--tau",
    0.4,
    "--workers",
    0,
    "--manualSeed",
    1,
]


def steps(script: str, n: int) -> list:
    """The flag for n steps per epoch; on Food-101, the data decide (on the small one here: 4)."""
    return [] if "food" in script else ["--val-iteration", n]


def environment(**others: str) -> dict[str, str]:
    """For a process with as many threads as this one, since another number may change the last bits of sums."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "OMP_WAIT_POLICY": "passive"} | others


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def run_script(script: str, *arguments: object, **others: object) -> subprocess.CompletedProcess:
    """Run a script as a user does, from the repository. others: for `subprocess.run`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    usual = pipes | {"cwd": ROOT, "timeout": HANG, "env": environment()}
    return subprocess.run(command(script, *arguments), **usual | others)


def run_here(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """The same within this process, which spares the seconds that another one takes to start."""
    argv, out, err, code = [script, *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            run_main(importlib.import_module(Path(script).stem).main)
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def assert_runs(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script within this process to its end."""
    result = run_here(script, *arguments)
    assert result.returncode == 0, result.stderr
    return result


def load_checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """One line on stderr with all the words in it, and exit code 2."""
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture(scope="session")
def tiny(request):
    """Script -> the flags of a run of seconds."""

    def flags(script: str) -> list:
        if "food" in script:
            return [*FOOD, "--data_root", request.getfixturevalue("food101")]
        if "small_imagenet127" not in script:
            return TINY
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


@pytest.fixture(scope="session")
def pretrained(pretrained_by) -> Path:
    """The folder of a finished tiny FixMatch run."""
    return pretrained_by("train_cifar_fix.py")


def cifar_batch(seed: int, label_key: str, num_classes: int, number: int) -> dict:
    random = np.random.RandomState(seed)
    return {
        "batch_label": f"batch {seed}",
        "data": random.randint(0, 256, (number, 3 * 32 * 32)).astype(np.uint8),
        label_key: (random.permutation(number) % num_classes).tolist(),
        "filenames": [f"{seed}_{i}.png" for i in range(number)],
    }


def write_cifar(name: str, root: Path, train_per_class: int, monkeypatch) -> tuple:
    """Random images in the official layout: torchvision's class, the training batches, the test batch.

    torchvision's checksums are set to those of these files, so its integrity check stays in force.
    """
    source, num_classes = getattr(torchvision.datasets, name.upper()), int(name[5:])
    key = "labels" if num_classes == 10 else "fine_labels"
    folder = root / source.base_folder
    folder.mkdir()

    def write(file_name: str, content: dict) -> str:
        raw = pickle.dumps(content, protocol=2)
        (folder / file_name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    numbers = [train_per_class * num_classes] * len(source.train_list) + [4 * num_classes]
    batches = {
        entry[0]: cifar_batch(seed, key, num_classes, number)
        for seed, (entry, number) in enumerate(zip(source.train_list + source.test_list, numbers, strict=True))
    }
    sums = {file_name: write(file_name, batch) for file_name, batch in batches.items()}
    meta = {source.meta["key"]: [f"kind {c}" for c in range(num_classes)]}
    monkeypatch.setattr(source, "train_list", [[entry[0], sums[entry[0]]] for entry in source.train_list])
    monkeypatch.setattr(source, "test_list", [[entry[0], sums[entry[0]]] for entry in source.test_list])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": write(source.meta["filename"], meta)})
    *train, test = batches.values()
    return source, train, test


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """(name, root, torchvision's class, training batches, test batch): a small CIFAR in the official layout."""
    return request.param, tmp_path, *write_cifar(request.param, tmp_path, 4, monkeypatch)


def imagenet_batches(size: int) -> dict[str, dict]:
    """Downsampled ImageNet in small, as published, by file name: 400 training images, 2 or more of each of the 127
    classes, and 60 test images."""
    random, classes = np.random.RandomState(size), class_map()[0]
    some = [np.flatnonzero(classes == c)[[0, -1]] for c in range(127)]
    train = random.permutation(np.concatenate([*some, random.randint(1, 1001, 146)]))
    labels = {f"train_data_batch_{i}": part for i, part in enumerate(np.split(train, 10), 1)}
    batches = {}
    for name, part in (labels | {"val_data": random.randint(1, 1001, 60)}).items():
        data = random.randint(0, 256, (len(part), 3 * size * size)).astype(np.uint8)
        mean = {"mean": data.mean(axis=0)} if name != "val_data" else {}
        batches[name] = {"data": data, "labels": part.tolist()} | mean
    return batches


def write_archives(folder: Path, size: int, dump=pickle.dumps) -> dict[str, dict]:
    """The unpacked archives of `imagenet_batches`; dump: content -> pickle."""
    folder.mkdir()
    batches = imagenet_batches(size)
    for name, batch in batches.items():
        (folder / name).write_bytes(dump(batch, protocol=4))
    return batches


@pytest.fixture(scope="session")
def small_imagenet127(tmp_path_factory) -> Path:
    """A prepared set of 32 pixels."""
    folder = tmp_path_factory.mktemp("small_imagenet127")
    write_archives(folder / "archives", 32)
    assert_runs("prepare_small_imagenet_127.py", "--source", folder / "archives", "--out", folder / "prepared")
    return folder / "prepared"


def write_food101(root: Path, classes: tuple[str, ...] = ("apple_pie", "ramen", "waffles"), train=40, test=6) -> Path:
    """Small JPEGs in the official layout: of several sizes, some of them grey or CMYK. Returns their folder."""
    random, folder = np.random.RandomState(0), root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for name in classes:
        (folder / "images" / name).mkdir(parents=True)
    for part, number in (("train", train), ("test", test)):
        lists = {}
        for c, name in enumerate(classes):
            ids = random.randint(10**5, 10**7, number).tolist()
            lists[name] = [f"{name}/{i}" for i in ids]
            for k, i in enumerate(ids):
                height, width = random.randint(40, 90, 2)
                pixels = np.kron(random.randint(0, 256, (6, 6, 3)), np.ones((15, 15, 1)))[:height, :width]
                pixels[..., c % 3] /= 4
                image = Image.fromarray(pixels.astype(np.uint8)).convert(("RGB", "L", "RGB", "CMYK")[k % 4])
                image.save(folder / "images" / name / f"{i}.jpg")
        (folder / "meta" / f"{part}.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture(scope="session")
def food101(tmp_path_factory) -> Path:
    """A data root that holds a small Food-101."""
    root = tmp_path_factory.mktemp("food101")
    write_food101(root)
    return root

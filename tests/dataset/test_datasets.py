"""Loaders: small files of the official formats, the real digits, and every way a file can be wrong."""

import gzip
import hashlib
import pickle
import struct
import tarfile
import threading
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets

from dataset import NAMES, load
from dataset.download import _LOCK, await_download, downloading
from dataset.fashion_mnist import FILES
from utils.errors import UserError


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches for the network."""

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def assert_user_error(words, name, root):
    with pytest.raises(UserError) as caught:
        load(name, root)
    message = str(caught.value)
    assert "\n" not in message
    assert all(str(word) in message for word in words), message


def assert_well_formed(data, num_train, num_test, size):
    for part, number in ((data.train, num_train), (data.test, num_test)):
        assert part.pixels.shape == (number, 3, size, size)
        assert part.pixels.dtype == np.uint8
        assert part.pixels.flags.c_contiguous
        assert part.labels.shape == (number,)
        assert part.labels.dtype == np.int64
        assert 0 <= part.labels.min() <= part.labels.max() < len(data.classes)
    assert len(data.mean) == len(data.std) == 3


# CIFAR ------------------------------------------------------------------------------------------------------


def pack(root: Path, source, monkeypatch) -> Path:
    """Turn the extracted folder into the archive that is downloaded."""
    archive, folder = root / source.filename, root / source.base_folder
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=source.base_folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def assert_same_images(part, batches):
    key = "labels" if "labels" in batches[0] else "fine_labels"
    rows = np.concatenate([batch["data"] for batch in batches])
    assert (part.pixels.reshape(len(rows), -1) == rows).all()
    assert part.labels.tolist() == [label for batch in batches for label in batch[key]]


def test_cifar_folder(cifar):
    name, root, _, train, test = cifar
    data = load(name, root)
    assert_well_formed(data, 4 * len(data.classes) * len(train), 4 * len(data.classes), 32)
    assert_same_images(data.train, train)
    assert_same_images(data.test, [test])
    assert data.classes == tuple(f"kind {c}" for c in range(int(name[5:])))
    assert (data.flip, data.pixel_scale) == (True, 1.0)


def test_cifar_archive_is_unpacked_without_a_network(cifar, monkeypatch):
    name, root, source, train, _ = cifar
    pack(root, source, monkeypatch)
    assert_same_images(load(name, root).train, train)
    assert (root / source.base_folder).is_dir()


def test_cifar_truncated_archive_is_named_and_kept(cifar, monkeypatch):
    name, root, source, _, _ = cifar
    archive = pack(root, source, monkeypatch)
    raw = archive.read_bytes()[:-100]
    archive.write_bytes(raw)
    assert_user_error([archive, "damaged or incomplete"], name, root)
    assert archive.read_bytes() == raw


@pytest.mark.parametrize("which", ["train", "test", "meta"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_cifar_bad_file_in_the_folder_is_named(cifar, which, how):
    name, root, source, _, _ = cifar
    (train, _), (test, _) = source.train_list[-1], source.test_list[0]
    file_name = dict(train=train, test=test, meta=source.meta["filename"])[which]
    path = root / source.base_folder / file_name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    assert_user_error([path, how, "delete"], name, root)


def test_cifar_with_other_checksums_is_not_unpickled(tmp_path):
    """A pickle can run anything; this one creates a file."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    created = tmp_path / "created"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (created,)

    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(Malicious()))
    assert_user_error([folder / "data_batch_1", "checksum"], "cifar10", tmp_path)
    assert not created.exists()


@pytest.mark.parametrize("number", [10, 100])
def test_cifar_without_network_says_what_to_put_where(tmp_path, number):
    root = tmp_path / "data"
    words = [f"--data_root {root}", "no network", f"cifar-{number}-python.tar.gz", "cs.toronto.edu"]
    assert_user_error(words, f"cifar{number}", root)
    assert not root.exists()


# Fashion-MNIST ----------------------------------------------------------------------------------------------


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def fashion(tmp_path):
    """(root, arrays by file name): 20 training and 10 test images as plain IDX files."""
    random = np.random.RandomState(0)
    arrays = {}
    for name in FILES:
        number = 20 if name.startswith("train") else 10
        images = random.randint(0, 256, (number, 28, 28)).astype(np.uint8)
        arrays[name] = images if "images" in name else np.arange(number, dtype=np.uint8) % 10
        (tmp_path / name).write_bytes(idx_bytes(arrays[name]))
    return tmp_path, arrays


def compress(root: Path, name: str) -> Path:
    path = root / f"{name}.gz"
    path.write_bytes(gzip.compress((root / name).read_bytes()))
    (root / name).unlink()
    return path


@pytest.mark.parametrize("layout", ["plain", "gzip", "mixed", "torchvision"])
def test_fashion_mnist_layouts(fashion, layout):
    root, arrays = fashion
    for name in {"gzip": FILES, "mixed": FILES[1:3], "torchvision": FILES}.get(layout, ()):
        compress(root, name)
    if layout == "torchvision":
        folder = root / "FashionMNIST" / "raw"
        folder.mkdir(parents=True)
        for name in FILES:
            (root / f"{name}.gz").rename(folder / f"{name}.gz")
    data = load("fashion_mnist", root)
    assert_well_formed(data, 20, 10, 32)
    for part, (images, labels) in ((data.train, FILES[:2]), (data.test, FILES[2:])):
        for channel in range(3):
            assert (part.pixels[:, channel, 2:30, 2:30] == arrays[images]).all()
        assert part.pixels.sum(dtype=int) == 3 * arrays[images].sum(dtype=int)  # so the border is 0
        assert part.labels.tolist() == arrays[labels].tolist()
    assert (data.classes[0], data.classes[9], data.flip) == ("T-shirt/top", "Ankle boot", True)
    data.train.labels[0] = data.train.pixels[0, 0, 0, 0] = 1  # writable, unlike the bytes they come from


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", ["kind", "truncated", "too long", "header only", "empty"])
def test_fashion_mnist_bad_idx_file_is_named(fashion, name, zipped, damage):
    root, arrays = fashion
    path = root / name
    raw = path.read_bytes()
    path.write_bytes(
        {
            "kind": raw[:2] + b"\x09" + raw[3:],
            "truncated": raw[:-1],
            "too long": raw + b"\0",
            "header only": raw[:6],
            "empty": idx_bytes(arrays[name][:0]),
        }[damage]
    )
    if zipped:
        path = compress(root, name)
    assert_user_error([f"{path}: ", "github.com"], "fashion_mnist", root)


def test_fashion_mnist_damaged_gzip_is_named(fashion):
    root, _ = fashion
    path = compress(root, FILES[0])
    raw = path.read_bytes()
    for damaged in (raw[:-100], raw[:500] + bytes(100) + raw[600:], b"<html>not found</html>"):
        path.write_bytes(damaged)
        assert_user_error([f"{path}: cannot be read"], "fashion_mnist", root)


def test_fashion_mnist_content_checks(fashion):
    root, arrays = fashion
    images, labels = FILES[:2]
    for name, values, words in (
        (images, arrays[images][:, :, :27], "28 x 27 pixels"),
        (images, arrays[images][:19], "20 labels for the 19 images"),
        (labels, arrays[labels] + 1, "label 10"),
        (labels, arrays[labels][:19], "19 labels for the 20 images"),
    ):
        (root / name).write_bytes(idx_bytes(values))
        assert_user_error([root / name, words], "fashion_mnist", root)
        (root / name).write_bytes(idx_bytes(arrays[name]))


def test_fashion_mnist_missing_files_are_listed(fashion):
    root, _ = fashion
    (root / FILES[1]).unlink()
    (root / FILES[2]).unlink()
    assert_user_error([f"{root}: ", f"lacks {FILES[1]}, {FILES[2]};"], "fashion_mnist", root)


def test_fashion_mnist_is_downloaded_into_an_empty_root(fashion, monkeypatch):
    served, arrays = fashion
    for name in FILES:
        compress(served, name)

    def copy(url, folder, name, md5):
        assert url.startswith("http")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((served / name).read_bytes())

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", copy)
    for _ in range(2):  # fetched, then found
        data = load("fashion_mnist", served / "new")
        assert data.test.labels.tolist() == arrays[FILES[3]].tolist()
        monkeypatch.setattr(torchvision.datasets.utils, "download_url", None)


def test_fashion_mnist_without_network_says_what_to_put_where(tmp_path):
    assert_user_error([f"--data_root {tmp_path}", "no network", *FILES, "there"], "fashion_mnist", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES[:3])
def test_failed_download_spares_the_users_own_empty_folders(tmp_path, name):
    own = tmp_path / "my" / "empty folder"
    own.mkdir(parents=True)
    assert_user_error(["could not be downloaded"], name, tmp_path)
    assert own.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["my"]


def test_interrupted_download_of_fashion_mnist_is_taken_up(tmp_path):
    """What torchvision's folder lacks is fetched; here that fails, and what is there stays."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / f"{FILES[0]}.gz").write_bytes(b"part")
    assert_user_error([f"--data_root {tmp_path}", "could not be downloaded"], "fashion_mnist", tmp_path)
    assert (raw / f"{FILES[0]}.gz").exists()


# Digits -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load("digits", Path("nowhere"))


def test_digits_parts(digits):
    assert_well_formed(digits, 1297, 500, 16)
    assert (np.bincount(digits.test.labels) == 50).all()
    assert np.bincount(digits.train.labels).min() == 124
    assert (digits.flip, digits.pixel_scale) == (False, 0.5)


def test_digits_pixels_are_the_source_repeated(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    seen = [0] * 10
    train, test = iter(digits.train.pixels), iter(digits.test.pixels)
    for image, label in zip(source.images, source.target, strict=True):
        seen[label] += 1
        is_test = seen[label] > (source.target == label).sum() - 50
        pixels = next(test if is_test else train)
        for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
            small = pixels[:, offset[0] :: 2, offset[1] :: 2]
            assert np.abs(small * (16 / 255) - image).max() < 0.5 * 16 / 255 + 1e-9


def test_digits_statistics(digits):
    scaled = digits.train.pixels / 255
    assert np.allclose(scaled.mean(axis=(0, 2, 3)), digits.mean, atol=1e-3)
    assert np.allclose(scaled.std(axis=(0, 2, 3)), digits.std, atol=1e-3)


# All --------------------------------------------------------------------------------------------------------


def test_unreadable_root(tmp_path, monkeypatch):
    def forbid(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", forbid)
    assert_user_error([f"--data_root {tmp_path}", "Permission denied"], "fashion_mnist", tmp_path)


@pytest.mark.parametrize("name", NAMES[:3])
def test_data_root_that_is_a_file(tmp_path, name):
    path = tmp_path / "file"
    path.touch()
    assert_user_error([f"--data_root {path}"], name, path)


def download_to(root):
    return downloading("it", "files", "home", root, root)


@pytest.mark.parametrize("waits", [download_to, lambda root: nullcontext(await_download(root))], ids=["loads", "reads"])
def test_runs_that_start_together_download_one_after_another(waits, tmp_path):
    root, events, inside, leaving = tmp_path / "data", [], threading.Event(), threading.Event()

    def second():
        inside.wait()
        with waits(root):
            events.append("second" if leaving.is_set() else "too early")

    other = threading.Thread(target=second, daemon=True)
    other.start()
    with download_to(root):
        inside.set()
        other.join(0.3)  # time to come in, were it let in
        events.append("first")
        leaving.set()
    other.join()
    assert events == ["first", "second"]
    assert not list(root.iterdir())


def test_a_killed_download_blocks_none_after_it(tmp_path):
    (tmp_path / _LOCK).touch()
    await_download(tmp_path)
    with download_to(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_data_root_that_cannot_be_written(tmp_path, monkeypatch):
    def forbid(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", forbid)
    with pytest.raises(UserError, match=r"could not be downloaded.*Permission denied"), download_to(tmp_path / "new"):
        pass
    assert not list(tmp_path.iterdir())

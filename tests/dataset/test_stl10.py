"""STL-10: its files in the official layout, shrunk; its unlabelled images; what is missing or damaged."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import imbalance, write_stl10
from helpers.scripts import FIX, MIX, TINY, assert_refused, assert_runs, handed_to_fit, run_here, summary
from PIL import Image
from torchvision.datasets import STL10
from torchvision.transforms import Resize

from dataset import load
from dataset.images import Dataset, Images
from dataset.long_tail import long_tailed
from dataset.stl10 import NUMBERS
from utils.errors import UserError

RUN = [*TINY, "--dataset", "stl10", "--num_max", 6, "--imb_ratio_l", 3, "--imb_ratio_u", 100, "--batch-size", 8]


def test_images_are_those_of_the_files_shrunk(tmp_path, monkeypatch):
    files = write_stl10(tmp_path, monkeypatch)
    data = load("stl10", tmp_path)
    pixels = np.concatenate([files["train_X.bin"], files["unlabeled_X.bin"]])
    for part, expected in ((data.train, pixels), (data.test, files["test_X.bin"])):
        assert (part.pixels.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert part.pixels.shape == (len(expected), 3, 32, 32) and part.pixels.flags.c_contiguous
        for got, stored in zip(part.pixels, expected, strict=True):
            small = Resize(32)(Image.fromarray(np.ascontiguousarray(stored.transpose(1, 2, 0))))
            assert np.array_equal(got.transpose(1, 2, 0), np.asarray(small))
    assert data.train.labels.tolist() == files["train_y.bin"].tolist() + [-1] * 90
    assert data.test.labels.tolist() == files["test_y.bin"].tolist()
    assert (data.classes[0], data.classes[9], len(data.classes)) == ("airplane", "truck", 10)


def test_the_files_are_read_as_torchvision_reads_them(tmp_path, monkeypatch):
    """Which checks what the helper writes, too."""
    files = write_stl10(tmp_path, monkeypatch)
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    assert np.array_equal(STL10(tmp_path, split="test").data, files["test_X.bin"])
    assert np.array_equal(STL10(tmp_path, split="train").labels, files["train_y.bin"])


COUNTS = {
    (150, 10): [150, 116, 89, 69, 53, 41, 32, 25, 19, 15],
    (150, 20): [150, 107, 77, 55, 39, 28, 20, 14, 10, 7],
}
TOTALS = {(150, 10): 609, (150, 20): 507, (150, 15): 546, (450, 10): 1835, (450, 20): 1528, (450, 15): 1642}


@pytest.mark.parametrize(("num_max", "gamma"), TOTALS)
def test_the_published_profiles(num_max, gamma):
    labels = np.concatenate([np.arange(NUMBERS["train"]) % 10, np.full(NUMBERS["unlabeled"], -1)])
    images = Images(np.zeros((len(labels), 1), dtype=np.uint8), labels)
    data = Dataset(images, images, (0.5,) * 3, (0.5,) * 3, tuple("abcdefghij"))
    flags = imbalance(num_max, 2.0, gamma, 100, seed=0)
    disjoint, included = (long_tailed(data, flags, kind) for kind in (False, True))
    assert disjoint.counts.tolist() == COUNTS.get((num_max, gamma), disjoint.counts.tolist())
    assert disjoint.counts.sum() == TOTALS[num_max, gamma]
    # Without a seed the first images of each class, in file order.
    slow = [i for c in range(10) for i in [i for i in range(5000) if i % 10 == c][: disjoint.counts[c]]]
    assert disjoint.labelled.tolist() == included.labelled.tolist() == slow
    assert disjoint.unlabelled.tolist() == list(range(5000, 105_000))
    assert included.unlabelled.tolist() == slow + list(range(5000, 105_000))


@pytest.mark.parametrize(("script", "again"), [(FIX, True), (MIX, False), ("train_cifar_fix_acr.py", False)])
def test_what_a_recipe_trains_on(script, again, tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    data = handed_to_fit(script, *RUN, "--data_root", tmp_path, "--out", tmp_path / "out").data
    facts = data.facts()
    assert facts["labelled_counts"] == [6, 5, 4, 4, 3, 3, 2, 2, 2, 2]
    assert (facts["unlabelled_counts"], facts["unlabelled"]) == (None, 90 + 33 * again)
    assert facts["labelled_again"] == 33 * again
    assert len(data.tested.members) == 30 and not data.unlabelled.known


def test_a_run(tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    short = ["--epoch", 1, "--val-iteration", 1, "--unlabelled", "disjoint"]
    result = assert_runs(FIX, *RUN, *short, "--data_root", tmp_path, "--out", tmp_path / "out")
    assert result.stderr == "" and "90 unlabelled" in result.stdout
    found = summary(tmp_path / "out")
    assert (found["unlabelled"], found["unlabelled_counts"], found["labelled_again"]) == (90, None, 0)
    assert found["arguments"]["unlabelled"] == "disjoint"


def test_an_order_of_unknown_classes_is_refused(tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    flags = ["--data_root", tmp_path, "--out", tmp_path / "out", "--order", "reversed"]
    assert_refused(run_here(FIX, *RUN, *flags), "--order", "leave it out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train_X.bin", "train_y.bin", "unlabeled_X.bin", "test_X.bin", "test_y.bin"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_bad_file_is_named(name, how, tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    path = tmp_path / "stl10_binary" / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        load("stl10", tmp_path)
    assert all(word in str(caught.value) for word in (str(path), how, "delete", "acoates/stl10"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [0, 11])
def test_labels_of_no_class_are_refused(label, tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    path = tmp_path / "stl10_binary" / "test_y.bin"
    path.write_bytes(path.read_bytes()[:-1] + bytes([label]))
    with pytest.raises(UserError, match=r"test_y\.bin: damaged \(holds other labels than 1 to 10\)"):
        load("stl10", tmp_path)


def packed(root: Path, monkeypatch) -> Path:
    """The archive in place of the folder; torchvision's checksums are set to those of these files."""
    folder, archive = root / "stl10_binary", root / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=folder.name)
    for lists in ("train_list", "test_list"):
        sums = [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name, _ in getattr(STL10, lists)]
        monkeypatch.setattr(STL10, lists, sums)
    monkeypatch.setattr(STL10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return archive


def test_the_archive_is_unpacked(tmp_path, monkeypatch):
    files = write_stl10(tmp_path, monkeypatch)
    packed(tmp_path, monkeypatch)
    assert load("stl10", tmp_path).test.labels.tolist() == files["test_y.bin"].tolist()


def test_a_damaged_archive_is_named_and_kept(tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    archive = packed(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    flags = ["--data_root", tmp_path, "--out", tmp_path / "out"]
    assert_refused(run_here(FIX, *RUN, *flags), str(archive), "damaged or incomplete")
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name]


def test_without_a_network_the_line_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    flags = ["--data_root", tmp_path / "data", "--out", tmp_path / "out"]
    words = [f"--data_root {tmp_path / 'data'}", "no network", "stl10_binary.tar.gz", "acoates/stl10"]
    assert_refused(run_here(FIX, *RUN, *flags), *words)
    assert not list(tmp_path.iterdir())

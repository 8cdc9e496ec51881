"""Small-ImageNet-127: class map, labelled share, archives in the official formats, mapped pixels, bad input."""

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_files import write_archives
from helpers.golden import golden
from helpers.scripts import HANG, ROOT, assert_refused, assert_runs, environment, run_here, run_script

from dataset.images import Dataset, Images
from dataset.shares import labelled_share
from dataset.small_imagenet127 import class_map, load_small_imagenet
from dataset.streams import Sampling, streams
from methods.averaged import Averaged
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.fixmatch import VIEWS, fixmatch
from methods.step import CO_LEARNING, cossl_step, ssl_step
from methods.warmup import warm_up_on_batches
from models.resnet import ResNet50
from utils.errors import UserError

PREPARE, FIX = "prepare_small_imagenet_127.py", "train_small_imagenet127_fix.py"
COSSL = FIX.replace(".py", "_cossl.py")
SHORT = ["--epoch", 1, "--val-iteration", 2]


def test_class_map():
    """The published table of 1000 rows, pinned by its checksum."""
    classes, names = class_map()
    assert hashlib.sha256(classes.astype("<i8").tobytes()).hexdigest() == (
        "873f9d2acf3f8b629af63a5d7c1f98359597a8df70796aa337ef741e8fff14a5"
    )
    sizes = np.bincount(classes[1:], minlength=127)
    assert (classes[0], sizes.sum(), sizes.argmax(), sizes.max()) == (-1, 1000, 86, 218)
    assert len(set(names)) == 127


def toy_set(labels: np.ndarray, classes: int) -> Dataset:
    images = Images(np.zeros((len(labels), 1), dtype=np.uint8), labels)
    return Dataset(images, images, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(classes))))


@pytest.mark.parametrize("case", [c for c in golden("splits.json") if "small_imagenet127" in c["protocol"]], ids=str)
def test_labelled_share_matches_the_published_indices(case):
    labels = np.random.RandomState(6).permutation(np.repeat(np.arange(101), 750))
    split, expected = labelled_share(toy_set(labels, 101), 0.1, case["seed"], True), case["labeled"]
    assert len(split.labelled) == expected["n"]
    assert hashlib.sha256(split.labelled.astype("<i8").tobytes()).hexdigest() == expected["sha256_int64_le"]
    assert split.unlabelled.tolist() == list(range(len(labels)))
    assert split.unlabelled_counts.tolist() == [750] * 101


def test_labelled_share_is_rounded_half_to_even():
    sizes = [15, 25, 35, 34, 6]
    data = toy_set(np.repeat(np.arange(5), sizes), 5)
    assert labelled_share(data, 0.1, 1, True).counts.tolist() == [2, 2, 4, 3, 1]
    assert labelled_share(data, 1.0, 1, True).counts.tolist() == sizes
    with pytest.raises(UserError, match=r"--labeled_percent 0.05: class 4 \(4\) has 6 images, so none"):
        labelled_share(data, 0.05, 1, True)


class _Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings."""

    dispatch = pickle._Pickler.dispatch.copy()

    def _string(self, text: str | bytes) -> None:
        raw = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = _string


def python2(content: dict, protocol: int) -> bytes:
    """The pickle that Python 2 and the NumPy of its time wrote: protocol 2."""
    file = io.BytesIO()
    _Python2(file, 2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def protocol2(content: dict, protocol: int) -> bytes:
    return pickle.dumps(content, protocol=2)


@pytest.mark.parametrize(("size", "dump"), [(32, python2), (32, protocol2), (64, pickle.dumps)])
def test_archives_become_arrays(size, dump, tmp_path):
    batches = write_archives(tmp_path / "archives", size, dump)
    result = assert_runs(PREPARE, "--source", tmp_path / "archives", "--out", tmp_path / "new" / "prepared")
    data = load_small_imagenet(tmp_path / "new" / "prepared", size)
    classes, names = class_map()
    *train, test = batches.values()
    counts = []
    for images, parts in ((data.train, train), (data.test, [test])):
        pixels, labels = (np.concatenate([part[key] for part in parts]) for key in ("data", "labels"))
        assert isinstance(images.pixels, np.memmap)
        assert np.array_equal(images.pixels, pixels.reshape(-1, 3, size, size))
        assert images.labels.tolist() == classes[labels].tolist()
        counts.append(np.bincount(images.labels, minlength=127))
    assert data.classes == names
    assert sorted(path.name for path in (tmp_path / "new" / "prepared").iterdir()) == [
        f"{part}_{size}_{kind}.npy" for part in ("train", "val") for kind in ("images", "labels")
    ]
    shown = [" ".join(line.strip("# ").split()) for line in result.stdout.splitlines()]
    assert {f"{c} {names[c]} {counts[0][c]} {counts[1][c]}" for c in range(127)} < set(shown)
    assert "127 classes, 400 training and 60 test images" in shown
    assert "400 train images, the full set has 1281167" in result.stderr
    assert "60 val images, the full set has 50000" in result.stderr


def test_a_full_set_is_no_warning(tmp_path, monkeypatch):
    write_archives(tmp_path / "archives", 32)
    monkeypatch.setattr("prepare_small_imagenet_127.OFFICIAL", {"train": 400, "val": 60})
    assert "warning" not in assert_runs(PREPARE, "--source", tmp_path / "archives", "--out", tmp_path / "out").stderr


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def changed(file: str, **entries):
    """A change of the archives in a folder: a file's entries replaced."""

    def change(folder: Path) -> None:
        batch = pickle.loads((folder / file).read_bytes())
        (folder / file).write_bytes(pickle.dumps(batch | entries, protocol=4))

    return change


def written(file: str, content: bytes):
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-100])


def attacked(file: str):
    def change(folder: Path) -> None:
        changed(file, mean=Attack(folder / "marker"))(folder)

    return change


THIRD = "train_data_batch_3"
# What is done to the archives, and words of the error.
BAD_ARCHIVES = {
    "missing": (lambda folder: (folder / THIRD).unlink(), ["--source", f"lacks {THIRD};"]),
    "no folder": (lambda folder: folder.rename(folder.parent / "other"), ["--source", "lacks train_data_batch_1, "]),
    "size": (changed("val_data", data=np.zeros((60, 3 * 16 * 16), np.uint8)), ["val_data", "(60, 768)", "3072"]),
    "not square": (changed(THIRD, data=np.zeros((40, 3073), np.uint8)), [THIRD, "(40, 3073)"]),
    "two sizes": (changed(THIRD, data=np.zeros((40, 12288), np.uint8)), [THIRD, "64 pixels, val_data has 32"]),
    "floats": (changed(THIRD, data=np.zeros((40, 3072))), [THIRD, "float64"]),
    "label 0": (changed(THIRD, labels=[0] * 40), [THIRD, "labels from 0 to 0, not from 1 to 1000"]),
    "label 1001": (changed("val_data", labels=[1] * 59 + [1001]), ["val_data", "from 1 to 1001"]),
    "few labels": (changed(THIRD, labels=[1] * 39), [THIRD, "39 labels for 40 images"]),
    "words": (changed(THIRD, labels=["cat"] * 40), [THIRD, "40 labels for 40 images"]),
    "no images": (changed(THIRD, data=np.zeros((0, 3072), np.uint8), labels=[]), [THIRD, "0 labels for 0 images"]),
    "no data": (written(THIRD, pickle.dumps({"labels": [1]})), [THIRD, "KeyError: 'data'"]),
    "list": (written(THIRD, pickle.dumps([1, 2])), [THIRD, "not a batch"]),
    "text": (written(THIRD, b"not a pickle"), [THIRD, "not a batch"]),
    "empty": (written(THIRD, b""), [THIRD, "not a batch"]),
    "codec": (written(THIRD, b"c_codecs\nencode\n(Vx\nVnone\ntR."), [THIRD, "not a batch", "unknown encoding: none"]),
    "truncated": (cut(THIRD), [THIRD, "not a batch"]),
    "attack": (attacked(THIRD), [THIRD, "asks for posix.system"]),
    "attack first": (attacked("val_data"), ["val_data", "asks for posix.system"]),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archives(kind, tmp_path):
    change, words = BAD_ARCHIVES[kind]
    source, out = tmp_path / "archives", tmp_path / "out"
    write_archives(source, 32)
    change(source)
    assert_refused(run_here(PREPARE, "--source", source, "--out", out), str(source), *words)
    assert not list(out.glob("train*"))
    assert not list(tmp_path.rglob("marker"))


def test_the_attack_works_where_it_is_let_in(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_prepare_says_where_it_cannot_write(name, tmp_path):
    write_archives(tmp_path / "archives", 32)
    (tmp_path / "file").write_text("mine")
    result = run_here(PREPARE, "--source", tmp_path / "archives", "--out", tmp_path / name)
    assert_refused(result, f"--out {tmp_path / name}", "not a folder that can be written to")
    assert (tmp_path / "file").read_text() == "mine"


def rewritten(name: str, array: np.ndarray):
    return lambda folder: np.save(folder / name, array)


# What is done to the prepared set of 32 pixels, and words of the error.
BAD_SETS = {
    "not prepared": (lambda folder: folder.rename(folder.parent / "other"), ["no such file", PREPARE]),
    "one missing": (lambda folder: (folder / "val_32_labels.npy").unlink(), ["val_32_labels.npy: no such file"]),
    "images cut": (cut("train_32_images.npy"), ["train files damaged", PREPARE]),
    "labels cut": (cut("val_32_labels.npy"), ["val files damaged"]),
    "empty": (written("train_32_labels.npy", b""), ["train files damaged"]),
    "pickle": (written("val_32_labels.npy", pickle.dumps([1])), ["val files damaged"]),
    "text": (written("train_32_images.npy", b"not an array"), ["train files damaged"]),
    "archive": (written("train_32_images.npy", b"PK\3\4 and so on"), ["train files damaged"]),
    "shape": (rewritten("val_32_images.npy", np.zeros((60, 3, 16, 16), np.uint8)), ["not uint8 images of 32 pixels"]),
    "floats": (rewritten("val_32_images.npy", np.zeros((60, 3, 32, 32))), ["not uint8 images"]),
    "number": (rewritten("val_32_labels.npy", np.zeros(59, np.int64)), ["with a label each"]),
    "label 127": (rewritten("train_32_labels.npy", np.full(400, 127)), ["train_32_labels.npy", "from 0 to 126"]),
    "objects": (rewritten("val_32_labels.npy", np.full(60, None)), ["val files damaged"]),
}


@pytest.mark.parametrize("kind", BAD_SETS)
def test_bad_prepared_files(kind, small_imagenet127, tmp_path):
    change, words = BAD_SETS[kind]
    data = tmp_path / "data"
    shutil.copytree(small_imagenet127, data)
    change(data)
    result = run_here(FIX, *SHORT, "--gpu", "cpu", "--data_root", data, "--out", tmp_path / "out")
    assert_refused(result, str(data), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--img_size 64", ["train_64_images.npy: no such file", PREPARE]),
        ("--img_size 48", ["--img_size", "32", "64"]),
        ("--labeled_percent 0", ["--labeled_percent", "above 0"]),
        ("--labeled_percent 1.5", ["--labeled_percent", "up to 1"]),
        ("--labeled_percent 0.1", ["--labeled_percent 0.1", "none is labelled", "raise"]),
        ("--mu 0", ["--mu", "above 0"]),
        ("--batch-size 300", ["--batch-size 300", "labelled set has only", "lower"]),
        ("--batch-size 16 --mu 26", ["unlabelled set has only 400", "lower"]),
        ("--num_max 100", ["--num_max 100"]),
    ],
)
def test_wrong_flags(flags, words, tiny, tmp_path):
    result = run_here(FIX, *tiny(FIX), *SHORT, "--out", tmp_path / "out", *flags.split())
    assert_refused(result, *words)
    assert "num_max or" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_both_stages_from_the_shell(tmp_path):
    """64 pixels. The test set is imbalanced, so that top-1 and balanced accuracy differ; both are reported."""
    source, data, start = tmp_path / "archives", tmp_path / "data", tmp_path / "fix" / "checkpoint_1.pth.tar"
    write_archives(source, 64)
    flags = f"--img_size 64 --labeled_percent 0.6 --gpu cpu --width 1 --batch-size 4 --mu 2 --data_root {data}".split()
    for script, more in (
        (PREPARE, ["--source", source, "--out", data]),
        (FIX, [*flags, *SHORT, "--out", tmp_path / "fix"]),
        (COSSL, [*flags, *SHORT, "--warm_tfe", 2, "--resume", start, "--out", tmp_path / "cossl"]),
    ):
        result = run_script(script, *more)
        assert result.returncode == 0, result.stderr
    for name, method in (("fix", "FixMatch"), ("cossl", "FixMatch+CoSSL")):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert (summary["method"], len(summary["classes"])) == (method, 127)
        assert summary["unlabelled_counts"] == np.bincount(np.load(data / "train_64_labels.npy")).tolist()
        header, line = (tmp_path / name / "log.txt").read_text().splitlines()
        logged = dict(zip(header.split("\t"), map(float, line.split("\t")), strict=True))
        recall = [value for value in summary["best"]["recall"] if value is not None]
        assert len(recall) == len(set(np.load(data / "val_64_labels.npy")))
        assert logged["balanced"] == pytest.approx(np.mean(recall), rel=1e-4)
        assert {"top1", "balanced"} <= logged.keys()


def open_streams(data: Dataset, device: str = "cpu", batch_size: int = 8):
    split = labelled_share(data, 0.6, 1, True)
    sampling = Sampling(batch_size, 1, mu=2, learner_view="weak")
    return streams(data, split, VIEWS, sampling, torch.device(device))


def in_memory(data: Dataset) -> Dataset:
    return data._replace(train=data.train._replace(pixels=np.array(data.train.pixels)))


def test_mapped_pixels_make_the_same_batches(small_imagenet127):
    """They travel with the numbers of a step: those images alone that it needs."""
    mapped = load_small_imagenet(small_imagenet127, 32)
    a, b = open_streams(mapped), open_streams(in_memory(mapped))
    assert a.labelled.images.pixels is None and b.labelled.images.mapped is None
    for names in (CO_LEARNING, *((name,) for name in CO_LEARNING)):
        on_disk, in_ram = (data.batches(names) for data in (a, b))
        sizes = [getattr(a, name).batch_size for name in names]
        assert on_disk.packed.layout["pixels"] == (np.uint8, (sum(sizes), 3, 32, 32))
        assert "pixels" not in in_ram.packed.layout
        for t in (0, 30):
            assert len(on_disk.draw(t)) == len(in_ram.draw(t)) + sum(sizes) * 3 * 32 * 32 // 4
            for name in names:
                one, other = (getattr(batches.at(t), name) for batches in (on_disk, in_ram))
                assert one.labels.tolist() == other.labels.tolist()
                assert len(one.views) == len(other.views) > 0
                assert all(map(torch.equal, one.views, other.views))


def test_mapped_pixels_make_the_same_sweeps(small_imagenet127):
    mapped = load_small_imagenet(small_imagenet127, 32)
    sweeps = [open_streams(data).unlabelled.sweep(batch_size=150) for data in (mapped, in_memory(mapped))]
    for one, other in zip(*sweeps, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        assert all(map(torch.equal, one.views, other.views))


def test_a_renamed_stream_differs_in_its_draws_alone(small_imagenet127):
    data = open_streams(load_small_imagenet(small_imagenet127, 32))
    for stream in (data.balanced, data.partners):
        renamed = stream.renamed("another name")
        assert vars(renamed).keys() == vars(stream).keys()
        assert {key for key in vars(stream) if vars(stream)[key] is not vars(renamed)[key]} == {"name", "_order"}
        draw, restored = stream.images.draw, renamed.renamed(stream.name)
        assert not np.array_equal(draw(stream, 0)[1], draw(renamed, 0)[1])
        assert all(map(np.array_equal, draw(stream, 3), draw(restored, 3)))


def teacher(features: int, classes: int, device: str = "cpu", lr: float = 0.1) -> Averaged:
    head = torch.nn.Linear(features, classes, device=device)
    return Averaged(head, torch.optim.Adam(decay_all_but_bias(head, 5e-4), lr), 0.9)


@pytest.mark.parametrize("learner", [tfe(torch.tensor([48, 6]), 0.6), crt()], ids=["tfe", "crt"])
def test_warm_up_on_batches_learns(learner):
    """Dark and bright images, the bright ones rare: the head tells them apart, and its average follows."""
    labels = np.repeat([0, 1], [80, 10])
    pixels = (60 + 120 * labels).astype(np.uint8)[:, None, None, None].repeat(3, axis=1) + np.zeros((32, 32), np.uint8)
    images = Images(pixels, labels)
    data = open_streams(Dataset(images, images, (0.5,) * 3, (0.25,) * 3, ("dark", "bright")))
    head, grads, steps = teacher(3, 2), [], []

    def encoder(x):
        grads.append(torch.is_grad_enabled())
        return x[:, :, 8:-8, 8:-8].mean(dim=(2, 3))

    start = head.live.weight.detach().clone()
    batches = data.batches(("balanced", "partners"), learner.draw, name="warm-up")
    original = batches.at
    batches.at = lambda t: steps.append(t) or original(t)
    warm_up_on_batches(encoder, head, learner, batches, 30)
    assert grads == [False] * 30
    assert steps == list(range(30))
    features = torch.tensor([[60.0] * 3, [180.0] * 3]) / 255 * 4 - 2
    assert head.ema(features).argmax(dim=1).tolist() == [0, 1]
    moved, followed = (head.live.weight - start).norm(), (head.ema.weight - start).norm()
    assert 0.3 * moved < followed < moved


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "in memory"])
def test_no_step_waits_for_the_device(mapped, small_imagenet127):
    """As in test_device.py: on `meta`, a read by the host or a tensor left on the CPU raises."""
    data = load_small_imagenet(small_imagenet127, 32)
    data = open_streams(data if mapped else in_memory(data), "meta")
    network = ResNet50(127, width=4).to("meta")
    student = Averaged(network, torch.optim.Adam(network.parameters(), 0.002), 0.999, shrink=1e-5)
    head, method = teacher(network.output.in_features, 127, "meta"), fixmatch(tau=0.95)
    learner = tfe(torch.tensor(data.counts, device="meta"), 0.6)
    warm_up = data.batches(("balanced", "partners"), learner.draw, name="warm-up")
    warm_up_on_batches(student.ema.features, head, learner, warm_up, 1)
    features = student.ema.features
    labeller, balanced = (lambda images: head.live(features(images))), (lambda images: head.ema(features(images)))
    for step, predict in (
        (ssl_step(method, student, student.live), student.ema),
        (cossl_step(method, student, labeller, learner, head, features), balanced),
    ):
        logs = step(data.batches(step.streams, *step.draws).at(0))
        assert logs and all(value.is_meta and (value.shape == () or name == "pseudo") for name, value in logs.items())
        assert predict(next(data.test())[0]).is_meta


PEAK = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def generate(folder: Path, number: int) -> Path:
    """A prepared set of 64 pixels, black, its training pixels without room on the disk."""
    folder.mkdir()
    for part, n in (("train", number), ("val", 100)):
        np.lib.format.open_memmap(folder / f"{part}_64_images.npy", "w+", np.uint8, (n, 3, 64, 64))
        np.save(folder / f"{part}_64_labels.npy", np.arange(n) % 127)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of the peak")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Peak resident memory of whole runs: it differs by up to 50 MB from run to run. The larger set's pixels would take
    590 MB more than the smaller one's."""
    peaks = []
    for number in (2_000, 50_000):
        data, out = generate(tmp_path / str(number), number), tmp_path / f"out-{number}"
        flags = f"--img_size 64 --gpu cpu --width 1 --batch-size 4 --data_root {data} --out {out}".split()
        run = [sys.executable, "-c", PEAK, FIX, *flags, *map(str, SHORT)]
        result = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=HANG, env=environment())
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout.split()[-2]) / 1024)  # MB
    assert peaks[1] < peaks[0] + 100, peaks

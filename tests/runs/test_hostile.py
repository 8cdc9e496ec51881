"""Files made to do harm: they run no code and don't hang. Each is refused in one line.

What a script's own tests have of this: class names in the report (test_report.py), pickles of ImageNet that run code
(test_small_imagenet127.py).
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import FIX, SHORT, TINY, assert_refused, assert_runs, load_checkpoint, run_here
from PIL import Image

from dataset.crops import read_rgb
from dataset.image_files import DAMAGED, image_files, read_image
from prepare_small_imagenet_127 import read_batch
from training.checkpoint import LATEST
from utils.errors import UserError


@pytest.fixture(autouse=True)
def nothing_runs():
    """Running code leaves a mark."""
    yield
    assert "COSSL_HOSTILE" not in os.environ


class Runs:
    """Unpickled naively, it runs code, which leaves a mark."""

    def __init__(self, how=exec, *arguments: object) -> None:
        self.how, self.arguments = how, arguments or ("import os; os.environ['COSSL_HOSTILE'] = 'ran'",)

    def __reduce__(self):
        return self.how, self.arguments


def archive(content: bytes, path: Path, **others: bytes) -> None:
    """A file like torch.save's, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        for name, value in {"version": b"3\n", "byteorder": b"little"}.items():
            file.writestr(f"archive/{name}", value)
        for name, value in others.items():
            file.writestr(name, value)


def before_1_6(content: object):
    """A file like those of PyTorch before 1.6."""

    def write(path: Path, state: dict) -> None:
        with path.open("wb") as file:
            for value in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}):
                pickle.dump(value, file, 2)
            pickle.dump(content, file, 2)
            pickle.dump(["0"], file, 2)
            file.write(struct.pack("<Q", 4) + bytes(16))

    return write


def nested(depth: int, opening: bytes) -> bytes:
    return b"\x80\x02" + opening * depth + b"a" * (depth - 1) + b"."


def laughs() -> list:
    value = ["ha"]
    for _ in range(40):
        value = [value] * 10
    return value


def saved(change):
    """A file that torch itself has saved, of what `change` makes of a good checkpoint."""
    return lambda path, state: torch.save(change(state), path)


def inside(content: bytes, **others: bytes):
    return lambda path, state: archive(content, path, **others)


def cyclic(state: dict) -> dict:
    state["history"]["train"] = state["history"]
    return state


def swollen(state: dict) -> dict:
    """The width of the network is read off this tensor: ten thousand times what it is."""
    state["ema_state_dict"]["unit4.0.weight"] = torch.zeros(64 * 10**4)
    return state


def weights(value):
    return lambda state: state | {"ema_state_dict": state["ema_state_dict"] | {"unit4.0.weight": value}}


CHECKPOINTS = {
    "plain pickle that runs code": lambda path, state: path.write_bytes(pickle.dumps(Runs())),
    "archive that runs code": inside(pickle.dumps(Runs(), 2)),
    "archive that starts a program": inside(pickle.dumps(Runs(os.system, "touch /tmp/cossl-hostile"), 2)),
    "archive that evaluates": inside(pickle.dumps({"epoch": Runs(eval, "1 + 1")}, 2)),
    "archive that imports": inside(b"\x80\x02cantigravity\nfly\n."),
    "archive that builds what it mustn't": inside(b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR."),
    "of old, and runs code": before_1_6(Runs()),
    "of old, and runs code in an entry": before_1_6({"epoch": Runs(eval, "1 + 1")}),
    "text as pickle": inside(b"cos\nsystem\n(S'true'\ntR."),
    "absurd length of a string": inside(b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"."),
    "absurd number": inside(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    "storage that isn't there": inside(b"\x80\x02(X\x07\x00\x00\x00storageX\x01\x00\x00\x000tQ."),
    "empty stack": inside(b"\x80\x02..."),
    "deeply nested": inside(nested(10**5, b"]")),
    "lists that hold each other over and over": saved(lambda state: state | {"history": laughs()}),
    "lists that hold themselves": saved(cyclic),
    "facts that hold each other over and over": saved(lambda state: state | {"facts": {"classes": laughs()}}),
    "members outside": inside(pickle.dumps({}, 2), **{"../../outside": b"x", "/tmp/cossl-outside": b"x"}),
    "absurd width": saved(swollen),
    "sparse tensor": saved(weights(torch.zeros(4, 4).to_sparse())),
    "tensor of no device": saved(weights(torch.zeros(4, device="meta"))),
    "no tensors at all": saved(lambda state: state | {"ema_state_dict": {"unit4.0.weight": "x" * 64}}),
    "class names that are none": saved(lambda state: state | {"facts": state["facts"] | {"classes": [["a"]] * 10}}),
    "arguments that are none": saved(lambda state: state | {"arguments": {"lr": {"a": 1}}}),
    "versions that hold each other over and over": saved(lambda state: state | {"versions": laughs()}),
    "versions that are tensors": saved(lambda state: state | {"versions": {"torch": torch.zeros(1)}}),
    "fewer classes than the network": saved(lambda state: state | {"facts": {"labelled_counts": [1, 2, 3]}}),
}


def files_below(folder: Path) -> list[Path]:
    """Without the locks, which a folder gets before what is in it is read."""
    return sorted(path for path in folder.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_hostile_checkpoint(kind, pretrained, tmp_path):
    """By whichever door it comes: prediction, training that goes on, co-learning, evaluation, report."""
    folder = tmp_path / "run"
    folder.mkdir()
    CHECKPOINTS[kind](folder / LATEST, load_checkpoint(pretrained / LATEST))
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    before = files_below(tmp_path)
    flags = ["--gpu", "cpu", "--out", tmp_path / "out.csv"]
    assert_refused(run_here("predict.py", "--checkpoint", folder / LATEST, tmp_path / "image.png", *flags), str(folder))
    assert_refused(run_here(FIX, *TINY, "--epoch", 2, "--val-iteration", 6, "--out", folder), str(folder / LATEST))
    flags = [*TINY, *SHORT, "--resume", folder / LATEST, "--out", tmp_path / "out"]
    assert_refused(run_here("train_cifar_fix_cossl.py", *flags), str(folder / LATEST))
    assert_refused(
        run_here("eval_shifted_test_distribution.py", folder, "--gpu", "cpu", "--out", tmp_path / "o"), "RUN"
    )
    assert_refused(run_here("report.py", folder, "--out", tmp_path / "o"), "no run is whole")
    assert files_below(tmp_path) == before
    assert not any(Path("/tmp", name).exists() for name in ("cossl-outside", "cossl-hostile"))


@pytest.mark.parametrize("absurd", [{"img_size": 10**6}, {"resize": 10**9}], ids=str)
def test_absurd_sizes_of_images_are_one_line(absurd, pretrained, tmp_path):
    state = load_checkpoint(pretrained / LATEST)
    torch.save(state | {"facts": state["facts"] | absurd}, tmp_path / LATEST)
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    flags = ["--gpu", "cpu", "--out", tmp_path / "out.csv"]
    assert_refused(run_here("predict.py", "--checkpoint", tmp_path / LATEST, tmp_path / "image.png", *flags), "image")
    assert not (tmp_path / "out.csv").exists()


def png(width: int, height: int, chunks: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    """A small one that says it is larger."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    raw = bytearray(file.getvalue())
    place = raw.index(b"\xff\xc0") + 5
    raw[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(raw)


IMAGES = {
    "jpg of absurd size": ("a.jpg", jpeg(65500, 65500)),
    "png of absurd size": ("a.png", png(2**31 - 1, 2**31 - 1)),
    "png of a large size without content": ("a.png", png(10000, 10000)),
    "bmp of negative size": ("a.bmp", b"BM" + struct.pack("<IIIIiiHH24x", 0, 0, 54, 40, -(2**31), 1, 1, 24)),
    "ppm of absurd size": ("a.ppm", b"P6 99999999 99999999 255\n"),
    "tiff with absurd tags": ("a.tif", b"II*\0\x08\0\0\0\xff\xff" + b"\0\1\3\0\xff\xff\xff\x7f\0\0\0\0" * 20),
    "webp without content": ("a.webp", b"RIFF\xff\xff\xff\x7fWEBPVP8 "),
    "program": ("a.jpg", b"#!/bin/sh\ntouch /tmp/cossl-hostile\n"),
    "postscript": ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n"),
    "half a jpg": ("a.jpg", jpeg(8, 8)[:300]),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_hostile_image(kind, tmp_path):
    name, raw = IMAGES[kind]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DAMAGED):
        read_image(tmp_path / name, 32)


def test_postscript_starts_no_program(pretrained, tmp_path, monkeypatch):
    """Named like an image, it would be given to Ghostscript, which here leaves a mark."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # not looked for yet
    image = tmp_path / "a.jpg"
    image.write_bytes(IMAGES["postscript"][1] + b"%%EndComments\nshowpage\n%%EOF\n")
    flags = ["--checkpoint", pretrained / LATEST, "--gpu", "cpu", "--out", tmp_path / "out.csv"]
    assert_refused(run_here("predict.py", *flags, image), str(image), "not a readable image")
    for read in (lambda path: read_image(path, 32), read_rgb):
        with pytest.raises(DAMAGED):
            read(image)
    assert not (tmp_path / "ran").exists()


def test_pipes_and_circles_of_links_among_the_images(tmp_path):
    """A pipe is no image, and isn't waited for; links that lead back end, others are followed."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    for i in range(5):
        (tmp_path / "a" / "b" / f"back{i}").symlink_to(tmp_path / "a")
        (tmp_path / "a" / f"up{i}").symlink_to(tmp_path)
    assert image_files(tmp_path) == [tmp_path / "a" / "1.png"]
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "b" / "3.png")
    (tmp_path / "other").symlink_to(tmp_path / "a" / "b")
    assert {path.name for path in image_files(tmp_path)} == {"1.png", "3.png"}
    os.mkfifo(tmp_path / "a" / "2.png")
    with pytest.raises(DAMAGED):
        read_image(tmp_path / "a" / "2.png", 32)


PICKLES = {
    "runs code": pickle.dumps(Runs()),
    "runs code within": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [Runs()]}),
    "objects": pickle.dumps({"data": np.array([[Runs()] * 3072], dtype=object), "labels": [1]}),
    "absurd length": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_hostile_pickle(kind, tmp_path):
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(PICKLES[kind])
    with pytest.raises(UserError, match="not a batch of downsampled ImageNet"):
        read_batch(path)


def test_archive_with_members_outside_is_not_unpacked(tmp_path):
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "cifar-10-python.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    flags = [*TINY, *SHORT, "--dataset", "cifar10", "--data_root", tmp_path / "data", "--out", tmp_path / "out"]
    assert_refused(run_here(FIX, *flags), "cifar-10-python.tar.gz", "checksum differs")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


NAMES = ['a,b;"c"', "line\nbreak", "<script>alert(1)</script>", "=1+1", "'; drop --", "ü🙂"]


def test_class_names_with_commas_quotes_newlines_and_html(pretrained, tmp_path):
    """Predictions stay a table with a row per image, whose cells are the names."""
    import csv

    state = load_checkpoint(pretrained / LATEST)
    state["facts"]["classes"] = [NAMES[c % len(NAMES)] + str(c) for c in range(10)]
    torch.save(state, tmp_path / LATEST)
    random = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(random.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / f"{i}\n,.png")
    assert_runs("predict.py", "--checkpoint", tmp_path / LATEST, tmp_path, "--gpu", "cpu", "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert all(row[key] in state["facts"]["classes"] for row in rows for key in ("class", "class_2", "class_3"))
    assert json.dumps(rows)

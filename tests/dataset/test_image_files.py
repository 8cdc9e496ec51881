"""Pixels of every kind, and what lies among images."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.own_images import image_folder, without_permission, write_image
from PIL import Image

import dataset.image_files
from dataset.crops import read_rgb
from dataset.folder import load_folder
from dataset.image_files import DAMAGED, image_files, read_batches, read_image, read_images
from utils.errors import UserError

RAMP = np.arange(65536).reshape(256, 256)
LEVELS = np.array([[round(int(v) / 257) for v in row] for row in RAMP])
READERS = {
    "read_image": lambda path: read_image(path, Image.open(path).width).transpose(1, 2, 0),
    "read_rgb": lambda path: np.asarray(read_rgb(str(path))),
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """A grey TIFF of one strip; photometric: 0 for white is 0."""
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: photometric, 277: 1, 278: len(values)}
    if bits == 12:
        pairs = values.reshape(-1, 2)
        triples = [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255]
        content = np.stack(triples, axis=1).astype(np.uint8).tobytes()
    else:
        content = values.astype("<u2").tobytes()
    tags |= {273: 8 + 2 + 12 * 9 + 4, 279: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


def pgm(values: np.ndarray) -> bytes:
    return b"P5 256 256 65535\n" + values.astype(">u2").tobytes()


GREY = {
    "grey.png": (lambda path: Image.fromarray(RAMP.astype(np.uint16)).save(path), LEVELS),
    "grey.tif": (lambda path: path.write_bytes(tiff(RAMP, 16, 1)), LEVELS),
    "big_endian.tif": (lambda path: Image.fromarray(RAMP.astype(">u2")).save(path), LEVELS),
    "white_is_0.tif": (lambda path: path.write_bytes(tiff(RAMP, 16, 0)), 255 - LEVELS),
    "12_bits.tif": (lambda path: path.write_bytes(tiff(RAMP // 16, 12, 1)), np.rint(RAMP // 16 / 4095 * 255)),
    "grey.pgm": (lambda path: path.write_bytes(pgm(RAMP)), LEVELS),
}


@readers
@pytest.mark.parametrize("name", GREY)
def test_16_bits_of_grey_become_8(name, read, tmp_path):
    write, expected = GREY[name]
    write(tmp_path / name)
    pixels = read(tmp_path / name)
    assert len(np.unique(pixels)) == 256 and round(pixels.mean(), 1) == 127.5
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=2))


@readers
@pytest.mark.parametrize("kind", [np.int32, np.float32, np.int16])
def test_pixels_of_unknown_range_are_refused(kind, read, tmp_path):
    path = tmp_path / "1.tif"
    if kind is np.int16:
        one_channel, signed = struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 339, 4, 1, 2)
        path.write_bytes(tiff(RAMP, 16, 1).replace(one_channel, signed))
    else:
        Image.fromarray(RAMP.astype(kind)).save(path)
    with pytest.raises(DAMAGED, match=r"its pixels are (floats|signed or 32-bit integers), .* with 8 or 16 bits"):
        read(path)


CLEAR = {
    "RGBA.png": Image.new("RGBA", (16, 16), (200, 30, 10, 0)),
    "RGBA.webp": Image.new("RGBA", (16, 16), (200, 30, 10, 0)),
    "LA.png": Image.new("LA", (16, 16), (50, 0)),
    "P.png": Image.new("RGB", (16, 16), (200, 30, 10)).quantize(),
    "RGB.png": Image.new("RGB", (16, 16), (200, 30, 10)),
    "L.png": Image.new("L", (16, 16), 50),
    "I;16.png": Image.fromarray(np.full((16, 16), 5000, np.uint16)),
}
KEYS = {"P": 0, "RGB": (200, 30, 10), "L": 50, "I;16": 5000}  # the value that is transparent


@readers
@pytest.mark.parametrize("name", CLEAR)
def test_transparent_pixels_are_white(name, read, tmp_path):
    image = CLEAR[name]
    options = {"transparency": KEYS[image.mode]} if image.mode in KEYS else {}
    image.save(tmp_path / name, **options)
    assert (read(tmp_path / name) == 255).all()


@readers
def test_opaque_pixels_keep_their_bits(read, tmp_path):
    write_image(tmp_path / "plain.png", 1)
    plain = Image.open(tmp_path / "plain.png")
    plain.convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("plain.png", "alpha.png"):
        np.testing.assert_array_equal(read(tmp_path / name), np.asarray(plain))


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path)


OUT_OF_REACH = {"folder": without_permission, "link": dangling, "link to itself": circle}


@pytest.mark.parametrize("place", ["labelled/eel", "labelled/cat/more", "unlabelled/more", "test/dog/more"])
@pytest.mark.parametrize("kind", OUT_OF_REACH)
def test_what_cannot_be_seen_is_named_or_skipped(kind, place, tmp_path, monkeypatch, capsys):
    """Not a class that vanishes, nor images of one."""
    root = image_folder(tmp_path / "data")
    whole, _ = load_folder(root, 16, True, False)
    OUT_OF_REACH[kind](root / place, *[monkeypatch] * (kind == "folder"))
    with pytest.raises(UserError, match=f"{place}: .*--skip_corrupt"):
        load_folder(root, 16, True, False)
    assert not capsys.readouterr().err
    if (kind, place) == ("folder", "labelled/eel"):  # a class without images
        with pytest.raises(UserError, match="labelled/eel: holds no image"):
            load_folder(root, 16, True, True)
    else:
        left, _ = load_folder(root, 16, True, True)
        assert left.classes == whole.classes and len(left.train.labels) == len(whole.train.labels)
    assert f"skipped {root / place}: " in capsys.readouterr().err


def test_endings_that_are_not_read_are_counted(tmp_path, capsys):
    for name in ("1.png", "a/2.heic", "3.HEIC", "4.avif", "a/5.gif", "notes"):
        write_image(tmp_path / "images" / name, 1, format="PNG")
    assert image_files(tmp_path / "images") == [tmp_path / "images" / "1.png"]
    said = f"{tmp_path / 'images'}: files whose ending is not read: 2 .heic, 1 .avif, 1 .gif, 1 without one\n"
    assert capsys.readouterr().err == said


def test_files_of_other_programs_count_for_nothing(tmp_path, capsys):
    for name in (
        "@eaDir/1.png",
        "#recycle/1.png",
        "__MACOSX/1.png",
        ".hidden/1.png",
        "Thumbs.db",
        ".DS_Store",
        "._1.png",
    ):
        write_image(tmp_path / name, 1, format="PNG")
        write_image(tmp_path / "a" / name, 1, format="PNG")
    (tmp_path / ".link").symlink_to("nowhere")
    write_image(tmp_path / "a" / "1.png", 1)
    assert image_files(tmp_path) == [tmp_path / "a" / "1.png"]
    assert not capsys.readouterr().err


def test_links_are_followed_and_each_folder_counts_once(tmp_path):
    """By its own path, where it lies below; links to what lies elsewhere, even to what is hidden, hold images."""
    write_image(tmp_path / "images" / "real" / "1.png", 1)
    write_image(tmp_path / "images" / ".store" / "2.png", 1)
    write_image(tmp_path / "elsewhere" / "3.png", 1)
    links = {"a": "real", "z": "real", "b": ".store", "c": "../elsewhere", "d": "../elsewhere", "real/up": ".."}
    for name, target in links.items():
        (tmp_path / "images" / name).symlink_to(target)
    found = [os.path.relpath(path, tmp_path / "images") for path in image_files(tmp_path / "images")]
    assert found == ["b/2.png", "c/3.png", "real/1.png"]


def test_batches_hold_what_reading_at_once_holds(tmp_path, monkeypatch, capsys):
    """In the files' order, without the damaged ones, which are named once; no more are read ahead than is said."""
    files = [tmp_path / f"{i}.png" for i in range(11)]
    for i, file in enumerate(files):
        write_image(file, i, (20 + i, 30))
    for i in (3, 7):
        files[i].write_bytes(b"no image")
    at_once, kept = read_images(files, 16, True)
    capsys.readouterr()
    read = []
    monkeypatch.setattr(dataset.image_files, "READ_AHEAD", 4)
    monkeypatch.setattr(
        dataset.image_files, "read_image", lambda path, *how: read.append(path) or read_image(path, *how)
    )
    batches = read_batches(files, 2, 16, True)
    first = next(batches)
    assert len(read) <= 4
    batches = [first, *batches]
    assert [i for _, some in batches for i in some] == kept == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert [len(pixels) for pixels, _ in batches] == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([pixels for pixels, _ in batches]), at_once)
    assert all(pixels.flags.c_contiguous for pixels, _ in batches)  # another layout has other last digits
    assert capsys.readouterr().err.count("skipped 2 unreadable images") == 1

"""Pixels of every kind, and what lies among images."""

import struct

import numpy as np
import pytest
from helpers.own_images import write_image
from PIL import Image

from dataset.crops import read_rgb
from dataset.image_files import DAMAGED, read_image

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

"""A user's own images: reading files of every kind, the layout of the folders, training on them, bad input."""

import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from helpers.own_images import image_folder, write_image
from helpers.scripts import assert_refused, assert_runs, load_checkpoint, run_here
from PIL import Image

from dataset.folder import load_folder
from dataset.image_files import image_files, read_image, read_images
from utils.errors import UserError

METHODS = ["train_cifar_fix.py", "train_cifar_mix.py", "train_cifar_remix.py"]
FIX, FIX_COSSL = "train_cifar_fix.py", "train_cifar_fix_cossl.py"
FLAGS = [
    "--dataset",
    "folder",
    "--img_size",
    16,
    "--gpu",
    "cpu",
    "--depth",
    10,
    "--width",
    1,
    "--batch-size",
    4,
    "--ema-decay",
    0.9,
    "--epoch",
    2,
    "--val-iteration",
    2,
]


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "data")


def slowly(path, size):
    """As `read_image`, by hand as far as the resizing: 16 bits to 8, on white, upright, three channels, cut."""
    image = Image.open(path)
    turn = {6: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}.get(image.getexif().get(274))
    if image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "RGBA" or "transparency" in image.info:
        *colours, alpha = np.asarray(image.convert("RGBA")).transpose(2, 0, 1) / 255
        on_white = np.rint(255 * (np.array(colours) * alpha + 1 - alpha)).astype(np.uint8)
        image = Image.fromarray(on_white.transpose(1, 2, 0))
    rgb = np.asarray(image.convert("RGB") if turn is None else image.convert("RGB").transpose(turn))
    height, width, _ = rgb.shape
    side = min(height, width)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR, box)).transpose(2, 0, 1)


KINDS = {
    "square.png": {},
    "wide.jpg": {"size": (50, 20)},
    "high.webp": {"size": (9, 31)},
    "odd.bmp": {"size": (17, 24)},
    "grey.png": {"mode": "L"},
    "grey_16_bits.png": {"mode": "I;16"},
    "black_white.png": {"mode": "1"},
    "alpha.png": {"mode": "RGBA"},
    "cmyk.jpg": {"mode": "CMYK"},
    "palette.png": {"mode": "P"},
    "see-through.png": {"mode": "P", "transparency": bytes(range(256))},
    "CAPITALS.JPEG": {},
    "scan.tiff": {},
    "lying.jpg": {"size": (40, 24), "turned": 6},
    "head_down.png": {"size": (20, 30), "turned": 3},
    "one_pixel.png": {"size": (1, 1)},
    "thin.png": {"size": (300, 1)},
}


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("name", KINDS)
def test_reading(name, size, tmp_path, recwarn):
    write_image(tmp_path / name, 1, **KINDS[name])
    (tmp_path / "notes.txt").write_text("no image")
    assert image_files(tmp_path) == [tmp_path / name]
    pixels, kept = read_images(image_files(tmp_path), size, skip_corrupt=False)
    assert kept == [0]
    assert (pixels.dtype, pixels.shape) == (np.uint8, (1, 3, size, size))
    assert not recwarn.list
    np.testing.assert_array_equal(pixels[0], slowly(tmp_path / name, size))


def test_an_upright_image_is_the_one_that_was_turned(tmp_path):
    """Exif orientation 6: the camera lay on its side, the picture must be turned clockwise."""
    shown = np.zeros((16, 16, 3), dtype=np.uint8)
    shown[:8, :8] = 250  # bright at the top left
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(shown)).save(tmp_path / "lying.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "lying.png", 16), shown.transpose(2, 0, 1))


def bomb(side):
    """A PNG that says it has side x side pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def cut(path):
    """The first half of a JPEG."""
    write_image(path, 2, size=(60, 60))
    return path.read_bytes()[: path.stat().st_size // 2]


def wrong_exif(path):
    """A JPEG that is to be turned, whose Exif gives its width in letters."""
    entries = struct.pack("<HHIHH", 274, 3, 1, 6, 0) + struct.pack("<HHI4s", 256, 2, 3, b"ab")
    directory = b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    Image.new("RGB", (20, 20)).save(path, exif=b"Exif\0\0" + directory)
    return path.read_bytes()


DAMAGED = {
    "cut.jpg": cut,
    "wrong_exif.jpg": wrong_exif,
    "text.jpg": lambda _: b"this is no image",
    "empty.png": lambda _: b"",
    "bomb.png": lambda _: bomb(60000),
    "large_and_cut.png": lambda _: bomb(10000),  # Pillow would warn
    "two\nlines.jpg": lambda _: b"no image either",
}


@pytest.mark.parametrize("part", ["labelled/cat", "unlabelled", "test/dog"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_named_or_skipped(name, part, folder, tmp_path, recwarn):
    path = folder / part / name
    path.write_bytes(DAMAGED[name](path))
    if part == "unlabelled" or name == "cut.jpg":  # the others take the same way
        result = run_here(FIX, *FLAGS, "--data_root", folder, "--out", tmp_path / "out")
        assert_refused(result, str(path).replace("\n", " "), "--skip_corrupt")
        assert not (tmp_path / "out").exists()
    whole, _ = load_folder(folder, 16, True, skip_corrupt=True)
    path.unlink()
    assert not recwarn.list
    without, _ = load_folder(folder, 16, True, skip_corrupt=False)
    for now, then in zip((*whole.train, *whole.test), (*without.train, *without.test), strict=True):
        np.testing.assert_array_equal(now, then)


def test_skipped_images_are_counted(folder, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (folder / "unlabelled" / name).write_bytes(b"")
    result = assert_runs(FIX, *FLAGS, "--data_root", folder, "--out", tmp_path / "out", "--skip_corrupt")
    assert result.stderr.startswith("skipped 2 unreadable images: ")
    assert str(folder / "unlabelled" / "b.jpg") in result.stderr


def test_layout(folder):
    """Classes in the order of their names; labels by folder; what isn't an image, or hidden, counts for nothing."""
    (folder / "labelled" / "notes.txt").write_text("")
    for hidden in (".thumbnails/1.png", "cat/._1.png", "cat/.thumbnails/1.png"):
        path = folder / "labelled" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    write_image(folder / "labelled" / "cat" / "more" / "old.png", 500)
    shutil.move(folder / "test" / "dog", folder / "elsewhere")
    (folder / "test" / "dog").symlink_to(folder / "elsewhere")
    dataset, split = load_folder(folder, 16, True, False)
    assert dataset.classes == ("cat", "dog")
    assert split.counts.tolist() == [7, 4]
    assert dataset.train.labels[split.labelled].tolist() == [0] * 7 + [1] * 4
    np.testing.assert_array_equal(dataset.train.pixels[6], slowly(folder / "labelled/cat/more/old.png", 16))
    assert dataset.test.labels.tolist() == [0] * 3 + [1] * 3
    scaled = dataset.train.pixels / 255
    assert dataset.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)))
    assert dataset.std == pytest.approx(scaled.std(axis=(0, 2, 3)))


@pytest.mark.parametrize("include_labelled", [False, True])
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["1.png", "2.jpg"], None),
        (["cat/1.png", "dog/2.jpg", "dog/more/3.png"], [0, 1, 1]),
        (["cat_12.png", "dog.0.jpg", "dog.png"], [0, 1, 1]),
        (["cat_12.png", "dog/1.png"], [0, 1]),
        (["cat/1.png", "2.png"], None),  # what isn't known of all isn't used
        (["cat/1.png", "bird/2.png"], None),
        (["cat/dog_1.png"], [0]),  # folders go first
        (["cat_old/1.png"], None),
        (["category_1.png"], None),
    ],
)
def test_hidden_labels_of_unlabelled_images(names, labels, include_labelled, folder):
    shutil.rmtree(folder / "unlabelled")
    for i, name in enumerate(names):
        write_image(folder / "unlabelled" / name, i)
    dataset, split = load_folder(folder, 16, include_labelled, False)
    assert split.unlabelled.tolist() == list(range(0 if include_labelled else 10, 10 + len(names)))
    assert dataset.train.labels[10:].tolist() == (labels or [-1] * len(names))
    expected = np.bincount(labels, minlength=2) + [6 * include_labelled, 4 * include_labelled] if labels else None
    np.testing.assert_array_equal(split.unlabelled_counts, expected)


def test_the_longest_class_in_a_name_counts(folder):
    for name in ("cat_big", "cat_big_wild"):
        write_image(folder / "labelled" / name / "1.png", 0)
    shutil.rmtree(folder / "unlabelled")
    for name in ("cat_1.png", "cat_big.2.png", "cat_big_wild_x.3.png", "dog_cat_big.png"):
        write_image(folder / "unlabelled" / name, 0)
    dataset, _ = load_folder(folder, 16, False, False)
    assert [dataset.classes[label] for label in dataset.train.labels[-4:]] == ["cat", "cat_big", "cat_big_wild", "dog"]


def emptied(part):
    def change(root):
        shutil.rmtree(root / part)
        (root / part).mkdir()

    return change


def damaged_class(root):
    for path in (root / "labelled" / "dog").iterdir():
        path.write_bytes(b"")


def moved_out(part):
    """An image in no class folder."""
    return lambda root: (root / part / "cat" / "0.png").rename(root / part / "cat_0.png")


CHANGES = {
    "no root": (shutil.rmtree, "", ["data: no such folder or file", "give labelled/CLASS/"]),
    "no labelled": (lambda root: shutil.rmtree(root / "labelled"), "", ["data/labelled: no such folder"]),
    "no test": (lambda root: shutil.rmtree(root / "test"), "", ["data: has no test images", "--holdout 0.2"]),
    "no classes": (emptied("labelled"), "", ["data/labelled: has 0 class folders"]),
    "no test classes": (emptied("test"), "", ["data/test: has 0 class folders"]),
    "one class": (lambda root: shutil.rmtree(root / "labelled" / "dog"), "", ["data/labelled: has 1 class folders"]),
    "empty class": (emptied("labelled/cat"), "", ["labelled/cat: holds no image"]),
    "empty test class": (emptied("test/cat"), "", ["test/cat: holds no image"]),
    "unknown test class": (
        lambda root: (root / "test" / "dog").rename(root / "test" / "eel"),
        "",
        ["data/test", "classes that no labelled image has: eel"],
    ),
    "class of damaged images": (damaged_class, "--skip_corrupt", ["data/labelled: no image of class dog can be read"]),
    "labelled image in no class": (moved_out("labelled"), "", ["labelled/cat_0.png: lies in no class folder"]),
    "test image in no class": (moved_out("test"), "", ["test/cat_0.png: lies in no class folder"]),
    "few labels": (lambda _: None, "--batch-size 11", ["--batch-size 11", "labelled set has only 10 images"]),
    "size": (lambda _: None, "--img_size 30", ["--img_size", "a multiple of 8 from 16 to 512, got '30'"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_bad_input(change, folder, tmp_path):
    make, flags, words = CHANGES[change]
    make(folder)
    result = run_here(FIX, *FLAGS, *flags.split(), "--data_root", folder, "--out", tmp_path / "out")
    result.stderr = result.stderr[result.stderr.find("error:") :]  # behind what was skipped
    assert_refused(result, *words)
    assert not (tmp_path / "out").exists()


def test_few_unlabelled_images_for_mixmatch(folder, tmp_path):
    """Its unlabelled set leaves the labelled images out."""
    for path in sorted((folder / "unlabelled").iterdir())[3:]:
        path.unlink()
    flags = [*FLAGS, "--data_root", folder, "--out", tmp_path / "out"]
    assert_refused(run_here(METHODS[1], *flags), "--batch-size 4", "unlabelled set has only 3 images")


def test_more_images_than_memory_holds(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"100 images of 512 x 512 .* 0 GB"):
        patched.setattr(np, "empty", full)
        read_images([tmp_path / "1.png"] * 100, 512, False)


@pytest.mark.parametrize("script", METHODS)
@pytest.mark.parametrize("known", [False, True])
def test_training(script, known, tmp_path):
    """Both stages; pseudo-labels are judged where the hidden labels are known, and only there."""
    folder = image_folder(tmp_path / "data", known)
    flags = [*FLAGS, "--data_root", folder]
    assert_runs(script, *flags, "--out", tmp_path / "first")
    start = ["--resume", tmp_path / "first" / "checkpoint.pth.tar", "--warm_tfe", 1]
    if not known or script == FIX:
        result = assert_runs(script.replace(".py", "_cossl.py"), *flags, *start, "--out", tmp_path / "cossl")
        assert not result.stderr
        assert ("9 unlabelled" if script == METHODS[1] else " unlabelled") in result.stdout
        table = result.stdout.splitlines()
        assert table[0].split() == ["class", "cat", "dog"]
        assert ("10 of the unlabelled are the labelled ones again" in table) == (script == FIX)
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    unlabelled = 19 if script == FIX else 9
    counts = ([11, 8] if script == FIX else [5, 4]) if known else None
    facts = {"classes": ["cat", "dog"], "labelled_counts": [6, 4], "unlabelled": unlabelled, "img_size": 16}
    assert facts.items() <= summary.items()
    assert summary["unlabelled_counts"] == counts
    saved = load_checkpoint(tmp_path / "first" / "checkpoint.pth.tar")["facts"]
    assert saved == {key: summary[key] for key in saved}
    header, *rows = [line.split("\t") for line in (tmp_path / "first" / "log.txt").read_text().splitlines()]
    assert ("acc_u" in header) == known
    assert len(rows) == 2
    assert {len(row) for row in rows} == {len(header)}


def rename(root):
    for part in ("labelled", "test"):
        (root / part / "dog").rename(root / part / "hound")


ALTERED = {
    "classes": (rename, ["(classes, test files differ)"], "pre-trained on other classes"),
    "labels": (
        lambda root: write_image(root / "labelled/dog/9.png", 0),
        ["(labelled counts, unlabelled differ)"],
        None,
    ),
    "unlabelled": (lambda root: write_image(root / "unlabelled/99.png", 0), ["(unlabelled differ)"], ""),
}


@pytest.mark.parametrize("change", ALTERED)
def test_a_changed_folder(change, folder, tmp_path):
    """No run goes on with other images. Co-learning may start with others of the same classes; it says if labelled."""
    make, words, second = ALTERED[change]
    flags = [*FLAGS, "--data_root", folder]
    assert_runs(FIX, *flags, "--out", tmp_path / "first")
    saved = tmp_path / "first" / "checkpoint.pth.tar"
    before = saved.read_bytes()
    make(folder)
    for more in (["--out", tmp_path / "first"], ["--resume", saved, "--out", tmp_path / "other", "--epoch", 3]):
        assert_refused(run_here(FIX, *flags, *more), "--data_root: not the images", *words)
    assert saved.read_bytes() == before
    assert not (tmp_path / "other").exists()
    result = run_here(FIX_COSSL, *flags, "--resume", saved, "--warm_tfe", 1, "--out", tmp_path / "cossl")
    if second:
        assert_refused(result, str(saved), second)
        assert not (tmp_path / "cossl").exists()
    else:
        assert result.returncode == 0
        assert ("warning" in result.stderr) == (second is None)


def test_a_changed_folder_and_a_co_learning_run(folder, tmp_path):
    flags = [*FLAGS, "--data_root", folder]
    assert_runs(FIX, *flags, "--out", tmp_path / "first")
    flags += ["--resume", tmp_path / "first" / "checkpoint.pth.tar", "--warm_tfe", 1, "--out", tmp_path / "cossl"]
    assert_runs(FIX_COSSL, *flags)
    write_image(folder / "unlabelled" / "99.png", 0)
    assert_refused(run_here(FIX_COSSL, *flags), "--data_root: not the images", "(unlabelled differ)")


def test_names_in_either_form_of_unicode_are_one_class(folder):
    """As archives made on other systems have them, in the parts of the folder and in the names of files."""
    composed, apart = "k\u00e4fer", "ka\u0308fer"
    for name in (composed, apart):
        write_image(folder / "labelled" / name / f"{len(name)}.png", 0)
    write_image(folder / "test" / apart / "1.png", 0)
    shutil.rmtree(folder / "unlabelled")
    for name in (f"{composed}_1.png", f"{apart}.2.png", f"{apart}/3.png"):
        write_image(folder / "unlabelled" / name, 0)
    dataset, split = load_folder(folder, 16, False, False)
    assert dataset.classes == ("cat", "dog", composed)
    assert (split.counts.tolist(), split.unlabelled_counts.tolist()) == ([6, 4, 2], [0, 0, 3])
    assert dataset.test.labels.tolist() == [0] * 3 + [1] * 3 + [2]


def test_names_in_any_encoding(folder, tmp_path):
    """Of a class and of an image in it: bytes that are no UTF-8."""
    for part in ("labelled", "test"):
        (folder / part / "dog").rename(folder / part / os.fsdecode(b"h\xe9ron"))
    assert_runs(FIX, *FLAGS, "--data_root", folder, "--out", tmp_path / "out")
    assert load_checkpoint(tmp_path / "out" / "checkpoint.pth.tar")["facts"]["classes"] == ["cat", "h\udce9ron"]

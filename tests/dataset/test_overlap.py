"""Images that stand in two parts of a folder."""

import shutil

from helpers.own_images import image_folder

from dataset.layouts import list_images
from dataset.overlap import overlaps


def test_the_same_bytes_are_found_whatever_they_are_called(tmp_path):
    root = image_folder(tmp_path)
    for path in (*(root / "unlabelled").iterdir(), *(root / "test").rglob("*.png")):
        path.write_bytes(path.read_bytes() + b"of its own" + path.name.encode())  # made alike by their seeds
    none = {"unlabelled": 0, "test": 0, "both": 0, "labelled": 8}  # cat/0.png as dog/0.png, ...
    assert overlaps(list_images(root, False)) == none
    shutil.copy(root / "labelled" / "cat" / "0.png", root / "unlabelled" / "other.png")
    shutil.copy(root / "labelled" / "cat" / "1.png", root / "unlabelled" / "more.png")
    shutil.copy(root / "labelled" / "dog" / "1.png", root / "test" / "cat" / "x.png")
    assert overlaps(list_images(root, False)) == none | {"unlabelled": 2, "test": 1, "both": 1}
    shutil.copy(root / "unlabelled" / "c1.jpg", root / "test" / "dog" / "y.jpg")
    assert overlaps(list_images(root, False)) == none | {"unlabelled": 2, "test": 1, "both": 2}
    shutil.copy(root / "labelled" / "cat" / "5.png", root / "labelled" / "cat" / "copy of 5.png")
    assert overlaps(list_images(root, False))["labelled"] == 10


def test_equal_sizes_are_no_equal_files(tmp_path):
    root = image_folder(tmp_path)
    for i, part in enumerate(("labelled/cat/a.jpg", "unlabelled/b.jpg", "test/dog/c.jpg")):
        (root / part).write_bytes(bytes([i]) * 50)
    for part in ("labelled/cat", "unlabelled", "test/dog"):
        (root / part / "empty.png").touch()  # no image, and not the same one
    before = overlaps(list_images(root, False))
    (root / "unlabelled" / "b.jpg").write_bytes(bytes(50))
    assert overlaps(list_images(root, False)) == before | {"unlabelled": before["unlabelled"] + 1}
    (root / "test" / "dog" / "empty.png").unlink()
    assert overlaps(list_images(root, False)) == before | {"unlabelled": before["unlabelled"] + 1}


def test_a_file_that_cannot_be_read_is_like_no_other(tmp_path, monkeypatch):
    """Which --skip_corrupt leaves out."""

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    root = image_folder(tmp_path)
    monkeypatch.setattr("dataset.overlap.sha256_of", denied)
    assert not any(overlaps(list_images(root, True)).values())

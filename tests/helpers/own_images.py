"""Shared by the tests of users' own images: image files of every kind, and a folder of them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, seed: int, size=(20, 20), mode="RGB", turned=None, **options: object) -> None:
    """A random image file, and the folders that it lies in; turned: its orientation by Exif; options: Pillow's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    if turned:
        options["exif"] = Image.Exif()
        options["exif"][274] = turned
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    image.convert(mode).save(path, **options)


def image_folder(root: Path, known: bool = False) -> Path:
    """Six labelled cats and four dogs, nine unlabelled images in class folders (`known`) or loose, three test images a
    class.
    """
    for name, labelled, unlabelled in (("cat", 6, 5), ("dog", 4, 4)):
        for i in range(labelled):
            write_image(root / "labelled" / name / f"{i}.png", i, (20, 20 + i))
        for i in range(unlabelled):
            write_image(root / "unlabelled" / (f"{name}/{i}.jpg" if known else f"{name[0]}{i}.jpg"), i)
        for i in range(3):
            write_image(root / "test" / name / f"{i}.png", 100 + i)
    return root


def without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder that can't be listed, as its owner or another user finds it; for root nothing is closed."""
    folder.mkdir(parents=True)
    listed = os.scandir

    def scandir(path):
        if os.fspath(path) == os.fspath(folder):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)

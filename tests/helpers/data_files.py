"""Small data sets in the official layouts."""

import hashlib
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torchvision.datasets
from PIL import Image

from dataset.small_imagenet127 import class_map


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


def write_stl10(root: Path, monkeypatch, train=60, unlabeled=90, test=30) -> dict[str, np.ndarray]:
    """Random images in the official layout, fewer of them than it has: pixels (N, 3, 96, 96) and labels (N,) from 0 to
    9, by the names of the files. In these each channel is written column by column, and labels are from 1 to 10.
    """
    monkeypatch.setattr("dataset.stl10.NUMBERS", {"train": train, "unlabeled": unlabeled, "test": test})
    random, folder, found = np.random.RandomState(0), root / "stl10_binary", {}
    folder.mkdir(parents=True)
    for part, number in (("train", train), ("unlabeled", unlabeled), ("test", test)):
        found[f"{part}_X.bin"] = random.randint(0, 256, (number, 3, 96, 96)).astype(np.uint8)
        found[f"{part}_X.bin"].transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            found[f"{part}_y.bin"] = random.permutation(number) % 10
            (found[f"{part}_y.bin"] + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    return found


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


def imbalance(num_max=12, ratio=2.0, imb_ratio_l=3, imb_ratio_u=3, seed=1, order=None) -> SimpleNamespace:
    """The flags of a long-tailed split; by default one that the small Food-101 can serve."""
    names = ("num_max", "ratio", "imb_ratio_l", "imb_ratio_u", "manualSeed", "order")
    return SimpleNamespace(**dict(zip(names, (num_max, ratio, imb_ratio_l, imb_ratio_u, seed, order), strict=True)))


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

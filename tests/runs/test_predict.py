"""predict.py: the recipes' own probabilities, a whole CSV whatever the names, bad input."""

import csv
import os
from functools import partial

import numpy as np
import pytest
import torch
from helpers.own_images import image_folder, without_permission, write_image
from helpers.published_runs import published_state
from helpers.scripts import assert_refused, assert_runs, load_checkpoint, run_here
from PIL import Image
from torchvision import transforms as T

import training.loop
from dataset.image_files import image_files, square
from dataset.small_imagenet127 import class_map
from models.wrn import WideResNet
from reporting.trained import load_model

SHORT = ["--gpu", "cpu", "--batch-size", 4, "--ema-decay", 0.5, "--epoch", 1, "--val-iteration", 3]
FOLDER = ["--dataset", "folder", "--img_size", 24, "--depth", 16, "--width", 1, *SHORT]
WIDE = ["--dataset", "folder", "--img_size", 16, "--depth", 10, "--width", 2, *SHORT]
SMALL = ["--img_size", 32, "--labeled_percent", 0.6, "--width", 2, *SHORT]
CPU = ["--gpu", "cpu"]


def read_csv(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def checked(script, flags, monkeypatch):
    """Run a recipe: the probabilities of its test images, by what it evaluates itself after its last epoch."""
    seen, original = [], training.loop.evaluate

    def watched(predict, batches, counts):
        batches = list(batches)
        with torch.no_grad():
            seen.append(torch.cat([predict(images) for images, _ in batches]).softmax(dim=1))
        return original(predict, batches, counts)

    monkeypatch.setattr(training.loop, "evaluate", watched)
    assert_runs(f"{script}.py", *flags)
    return seen[-1]


def compare(rows, files, probabilities, classes):
    """That the rows of a CSV are the three likeliest classes of the files, in order."""
    assert [row["file"] for row in rows] == list(map(str, files))
    top = min(3, len(classes))
    for row, expected in zip(rows, probabilities.numpy(), strict=True):
        names = [row[f"class{n}"] for n in ("", "_2", "_3")[:top]]
        values = [float(row[f"probability{n}"]) for n in ("", "_2", "_3")[:top]]
        assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(values, [expected[classes.index(name)] for name in names], atol=2e-6)
        np.testing.assert_allclose(values, sorted(expected, reverse=True)[:top], atol=2e-6)
        assert len(row.keys() - {"group"}) == 1 + 2 * top


@pytest.mark.parametrize("flags", [FOLDER, WIDE], ids=["16-1, 24 pixels", "10-2, 16 pixels"])
@pytest.mark.parametrize("eel", [False, True], ids=["two classes", "three classes"])
def test_the_recipes_own_probabilities(flags, eel, tmp_path, monkeypatch):
    """After both stages; a model of two classes has no third."""
    folder, images, out = image_folder(tmp_path / "data"), tmp_path / "data" / "test", tmp_path / "new" / "out.csv"
    classes = ["cat", "dog", "eel"] if eel else ["cat", "dog"]
    for path in ["labelled/eel/1.png", "test/eel/1.jpg", "test/eel/more/1.tiff"] * eel:
        write_image(folder / path, 7, (40, 30))
    run = [*flags, "--data_root", folder]
    start = tmp_path / "first" / "checkpoint.pth.tar"
    second = ["--resume", start, "--warm_tfe", 1, "--out", tmp_path / "cossl"]
    plain = checked("train_cifar_fix", [*run, "--out", tmp_path / "first"], monkeypatch)
    coupled = checked("train_cifar_fix_cossl", [*run, *second], monkeypatch)
    assert not torch.equal(plain, coupled)
    for name, probabilities in (("first", plain), ("cossl", coupled)):
        checkpoint = ["--checkpoint", tmp_path / name / "checkpoint.pth.tar"]
        result = assert_runs("predict.py", *checkpoint, images, "--out", out, "--batch-size", 4, *CPU)
        compare(read_csv(out), image_files(images), probabilities, classes)
        counts = np.bincount(probabilities.argmax(dim=1), minlength=len(classes))
        said = ", ".join(f"{n} {c}" for c, n in zip(classes, counts, strict=True) if n)
        assert result.stdout.splitlines() == [said, f"results: {out}"]
        assert not result.stderr


def test_the_resnets_own_probabilities(small_imagenet127, tmp_path, monkeypatch):
    pixels = np.load(small_imagenet127 / "val_32_images.npy")
    files = [tmp_path / "images" / f"{i:02}.png" for i in range(len(pixels))]
    files[0].parent.mkdir()
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
    run = [*SMALL, "--data_root", small_imagenet127]
    start = tmp_path / "first" / "checkpoint.pth.tar"
    plain = checked("train_small_imagenet127_fix", [*run, "--out", tmp_path / "first"], monkeypatch)
    second = ["--resume", start, "--out", tmp_path / "cossl"]
    coupled = checked("train_small_imagenet127_fix_cossl", [*run, *second], monkeypatch)
    for name, probabilities in (("first", plain), ("cossl", coupled)):
        checkpoint, out = tmp_path / name / "checkpoint.pth.tar", tmp_path / f"{name}.csv"
        assert_runs("predict.py", "--checkpoint", checkpoint, files[0].parent, "--out", out, *CPU)
        compare(read_csv(out), files, probabilities, load_checkpoint(checkpoint)["facts"]["classes"])


FACTS = {"classes": ["cat", "dog"], "img_size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
FACTS |= {"method": "FixMatch", "start_epoch": 0}
FACTS |= {"labelled_counts": [9, 3], "unlabelled_counts": None, "unlabelled": 30}
# Of a run of ours, besides its networks.
ENTRIES = {"facts": FACTS, "arguments": {"recipe": "train_cifar_fix"}, "versions": {}, "history": None, "seconds": 1.0}
ENTRIES |= {"epoch": 1, "step": 0, "totals": {}, "optimizer": {}}


@pytest.fixture
def saved(tmp_path):
    """Entries that replace the usual ones (None: left out) -> the checkpoint of an untrained network, two classes."""

    def save(**entries):
        torch.manual_seed(0)
        state = WideResNet(2, 10, 1).state_dict()
        state = ENTRIES | {"state_dict": state, "ema_state_dict": state} | entries
        path = tmp_path / "checkpoint.pth.tar"
        torch.save({key: value for key, value in state.items() if key not in entries or value is not None}, path)
        return path

    return save


def test_odd_names(saved, tmp_path):
    """Commas, quotes, newlines, bytes that are no UTF-8; a file by itself may have any name, and be given twice."""
    classes = ['a, "b"\nc', "h\udce9ron"]
    names = ['x, "y"\nz.png', "=1+1.png", "été 猫.png", os.fsdecode(b"h\xe9ron.png")]
    for i, name in enumerate(names):
        write_image(tmp_path / "images" / name, i)
    plain = tmp_path / "picture"
    write_image(plain, 1, format="PNG")
    given = [tmp_path / "images", plain, plain]
    checkpoint, out = saved(facts=FACTS | {"classes": classes}), tmp_path / "out.csv"
    result = assert_runs("predict.py", "--checkpoint", checkpoint, *given, "--out", out, *CPU)
    assert result.stdout.encode()  # a terminal takes no half characters
    rows = read_csv(out)
    assert [row["file"] for row in rows] == [*map(str, image_files(tmp_path / "images")), str(plain), str(plain)]
    assert {row["class"] for row in rows} | {row["class_2"] for row in rows} == set(classes)
    assert rows[-1] == rows[-2]


def test_names_that_look_like_flags_or_formulas_stay_as_they_are(saved, tmp_path, monkeypatch):
    classes = ['a, "b"\nc', "@sum"]
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "+1.png", "@a.png", "\t1.png", "-1.png", "a=1.png"]
    for i, name in enumerate(names):
        write_image(tmp_path / name, i)
    checkpoint, out = saved(facts=FACTS | {"classes": classes}), tmp_path / "out.csv"
    assert_runs("predict.py", "--checkpoint", checkpoint, "--out", out, *CPU, "--", *names)
    rows = read_csv(out)
    assert [row["file"] for row in rows] == names
    assert {row["class"] for row in rows} | {row["class_2"] for row in rows} == set(classes)
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)


def other_network():
    return {"conv1.weight": torch.zeros(4, 3, 7, 7)}


BAD_CHECKPOINTS = {
    "no facts": ({"facts": None}, ["it lacks facts"]),
    "facts of another kind": ({"facts": {"method": "FixMatch"}}, ["it lacks start_epoch, classes"]),
    "words for numbers": ({"facts": FACTS | {"mean": ["x"]}}, ["its mean is damaged"]),
    "no EMA": ({"ema_state_dict": None}, ["lacks ema_state_dict"]),
    "no network": ({"ema_state_dict": {"weight": torch.zeros(2)}}, ["no network here"]),
    "another ResNet": ({"ema_state_dict": other_network()}, ["no network here"]),
    "list of weights": ({"ema_state_dict": [1]}, ["its ema_state_dict is damaged"]),
    "other head": ({"ema_teacher": torch.nn.Linear(64, 3).state_dict()}, ["no network here"]),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_bad_checkpoints(kind, saved, tmp_path):
    entries, words = BAD_CHECKPOINTS[kind]
    write_image(tmp_path / "1.png", 1)
    refused(
        ["--checkpoint", saved(**entries), tmp_path / "1.png"], ["--checkpoint", "checkpoint.pth.tar", *words], tmp_path
    )


def refused(flags, words, tmp_path):
    assert_refused(run_here("predict.py", *flags, "--out", tmp_path / "new" / "out.csv", *CPU), *words)
    assert not (tmp_path / "new").exists()


BAD_IMAGES = {
    "missing file": (["nowhere.png"], ["nowhere.png: no such image"]),
    "empty folder": (["empty"], ["empty: no such image, or a folder without any"]),
    "one of two": (["1.png", "empty"], ["empty: no such image"]),
    "corrupt": (["1.png", "bad.jpg"], ["bad.jpg: not a readable image", "--skip_corrupt"]),
    "corrupt in a folder": (["more"], ["bad.jpg: not a readable image", "--skip_corrupt"]),
    "no image": (["notes.txt"], ["notes.txt: not a readable image"]),
    "no path": ([], ["images"]),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images(kind, saved, tmp_path):
    names, words = BAD_IMAGES[kind]
    write_image(tmp_path / "1.png", 1)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.jpg").write_bytes(b"no image")
    refused(["--checkpoint", saved(), *(tmp_path / name for name in names)], words, tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--checkpoint nowhere.tar 1.png", ["--checkpoint nowhere.tar: no such file"]),
        ("1.png", ["--checkpoint"]),
        ("--checkpoint c.tar --batch-size 0 1.png", ["--batch-size", "above 0"]),
        ("--checkpoint c.tar --gpu x 1.png", ["--gpu", "cpu"]),
        ("--checkpoint c.tar --top 5 1.png", ["--top"]),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    refused(flags.split(), words, tmp_path)


def test_skip_corrupt(saved, tmp_path):
    images = tmp_path / "images"
    write_image(images / "1.png", 1)
    (images / "0.jpg").write_bytes(b"no image")
    flags = ["--checkpoint", saved(), images, "--skip_corrupt", "--out", tmp_path / "out.csv", *CPU]
    result = assert_runs("predict.py", *flags)
    assert result.stderr == f"skipped 1 unreadable images: {images / '0.jpg'}\n"
    assert [row["file"] for row in read_csv(tmp_path / "out.csv")] == [str(images / "1.png")]
    (images / "1.png").write_bytes(b"")
    (tmp_path / "out.csv").unlink()
    result = run_here("predict.py", *flags)
    assert (result.returncode, result.stderr.splitlines()[1:]) == (2, ["error: no readable image; give other files"])
    assert not (tmp_path / "out.csv").exists()


def test_what_cannot_be_seen_is_named(saved, tmp_path, monkeypatch):
    """Folders and links that hold images, perhaps; and files that aren't read."""
    images = tmp_path / "images"
    for name in ("1.png", "2.heic"):
        write_image(images / name, 1, format="PNG")
    (images / "link").symlink_to("nowhere")
    without_permission(images / "locked", monkeypatch)
    flags = ["--checkpoint", saved(), images]
    refused(flags, ["images/link: a link to what isn't there", "--skip_corrupt"], tmp_path)
    result = assert_runs("predict.py", *flags, "--skip_corrupt", "--out", tmp_path / "out.csv", *CPU)
    assert [row["file"] for row in read_csv(tmp_path / "out.csv")] == [str(images / "1.png")]
    link, locked, endings = result.stderr.splitlines()
    assert link.startswith(f"skipped {images / 'link'}: ") and locked.startswith(f"skipped {images / 'locked'}: ")
    assert endings == f"{images}: files whose ending is not read: 1 .heic"
    refused(["--checkpoint", saved(), images / "locked"], ["images/locked: a folder that can't be read"], tmp_path)


def test_unwritable_out(saved, tmp_path):
    write_image(tmp_path / "1.png", 1)
    flags = ["--checkpoint", saved(), tmp_path / "1.png", *CPU, "--out"]
    assert_refused(run_here("predict.py", *flags, tmp_path / "1.png" / "out.csv"), "--out", "take another --out")
    assert_refused(run_here("predict.py", *flags, tmp_path), str(tmp_path))
    assert not list(tmp_path.parent.glob(".*.tmp"))


def test_a_loaded_model_is_in_eval_mode(saved):
    """BatchNorm takes its running statistics, so an image's company doesn't matter."""
    model = load_model(saved(), "--checkpoint", torch.device("cpu"))
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(model.predict(images)[:1], model.predict(images[:1]))
    assert (model.facts, model.classes, model.cossl) == (FACTS, 2, False)


def test_help():
    text = " ".join(run_here("predict.py", "--help").stdout.split())
    for words in (
        "--checkpoint",
        "--classes A,B,...",
        "--labelled_counts N,N,...",
        "images",
        "--skip_corrupt",
        "(default: predictions.csv)",
        "(default: 100)",
        "(default: 0)",
    ):
        assert words in text


NETWORKS = {
    "train_cifar_fix": (10, 32, None),
    "train_cifar_remix_cossl": (100, 32, None),
    "train_food_fix_cossl": (101, 224, 256),
    "train_small_imagenet127_fix_cossl": (127, 64, None),
}


@pytest.fixture
def published(tmp_path):
    """script -> the checkpoint that the published code leaves, two images beside it, and names of its classes."""

    def save(script):
        classes = NETWORKS[script][0]
        torch.save(published_state(script, classes), tmp_path / "checkpoint.pth.tar")
        for i in range(2):
            write_image(tmp_path / "images" / f"{i}.png", i, (300, 280))
        return ["--checkpoint", tmp_path / "checkpoint.pth.tar", tmp_path / "images"], [f"c{i}" for i in range(classes)]

    return save


@pytest.mark.parametrize("script", NETWORKS)
@pytest.mark.parametrize("source", ["list", "file"])
def test_published_checkpoints(script, source, published, tmp_path):
    """Their images are prepared as by the scripts; the last third of the classes has the fewest labelled images."""
    flags, names = published(script)
    classes, size, resize = NETWORKS[script]
    counts = [str(classes - c) for c in range(classes)]
    told = [",".join(names), ",".join(counts)]
    if source == "file":
        told = [tmp_path / "names", tmp_path / "counts"]
        told[0].write_text("\n".join(names), encoding="utf-8-sig")
        told[1].write_text("\r\n".join(counts) + "\r\n")
    flags += ["--classes", told[0], "--labelled_counts", told[1], "--img_size", size]
    result = assert_runs("predict.py", *flags, "--out", tmp_path / "out.csv", *CPU)
    dataset = {10: "cifar10", 100: "cifar100", 101: "food101", 127: "small_imagenet127"}[classes]
    assert result.stdout.splitlines()[0] == f"images prepared as those of {dataset}, {size} pixels"

    look = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))}
    look["cifar100"] = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    look["food101"] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    look["small_imagenet127"] = (0.48109809, 0.45747185, 0.40785507), (0.26040889, 0.2532126, 0.26820634)
    crop = T.Compose([T.Resize(resize), T.CenterCrop(size)]) if resize else partial(square, size=size)
    shape = T.Compose([crop, T.ToTensor(), T.Normalize(*look[dataset])])
    files = sorted((tmp_path / "images").iterdir())
    model = load_model(tmp_path / "checkpoint.pth.tar", "--checkpoint", torch.device("cpu"))
    with torch.no_grad():
        expected = model.predict(torch.stack([shape(Image.open(file)) for file in files])).softmax(dim=1)
    rows = read_csv(tmp_path / "out.csv")
    third = classes // 3
    for row in rows:
        c = names.index(row["class"])
        assert row.pop("group") == ("many" if c < third else "few" if c >= classes - third else "medium")
    compare(rows, files, expected, names)


def test_without_counts_no_class_is_many_or_few(published, tmp_path):
    flags, names = published("train_cifar_fix")
    assert_runs("predict.py", *flags, "--classes", ",".join(names), "--out", tmp_path / "out.csv", *CPU)
    assert "group" not in read_csv(tmp_path / "out.csv")[0]


def test_small_imagenet127s_classes_are_known(published, tmp_path):
    flags, _ = published("train_small_imagenet127_fix_cossl")
    assert_runs("predict.py", *flags, "--img_size", 32, "--out", tmp_path / "out.csv", *CPU)
    assert {row["class"] for row in read_csv(tmp_path / "out.csv")} <= set(class_map()[1])


TEN = "a,b,c,d,e,f,g,h,i,j"
UNTOLD = {
    "no names": ([], ["--classes: ", "checkpoint.pth.tar", "give --classes with 10 names"]),
    "too few": (["--classes", "a,b"], ["--classes: 2 entries, and ", "tells 10 classes apart"]),
    "twice": (["--classes", "a,b,c,d,e,f,g,h,i,a"], ["--classes: a stands there twice"]),
    "twice in NFC": (["--classes", "é,b,c,d,e,f,g,h,i,e\u0301"], ["--classes: é stands there twice"]),
    "empty": (["--classes", "a,b,,d,e,f,g,h,i,j"], ["--classes: entry 3 is empty"]),
    "no file": (["--classes", "nowhere.txt"], ["--classes: ", "nowhere.txt", "no such file"]),
    "a folder": (["--classes", "."], ["--classes: ", "no readable text file"]),
    "counts": (["--classes", TEN, "--labelled_counts", "9,8"], ["--labelled_counts: 2 entries", "10 classes"]),
    "no counts": (["--classes", TEN, "--labelled_counts", TEN], ["--labelled_counts: ", "above 0", "'a'"]),
    "a count of 0": (
        ["--classes", TEN, "--labelled_counts", "9,8,7,6,5,4,3,2,1,0"],
        ["--labelled_counts: ", "above 0", "'0'"],
    ),
    "size": (["--classes", TEN, "--img_size", "30"], ["--img_size", "multiple of 8"]),
    "data set": (["--classes", TEN, "--dataset", "mnist"], ["--dataset", "mnist", "cifar10"]),
}


@pytest.mark.parametrize("kind", UNTOLD)
def test_what_is_wrong_or_missing_of_a_published_checkpoint_is_named(kind, published, tmp_path):
    more, words = UNTOLD[kind]
    refused([*published("train_cifar_fix")[0], *more], words, tmp_path)


def test_the_missing_flag_is_named(published, saved, tmp_path):
    """Small-ImageNet-127's two sizes have the same network; two classes are of no published data set."""
    flags, _ = published("train_small_imagenet127_fix_cossl")
    refused(flags, ["--img_size: ", "32 or 64 pixels; give it"], tmp_path)
    other = saved(facts=None, arguments=None)
    flags = ["--checkpoint", other, tmp_path / "images", "--classes", "a,b"]
    refused(flags, ["--dataset: ", "give the one that they were prepared as: cifar10"], tmp_path)
    assert_runs("predict.py", *flags, "--dataset", "cifar10", "--out", tmp_path / "out.csv", *CPU)


@pytest.mark.parametrize("flag", [["--classes", "a,b"], ["--labelled_counts", "9,1"], ["--img_size", 32]])
def test_a_checkpoint_that_tells_is_not_told(flag, saved, tmp_path):
    write_image(tmp_path / "1.png", 1)
    refused(["--checkpoint", saved(), tmp_path / "1.png", *flag], [f"{flag[0]}: ", f"leave {flag[0]} out"], tmp_path)

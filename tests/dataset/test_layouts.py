"""Where a user's images may lie: class folders alone, or a CSV; without unlabelled images, without a test set."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.own_images import image_folder, write_image
from helpers.scripts import assert_refused, assert_runs, load_checkpoint, run_here, summary

from dataset.folder import load_folder
from dataset.held_out import held_out
from dataset.image_files import image_files, read_images
from dataset.layouts import list_images
from utils.errors import UserError

FIX, FIX_COSSL, SUPERVISED = "train_cifar_fix.py", "train_cifar_fix_cossl.py", "train_cifar_supervised.py"
FLAGS = "--dataset folder --img_size 16 --gpu cpu --depth 10 --width 1 --batch-size 4 --ema-decay 0.9 --val-iteration 2"
FLAGS = [*FLAGS.split(), "--epoch", 2]


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "data")


@pytest.fixture
def alone(folder):
    """Class folders with labelled images, and nothing beside them."""
    shutil.move(folder / "labelled", folder.parent / "alone")
    return folder.parent / "alone"


def csv_of(folder, name="images.csv", quote='"', more=""):
    """All images of the folder, in a CSV beside its parts."""
    lines = ["path,label,split"]
    for path in sorted(folder.rglob("*.*g")):
        part, *names = path.relative_to(folder).parts
        label = "" if part == "unlabelled" else f"{quote}{names[0]}{quote}"
        lines.append(f"{path.relative_to(folder)},{label},{'test' if part == 'test' else ''}")
    (folder / name).write_text("\n".join(lines) + "\n" + more)
    return folder / name


def same_data(a, b):
    for now, then in zip((*a[0].train, *a[0].test, *a[1]), (*b[0].train, *b[0].test, *b[1]), strict=True):
        np.testing.assert_array_equal(now, then)
    assert a[0].classes == b[0].classes and (a[0].mean, a[0].std) == (b[0].mean, b[0].std)


@pytest.mark.parametrize("include_labelled", [False, True])
def test_a_csv_is_the_folder_that_it_lists(folder, include_labelled):
    same_data(
        load_folder(csv_of(folder), 16, include_labelled, False), load_folder(folder, 16, include_labelled, False)
    )


def test_a_csv_as_other_programs_write_it(folder, monkeypatch):
    """With a byte order mark, Windows' ends of lines, columns in another order, spaces, quotes, absolute paths, empty
    lines, and a name in two of Unicode's forms.
    """
    for name in ("a, b.png", "c.png", "d.png"):
        write_image(folder / name, 1)
    lines = ["label , path", 'k\u00e4fer,"a, b.png"', f'"dog ",{folder / "c.png"}', "", " ,d.png", ","]
    lines += ["ka\u0308fer,labelled/cat/0.png"]
    (folder / "odd.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    monkeypatch.chdir(folder.parent)
    found = list_images(folder.relative_to(folder.parent) / "odd.csv", False)
    assert found.classes == ("dog", "k\u00e4fer")
    assert [path.resolve() for path in found.labelled.paths] == [
        folder / "a, b.png",
        folder / "c.png",
        folder / "labelled" / "cat" / "0.png",
    ]
    assert found.labelled.labels == [1, 0, 1]
    assert (found.unlabelled.labels, found.test.paths) == ([-1], [])


def test_names_of_files_in_a_csv_need_not_be_unicode(folder):
    """But labels must be, and what names no file."""
    (folder / "labelled" / "cat" / "0.png").rename(folder / os.fsdecode(b"\xe9.png"))
    (folder / "odd.csv").write_bytes(b"path,label\n\xe9.png,cat\nlabelled/dog/0.png,dog\n")
    assert [path.name for path in list_images(folder / "odd.csv", False).labelled.paths] == ["\udce9.png", "0.png"]
    for row in (b"labelled/cat/1.png,\xe9", b"\xe8.png,cat"):
        (folder / "wrong.csv").write_bytes(b"path,label\nlabelled/dog/0.png,dog\n" + row)
        with pytest.raises(UserError, match="not text in UTF-8"):
            list_images(folder / "wrong.csv", True)


def test_an_image_twice_in_a_csv_is_seen_from_any_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("odd.csv").write_text(f"{HEADER}{TWO}{folder / 'labelled' / 'cat' / '0.png'},dog\n")
    with pytest.raises(UserError, match=r"line 4.* is on line 2, too"):
        list_images(Path("odd.csv"), False)


HEADER = "path,label\n"
TWO = "labelled/cat/0.png,cat\nlabelled/dog/0.png,dog\n"
WRONG = {
    "empty": ("", ["must be path,label"]),
    "other columns": ("file,class\n" + TWO, ["first line is 'file,class'", "must be path,label"]),
    "one column too many": ("path,label,size\n" + TWO, ["first line is 'path,label,size'"]),
    "a column twice": ("path,label,label\n" + TWO, ["first line is 'path,label,label'"]),
    "semicolons": (HEADER.replace(",", ";"), ["first line is 'path;label'", "with commas"]),
    "no header": (TWO, ["first line is 'labelled/cat/0.png,cat'"]),
    "no labels": (HEADER + "labelled/cat/0.png,\n", ["labelled images of 0 classes"]),
    "one class": (HEADER + "labelled/cat/0.png,cat\n", ["labelled images of 1 classes"]),
    "only a header": (HEADER, ["labelled images of 0 classes"]),
    "no such image": (HEADER + TWO + "labelled/cat/99.png,cat\n", ["line 4", "labelled/cat/99.png: no such file"]),
    "a folder": (HEADER + TWO + "labelled/cat,cat\n", ["line 4", "labelled/cat: no such file"]),
    "a name too long": (HEADER + TWO + "x" * 300 + ".png,cat\n", ["line 4", "x.png: no such file"]),
    "no path": (HEADER + TWO + ",cat\n", ["line 4: has no path"]),
    "twice": (HEADER + TWO + "./labelled/../labelled/cat/0.png,dog\n", ["line 4", "is on line 2, too"]),
    "too few cells": (HEADER + "labelled/cat/0.png\n", ["line 2: has 1 cells, and needs 2"]),
    "too many cells": (HEADER + "a, b.png,cat\n", ["line 2: has 3 cells, and needs 2", "quotes"]),
    "open quote": (HEADER + TWO + '"labelled/cat/1.png,cat\n', ["line 4: not CSV"]),
    "split": ("path,label,split\nlabelled/cat/0.png,cat,val\n", ["line 2: split is 'val'", "train, test or empty"]),
    "test without a label": ("path,label,split\nlabelled/cat/0.png,,test\n", ["line 2", "has no label"]),
    "unknown test class": (
        "path,label,split\n" + TWO.replace("\n", ",train\n") + "test/cat/0.png,eel,test\n",
        ["classes that no labelled image has: eel"],
    ),
    "no test": (HEADER + TWO, ["images.csv: has no test images", "--holdout 0.2"]),
    "nothing to hold out": (HEADER + TWO, ["--holdout 0.5: no class has two labelled images"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_csv(name, folder, tmp_path):
    text, words = WRONG[name]
    (folder / "images.csv").write_text(text)
    flags = [*FLAGS, *(["--holdout", 0.5] if "hold" in name else [])]
    result = run_here(FIX, *flags, "--data_root", folder / "images.csv", "--out", tmp_path / "out")
    assert_refused(result, "images.csv" if "hold" not in name else "--holdout", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_csv_in_another_encoding(encoding, folder, tmp_path):
    (folder / "images.csv").write_bytes((HEADER + TWO + "x.png,k\u00e4fer\n").encode(encoding))
    result = run_here(FIX, *FLAGS, "--data_root", folder / "images.csv", "--out", tmp_path / "out")
    assert_refused(result, "images.csv: not text in UTF-8")


def test_images_of_a_csv_that_cannot_be_read(folder, tmp_path):
    """Named, or left out with those that aren't there."""
    file = csv_of(folder, more="gone.png,cat,\n")
    (folder / "unlabelled" / "c0.jpg").write_bytes(b"no image")
    flags = [*FLAGS, "--data_root", file, "--out", tmp_path / "out"]
    assert_refused(run_here(FIX, *flags), "gone.png: no such file", "--skip_corrupt")
    result = assert_runs(FIX, *flags, "--skip_corrupt")
    assert all(name in result.stderr for name in ("gone.png", "c0.jpg"))


def test_class_folders_alone_are_labelled(alone):
    dataset, split = load_folder(alone, 16, True, False, 0.25, 3)
    assert dataset.classes == ("cat", "dog")
    assert split.counts.tolist() == [4, 3]
    assert np.bincount(dataset.held_out.labels).tolist() == [2, 1]
    assert dataset.test is dataset.held_out
    assert split.unlabelled.tolist() == split.labelled.tolist() == list(range(7))
    pixels, kept = read_images(image_files(alone), 16, False)
    parts = sorted(image.tobytes() for image in (*dataset.train.pixels, *dataset.held_out.pixels))
    assert len(kept) == 10 and parts == sorted(image.tobytes() for image in pixels)


@pytest.mark.parametrize("name", ["unlabelled", "test"])
def test_folders_that_are_parts_are_no_classes(name, alone):
    write_image(alone / name / "1.png", 0)
    with pytest.raises(UserError, match="alone/labelled: no such folder"):
        list_images(alone, False)


@pytest.mark.parametrize(
    ("names", "wrong", "meant"),
    [
        (["unlabeled"], "unlabeled", "unlabelled"),
        (["labelled", "unlabeled"], "unlabeled", "unlabelled"),
        (["labelled", "test", "val"], "val", "test"),
        (["Labelled", "Unlabelled"], "Labelled", "labelled"),
        (["train", "test"], "train", "labelled"),
        (["train", "valid"], "train", "labelled"),
        (["Labelled"], "Labelled", "labelled"),
    ],
)
def test_folders_that_resemble_parts_are_refused(names, wrong, meant, alone):
    for name in names:
        write_image(alone / name / "cat" / "1.png", 0)
    with pytest.raises(UserError, match=rf"alone/{wrong}: such folders .*; rename it to {meant}, or move"):
        list_images(alone, False)


@pytest.mark.parametrize("name", ["train", "Valid", "contest"])
def test_names_that_may_be_classes(name, alone):
    write_image(alone / name / "1.png", 0)
    (alone / "test").write_text("a file")
    assert set(list_images(alone, False).classes) == {"cat", "dog", name}


def test_an_image_beside_class_folders(alone):
    write_image(alone / "1.png", 0)
    with pytest.raises(UserError, match=r"alone/1.png: lies in no class folder; move it into one$"):
        list_images(alone, False)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.25, 0.5, 0.99])
def test_what_is_held_out_of_each_class(share):
    """By a slow count; the same for the same seed, and for a class whatever the others are."""
    labels = np.repeat([0, 1, 2, 3, 4], [1, 2, 3, 10, 101])
    chosen = held_out(labels, share, 7)
    for c, n in enumerate((1, 2, 3, 10, 101)):
        expected = 0 if n == 1 else max(1, min(n - 1, round(share * n)))
        assert chosen[labels == c].sum() == expected
    np.testing.assert_array_equal(chosen, held_out(labels, share, 7))
    np.testing.assert_array_equal(chosen[1:], held_out(labels[1:], share, 7))
    assert (chosen != held_out(labels, share, 8)).any()
    assert share > 0.9 or (np.flatnonzero(chosen[-101:]) != np.arange(chosen[-101:].sum())).any()


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "1.5", "nan", "a"])
def test_no_share(value):
    assert_refused(run_here(FIX, *FLAGS, "--holdout", value), "--holdout", "above 0 and below 1")


def test_a_data_set_that_has_a_test_set(tmp_path):
    result = run_here(FIX, "--dataset", "digits", "--gpu", "cpu", "--holdout", 0.2, "--out", tmp_path / "out")
    assert_refused(result, "--holdout: only of --dataset folder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("script", [FIX, "train_cifar_mix.py", "train_cifar_remix.py", SUPERVISED])
def test_no_unlabelled_images(script, emptied, folder, tmp_path):
    """The labelled ones take their place, which is said."""
    shutil.rmtree(folder / "unlabelled")
    if emptied:
        (folder / "unlabelled").mkdir()
    result = assert_runs(script, *FLAGS, "--data_root", folder, "--out", tmp_path / "out")
    assert "no unlabelled images: methods that need some get the labelled ones" in result.stdout
    found = summary(tmp_path / "out")
    assert found["unlabelled"] == 10 and found["unlabelled_counts"] == found["labelled_counts"] == [6, 4]
    assert "held_out_counts" not in found and found.get("evaluated_on", "test") == "test"


def test_both_stages_without_a_test_set(alone, tmp_path):
    """All that is told of the figures says that they are of the held-out part."""
    flags = [*FLAGS, "--data_root", alone, "--holdout", 0.25]
    first = assert_runs(FIX, *flags, "--out", tmp_path / "first")
    start = ["--resume", tmp_path / "first" / "checkpoint.pth.tar", "--warm_tfe", 1]
    second = assert_runs(FIX_COSSL, *flags, *start, "--out", tmp_path / "second")
    for result, out in ((first, "first"), (second, "second")):
        words = "--holdout 0.25: 3 of 10 labelled images are held out, 1 to 2 a class; there is no test set"
        assert words in result.stdout
        last, mean, _ = result.stdout.splitlines()[-3:]
        assert last.startswith("last epoch: held-out balanced accuracy")
        assert mean.startswith("mean held-out balanced accuracy") and "chosen on the held-out part itself" in mean
        assert "test set)" not in result.stdout
        facts = {"held_out_counts": [2, 1], "labelled_counts": [4, 3], "evaluated_on": "held-out", "unlabelled": 7}
        assert facts.items() <= summary(tmp_path / out).items()
        assert facts.items() <= load_checkpoint(tmp_path / out / "checkpoint.pth.tar")["facts"].items()


def test_a_class_of_one_image_has_none_held_out(alone, tmp_path):
    write_image(alone / "eel" / "0.png", 9)
    result = assert_runs(FIX, *FLAGS, "--data_root", alone, "--holdout", 0.25, "--out", tmp_path / "out")
    assert "3 of 11 labelled images are held out, 1 to 2 a class, none of the 1 with one image; " in result.stdout
    assert summary(tmp_path / "out")["last_epoch"]["recall"][2] is None


OTHERWISE = {
    "share": (["--holdout", 0.5], "--holdout (0.25 there, 0.5 now)"),
    "seed": (["--holdout", 0.25, "--manualSeed", 5], "--manualSeed (0 there, 5 now)"),
}


@pytest.mark.parametrize("change", OTHERWISE)
def test_both_stages_hold_out_the_same(change, folder, tmp_path):
    """Else co-learning would be judged by images that its pre-training knows. Nor does a run go on otherwise."""
    others, words = OTHERWISE[change]
    flags = [*FLAGS, "--data_root", folder]
    assert_runs(FIX, *flags, "--holdout", 0.25, "--out", tmp_path / "first")
    start = ["--resume", tmp_path / "first" / "checkpoint.pth.tar", "--warm_tfe", 1, "--out", tmp_path / "second"]
    assert_refused(run_here(FIX_COSSL, *flags, *others, *start), "pre-trained otherwise", words)
    assert not (tmp_path / "second").exists()
    assert_refused(run_here(FIX, *flags, *others, "--out", tmp_path / "first"), "holds another run", words)


def test_images_that_were_added_since_pre_training(alone, tmp_path):
    flags = [*FLAGS, "--data_root", alone, "--holdout", 0.25]
    assert_runs(FIX, *flags, "--out", tmp_path / "first")
    write_image(alone / "dog" / "9.png", 3)
    write_image(alone / "dog" / "10.png", 4)
    start = ["--resume", tmp_path / "first" / "checkpoint.pth.tar", "--warm_tfe", 1, "--out", tmp_path / "second"]
    assert_refused(run_here(FIX_COSSL, *flags, *start), "held out counts", "maybe on those that are held out now")
    assert_refused(run_here(FIX, *flags, "--out", tmp_path / "first"), "--data_root: not the images", "held out counts")


def test_images_that_were_renamed_since_are_other_ones_to_hold_out(alone, tmp_path):
    """Of as many in each class others are drawn, which the run has learned from."""
    flags, first = [*FLAGS, "--data_root", alone, "--holdout", 0.25], tmp_path / "first"
    assert_runs(FIX, *flags, "--out", first)
    assert_runs("floor.py", "--data_root", alone, "--img_size", 16, "--holdout", 0.25, "--out", tmp_path / "floor")
    key = json.loads((first / "summary.json").read_text())["held_out_files"]
    floor = json.loads((tmp_path / "floor" / "nearest_class_mean" / "summary.json").read_text())
    assert floor["held_out_files"] == key
    for name in ("cat", "dog"):
        (alone / name / "0.png").rename(alone / name / "z.png")
    start, other = ["--resume", first / "checkpoint.pth.tar", "--out", tmp_path / "second"], "held out files differ"
    assert_refused(run_here(FIX_COSSL, *flags, "--warm_tfe", 1, *start), other, "maybe on those that are held out now")
    assert_refused(run_here(FIX, *flags, "--epochs", 2, "--out", first), "--data_root: not the images", other)
    shifted = ["eval_shifted_test_distribution.py", first, "--gpu", "cpu", "--out", tmp_path / "shifted"]
    assert_refused(run_here(*shifted), "may have been trained on images that are held out now")
    page = ["--gallery", tmp_path / "g.html", "--out", tmp_path / "p.csv", "--gpu", "cpu"]
    assert_runs("predict.py", "--checkpoint", first / "checkpoint.pth.tar", alone, *page)
    assert "the run held out others of them" in (tmp_path / "g.html").read_text()


def test_a_run_goes_on_with_its_test_images_only(folder, tmp_path):
    flags = [*FLAGS, "--data_root", folder, "--out", tmp_path / "out"]
    assert_runs(FIX, *flags)
    (folder / "test" / "cat" / "0.png").rename(folder / "test" / "cat" / "z.png")
    assert_refused(run_here(FIX, *flags), "--data_root: not the images", "test files differ")


def test_generations_hold_out_the_same(folder, tmp_path):
    flags = [*FLAGS, "--data_root", folder, "--holdout", 0.25, "--num_generation", 2, "--out", tmp_path / "out"]
    assert_runs("train_cifar_fix_crest.py", *flags)
    found = [summary(tmp_path / "out" / f"generation_{g}") for g in (0, 1)]
    assert [one["held_out_counts"] for one in found] == [[2, 1]] * 2

"""floor.py and cache_features.py as a user runs them, and the report that sets the floor beside trained methods."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.made_runs import make_run
from helpers.own_images import image_folder
from helpers.scripts import (
    FIX,
    HANG,
    ROOT,
    TINY,
    assert_refused,
    assert_runs,
    environment,
    handed_to_fit,
    run_here,
    run_script,
    summary,
)

import floor
from dataset.floor_data import floor_data
from dataset.folder import load_folder
from methods.floors import nearest_class_mean
from reporting.groups import group
from reporting.headline import floor_verdict, headline
from reporting.runs import find_runs
from reporting.trained import load_model

FLOORS = ["logistic_regression", "nearest_class_mean"]
DIGITS = ["--dataset", "digits", "--num_max", 40, "--imb_ratio_l", 20, "--imb_ratio_u", 20, "--manualSeed", 1]
SHARED = ("classes", "labelled_counts", "held_out_counts", "evaluated_on")


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


def test_the_images_are_those_of_a_recipe(images, tmp_path):
    """Recall of the nearest class mean by a loop over the arrays of `load_folder`."""
    assert_runs("floor.py", "--data_root", images, "--img_size", 24, "--out", tmp_path / "out")
    data, split = load_folder(images, 24, True, False)
    x, y = (part[split.labelled].astype(float) for part in data.train)
    means = [np.mean([a for a, label in zip(x, y, strict=True) if label == c], axis=0) for c in (0, 1)]
    guesses = [int(np.argmin([((image - mean) ** 2).sum() for mean in means])) for image in data.test.pixels]
    found = summary(tmp_path / "out" / "nearest_class_mean")
    right = np.array(guesses) == data.test.labels
    assert found["last_epoch"]["recall"] == pytest.approx([100 * right[data.test.labels == c].mean() for c in (0, 1)])
    assert found["last_epoch"] == found["last_20_mean"] == found["best"]
    assert (found["img_size"], found["unlabelled"], found["floor"], found["status"]) == (24, 9, True, "finished")


@pytest.mark.parametrize(
    "case", ["three folders", "holdout", "holdout alone", "csv", "skipped", "skipped large", "digits"]
)
def test_its_facts_are_those_of_a_recipe(case, images, tmp_path):
    flags = ["--data_root", images, "--img_size", 16, "--manualSeed", 3]
    if "alone" in case:
        flags[1] = images.parent / "alone"
        shutil.copytree(images / "labelled", flags[1])
    if case == "csv":
        flags[1] = images / "images.csv"
        pairs = [(part, c) for part in ("labelled", "test") for c in ("cat", "dog")]
        names = [f"{part}/{c}/{i}.png,{c},{part}" for part, c in pairs for i in range(3)]
        flags[1].write_text("\n".join(["path,label,split", *names]).replace(",labelled", ",train") + "\n")
    if "skipped" in case:
        (images / "labelled" / "cat" / "3.png").write_bytes(b"no image")
    if "large" in case:  # whose files are held out before they are read
        flags[3] = 72
        shutil.rmtree(images / "test")
    flags += ["--holdout", 0.3] * ("holdout" in case or "large" in case) + ["--skip_corrupt"] * ("skipped" in case)
    flags = DIGITS if case == "digits" else ["--dataset", "folder", *flags]
    assert_runs("floor.py", *flags, "--out", tmp_path / "out")
    recipe = handed_to_fit(FIX, *flags, "--batch-size", 4, "--gpu", "cpu", "--out", tmp_path / "fix").data.facts()
    for name in FLOORS:
        found = summary(tmp_path / "out" / name)
        assert [found.get(key) for key in SHARED] == [recipe.get(key) for key in SHARED]


def test_what_is_held_out_is_what_a_recipe_holds_out(images, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(floor, "floor_data", lambda args: seen.append(floor_data(args)) or seen[0])
    shutil.rmtree(images / "test")
    flags = ["--data_root", images, "--img_size", 16, "--holdout", 0.4, "--manualSeed", 5]
    result = assert_runs("floor.py", *flags, "--out", tmp_path / "out")
    assert result.stdout.count("held-out balanced accuracy") == 2
    data, split = load_folder(images, 16, True, False, 0.4, 5)
    for places, part in ((seen[0].tested, data.test), (seen[0].labelled, data.train)):
        pixels = part.pixels[: len(places)].reshape(len(places), -1)
        np.testing.assert_array_equal(seen[0].read(places), pixels)
        np.testing.assert_array_equal(seen[0].labels[places], part.labels[: len(places)])
    assert len(split.labelled) == len(seen[0].labelled)


def test_a_folder_is_replaced_by_the_same_floor_alone(images, tmp_path):
    flags, out = ["--data_root", images, "--img_size", 16], tmp_path / "out"
    assert_runs("floor.py", *flags, "--out", out)
    before = summary(out / "nearest_class_mean")
    assert_runs("floor.py", *flags, "--out", out)
    assert summary(out / "nearest_class_mean") == before
    other = [*flags[:-1], 24, "--out", out]
    assert_refused(run_here("floor.py", *other), "--img_size (16 there, 24 now)", "--overwrite")
    assert summary(out / "nearest_class_mean") == before
    assert_runs("floor.py", *other, "--overwrite")
    assert summary(out / "nearest_class_mean")["img_size"] == 24
    old = make_run(tmp_path / "new" / "nearest_class_mean")
    assert_refused(run_here("floor.py", *flags, "--out", tmp_path / "new"), "holds another run: checkpoint.pth.tar")
    assert not (tmp_path / "new" / "logistic_regression").exists()
    assert_runs("floor.py", *flags, "--out", tmp_path / "new", "--overwrite")
    assert [path.name for path in old.iterdir()] == ["summary.json"]
    tiny = ["--gpu", "cpu", *DIGITS, "--depth", 10, "--width", 1, "--epoch", 1, "--val-iteration", 1]
    assert_refused(run_here(FIX, *tiny, "--out", out / "nearest_class_mean"), "holds summary.json of another run")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data_root {tmp}/nowhere", "no such folder"),
        ("--data_root {tmp}/images --holdout 0.2 --dataset digits", "--holdout: only of --dataset folder"),
        ("--data_root {tmp}/images/labelled", "has no test images; add some, or give --holdout"),
        ("--data_root {tmp}/images --features {tmp}/nowhere.npy", "--features"),
        ("--data_root {tmp}/images --features {tmp}/few.npy", "has 24 rows for 25 images"),
        ("--data_root {tmp}/images --features {tmp}/few.npy --skip_corrupt", "has 24 rows for 25 images"),
        ("--dataset digits --num_max 9 --imb_ratio_l 1 --features {tmp}/few.npy", "has 24 rows for 1797 images"),
        ("--data_root {tmp}/damaged", "not a readable image"),
        ("--data_root {tmp}/damaged --skip_corrupt", "no image of class bad can be read"),
    ],
)
def test_what_is_refused_leaves_nothing(flags, words, images, tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.ones((24, 2)))
    shutil.copytree(images, tmp_path / "damaged")
    (tmp_path / "damaged" / "labelled" / "bad").mkdir()
    (tmp_path / "damaged" / "labelled" / "bad" / "1.png").write_bytes(b"no image")
    result = run_here("floor.py", *flags.format(tmp=tmp_path).split(), "--img_size", 16, "--out", tmp_path / "out")
    assert result.returncode == 2 and words in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) == 1 + ("skip_corrupt" in flags and "damaged" in flags)
    assert not (tmp_path / "out").exists()


def test_damaged_images_are_left_out_of_the_features_too(images, tmp_path, monkeypatch):
    """As without them: the rows that there are of the others."""
    seen = []
    monkeypatch.setattr(floor, "floor_data", lambda args: seen.append(floor_data(args)) or seen[-1])
    rows = np.random.default_rng(0).normal(size=(25, 2))
    rows[[3, 12, 20]] = np.nan  # a labelled, an unlabelled and a test image
    np.save(tmp_path / "f.npy", rows)
    flags = ["--data_root", images, "--img_size", 16, "--features", tmp_path / "f.npy", "--out", tmp_path / "out"]
    assert_refused(run_here("floor.py", *flags), "row 3 ", "--skip_corrupt")
    assert_runs("floor.py", *flags, "--skip_corrupt")
    (data,) = seen
    places = [part.tolist() for part in (data.labelled, data.unlabelled, data.tested)]
    assert places == [[*range(3), *range(4, 10)], [10, 11, *range(13, 19)], [19, *range(21, 25)]]
    np.testing.assert_allclose(data.read(data.tested), rows[data.tested], rtol=1e-6)
    assert summary(tmp_path / "out" / "tfe_head")["labelled_counts"] == [5, 4]


@pytest.mark.parametrize("by", ["features", "pixels"])
def test_a_test_part_that_cannot_be_read(by, images, tmp_path):
    flags = ["--data_root", images, "--img_size", 72, "--skip_corrupt", "--out", tmp_path / "out"]
    if by == "features":
        rows = np.random.default_rng(0).normal(size=(25, 2))
        rows[19:] = np.nan
        np.save(tmp_path / "f.npy", rows)
        flags += ["--features", tmp_path / "f.npy"]
    else:
        for path in (images / "test").rglob("*.*g"):
            path.write_bytes(b"no image")
    result = run_here("floor.py", *flags)
    assert result.returncode == 2 and "none of its test images can be read" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_features_of_a_network_that_has_seen_what_is_held_out(images, tmp_path, monkeypatch):
    """Refused, but for a network of other classes, and where there are test images."""
    monkeypatch.setattr(floor, "tfe_head", lambda x, y, **_: nearest_class_mean(x, y))  # which is quicker
    shutil.copytree(images, tmp_path / "apart")
    shutil.rmtree(images / "test")
    data = ["--data_root", images, "--img_size", 16, "--holdout", 0.3, "--manualSeed"]
    train = ["--dataset", "folder", "--gpu", "cpu", "--depth", 10, "--width", 1, "--batch-size", 2]
    train += ["--epochs", 1, "--val-iteration", 1]
    assert_runs("train_cifar_supervised.py", *train, *data, 4, "--out", tmp_path / "run")
    for place in (images, tmp_path / "apart"):
        cache = [place, "--checkpoint", tmp_path / "run" / "checkpoint.pth.tar", "--gpu", "cpu"]
        assert_runs("cache_features.py", *cache, "--out", place.with_suffix(".npy"))
    features = ["--features", images.with_suffix(".npy"), "--out", tmp_path / "out"]
    for other in ([*data, 5], [*data[:4], "--holdout", 0.4, "--manualSeed", 4]):
        assert_refused(run_here("floor.py", *other, *features), "--features", "may have learned from images held out")
    assert_runs("floor.py", *data, 4, *features)
    apart = ["--data_root", tmp_path / "apart", "--features", tmp_path / "apart.npy", "--out", tmp_path / "apart_out"]
    assert_runs("floor.py", *data, 5, *apart)
    beside = json.loads((about := images.with_suffix(".json")).read_text())
    beside["learned"]["classes"].append("one that has its folder no more")
    about.write_text(json.dumps(beside))
    assert_refused(run_here("floor.py", *data, 4, *features, "--overwrite"), "classes differ")
    beside["learned"]["classes"] = ["others"]
    about.write_text(json.dumps(beside))
    assert_runs("floor.py", *data, 5, *features, "--overwrite")


def test_floors_of_several_seeds_are_one_row_wherever_their_features_lie(tmp_path, monkeypatch):
    """And of several weights or sizes, or trainings, they are not."""
    monkeypatch.setattr(floor, "tfe_head", lambda x, y, **_: nearest_class_mean(x, y))  # which is quicker
    x = np.random.default_rng(0).normal(size=(1797, 3))
    runs = {"a": (1, "f" * 64, 32), "b": (2, "f" * 64, 32), "c": (1, "e" * 64, 32), "d": (1, "f" * 64, 64)}
    for name, (seed, weights, size) in runs.items():
        (place := tmp_path / name).mkdir()
        np.save(place / "f.npy", x)
        key = {"architecture": "resnet18", "weights": weights, "img_size": size, "rows": len(x), "files": ""}
        (place / "f.json").write_text(json.dumps(key))
        flags = [*DIGITS, "--manualSeed", seed, "--features", place / "f.npy"]
        assert_runs("floor.py", *flags, "--out", place / "floor")
    for name, (seed, training) in {"h": (1, "short"), "i": (2, "short"), "j": (3, "long")}.items():
        (place := tmp_path / name).mkdir()
        np.save(place / "f.npy", x)
        key = {"method": "FixMatch", "protocol": training, "rows": len(x), "files": ""}
        (place / "f.json").write_text(json.dumps(key))
        flags = [*DIGITS, "--manualSeed", seed, "--features", place / "f.npy"]
        assert_runs("floor.py", *flags, "--out", place / "floor")
    for name, (seed, values) in {"e": (1, x), "f": (2, x), "g": (1, -x)}.items():  # another program's
        (place := tmp_path / name).mkdir()
        np.save(place / "own.npy", values)
        flags = [*DIGITS, "--manualSeed", seed, "--features", place / "own.npy"]
        assert_runs("floor.py", *flags, "--out", place / "floor")
    found = [one for one in group(find_runs([tmp_path])) if one.method.startswith("nearest")]
    own, trained, groups = ([one for one in found if on in one.method] for on in ("own.npy", "FixMatch", "resnet18"))
    assert sorted(sorted(run.seed for run in one.runs) for one in own) == [[1], [1, 2]]
    assert sorted(sorted(run.seed for run in one.runs) for one in trained) == [[1, 2], [3]]
    assert sorted(sorted(run.seed for run in one.runs) for one in groups) == [[1], [1], [1, 2]]
    assert {words for one in groups for words in ("e" * 12, "64 pixels") if words in one.name} == {
        "e" * 12,
        "64 pixels",
    }


def test_features_among_the_images_are_refused(images):
    """A folder of them would be a class."""
    place = images / "labelled"
    flags = ["cache_features.py", place, "--arch", "resnet18", "--out", place / "features" / "f.npy"]
    assert_refused(run_here(*flags), "--out", "lies among the images")
    assert not (place / "features").exists()


@pytest.mark.parametrize("script", ["floor.py", FIX])
def test_results_among_the_images_are_refused(script, images):
    """There they would be a class, or images, from then on."""
    flags = ["--dataset", "folder", "--data_root", images / "test", "--holdout", 0.4, "--img_size", 16]
    assert_refused(run_here(script, *flags, "--out", images / "test" / "results"), "--out", "lies among the images")
    assert not (images / "test" / "results").exists()


@pytest.mark.slow
def test_features_of_a_trained_network_as_a_user_has_them(own_runs, tmp_path):
    """The rows are what the network makes of the images, after a kill, too."""
    checkpoint, out = own_runs / "results" / "cossl" / "checkpoint.pth.tar", tmp_path / "new" / "f.npy"
    flags = [own_runs / "images", "--checkpoint", checkpoint, "--gpu", "cpu", "--out"]
    killing = "import os, sys, dataset.feature_cache as cache, cache_features; cache.PART = 4; write = cache.to_json\n"
    killing += "def to_json(value): return os.kill(os.getpid(), 9) if value['rows'] == 12 else write(value)\n"
    killing += "cache.to_json = to_json; sys.argv[0] = 'cache_features.py'; cache_features.main()"
    argv = [sys.executable, "-c", killing, *map(str, flags), str(out)]
    assert subprocess.run(argv, cwd=ROOT, env=environment(), timeout=HANG, capture_output=True).returncode == -9
    assert json.loads(out.with_suffix(".json").read_text())["rows"] == 8
    done = run_script("cache_features.py", *flags, out)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"results: {out}"), done.stderr

    model = load_model(checkpoint, "", torch.device("cpu"))
    data, _ = load_folder(own_runs / "images", 24, True, False)
    x = torch.from_numpy(np.concatenate([data.train.pixels, data.test.pixels]))
    mean, std = (torch.tensor(model.facts[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        rows = model.predict.features((x / 255 - mean) / std)
    np.testing.assert_allclose(np.load(out), rows, rtol=2e-3, atol=2e-3)
    on = ["--data_root", own_runs / "images", "--img_size", 24, "--features", out]
    done = run_script("floor.py", *on, "--out", tmp_path / "floor")
    assert done.returncode == 0 and "TFE head on FixMatch+CoSSL's features: balanced accuracy" in done.stdout, (
        done.stderr
    )
    printed = assert_runs("report.py", own_runs / "results", tmp_path / "floor", "--out", tmp_path / "report").stdout
    assert printed.count("on FixMatch+CoSSL's features") >= 9 and "no checkpoint" not in printed
    assert "loor" not in printed.splitlines()[-1]
    groups = group(find_runs([own_runs / "results", tmp_path / "floor"]))
    assert not any(one.labelled_only for one in groups if "features" in one.method)  # it has seen the unlabelled images


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("{tmp}/nowhere --out {tmp}/f.npy", "no such folder"),
        ("{tmp}/images --out {tmp}/f.txt", "doesn't end in .npy"),
        ("{tmp}/damaged --out {tmp}/f.npy", "give --skip_corrupt"),
        ("{tmp}/images --out {tmp}/f.npy --img_size 64", "leave them out"),
        ("{tmp}/images --out {tmp}/f.npy --weights default", "leave them out"),
        ("{tmp}/images --out {tmp}/foreign.npy", "not written by cache_features.py"),
        ("{tmp}/images --out /proc/nowhere/f.npy", "--out"),
    ],
)
def test_what_cache_features_refuses(flags, words, own_runs, images, tmp_path):
    shutil.copytree(images, tmp_path / "damaged")
    (tmp_path / "damaged" / "labelled" / "cat" / "0.png").write_bytes(b"no image")
    np.save(tmp_path / "foreign.npy", np.ones((25, 2)))
    model = ["--checkpoint", own_runs / "results" / "fix" / "checkpoint.pth.tar", "--gpu", "cpu"]
    assert_refused(run_here("cache_features.py", *flags.format(tmp=tmp_path).split(), *model), words)
    assert not (tmp_path / "f.npy").exists() and len(np.load(tmp_path / "foreign.npy")) == 25


def test_the_report_says_that_the_floor_wins(tmp_path):
    """A FixMatch run of two steps knows nothing yet."""
    assert_runs(FIX, *TINY, "--epoch", 1, "--val-iteration", 2, "--out", tmp_path / "runs" / "fix")
    assert_runs("floor.py", *DIGITS, "--out", tmp_path / "runs" / "floor")
    printed = assert_runs("report.py", tmp_path / "runs", "--out", tmp_path / "report").stdout
    last = printed.splitlines()[-1]
    assert last.startswith("The floor wins: nearest class mean on pixels reaches 85.40 % balanced accuracy on digits, ")
    assert last.endswith(" points above FixMatch.") and "no checkpoint" not in printed
    assert last in (tmp_path / "report" / "report.html").read_text()
    groups = group(find_runs([tmp_path / "runs"]))
    assert len({(one.dataset, one.setting) for one in groups}) == 1 and len(groups) == 3
    tables = (tmp_path / "report" / "tables.md").read_text()
    assert "mean of the last 1 epoch" in tables and "last 0" not in tables


@pytest.mark.parametrize("level", [60, 70, 80])
def test_the_supervised_run_is_a_floor(level, tmp_path):
    """At equal figures the floor wins, too: what a method adds is nothing."""
    make_run(tmp_path / "a", "supervised", 70, start=0)
    make_run(tmp_path / "b", "FixMatch", 55, start=0)
    make_run(tmp_path / "c", level=level)
    groups = group(find_runs([tmp_path]))
    setting = "cifar10, γ 100, num_max 1500, ratio 2"
    reached = f"supervised reaches 69.00 % balanced accuracy on {setting}"
    expected = {
        60: f"The floor wins: {reached}, 10.00 points above FixMatch+CoSSL.",
        70: f"The floor wins: {reached}, as much as FixMatch+CoSSL.",
        80: f"The floor, {reached.replace(' reaches', ', reaches')}; FixMatch+CoSSL is 10.00 points above it.",
    }[level]
    assert floor_verdict(groups) == expected and headline(groups).endswith(expected)
    assert floor_verdict([one for one in groups if one.method != "supervised"]) == ""
    assert floor_verdict([one for one in groups if one.method == "supervised"]) == ""


def test_a_table_of_floors_alone(tmp_path):
    assert_runs("floor.py", *DIGITS, "--out", tmp_path / "floor")
    printed = assert_runs("report.py", tmp_path / "floor", "--out", tmp_path / "report").stdout
    assert printed.splitlines()[-1].startswith("report of 2 runs")
    assert "Test figures in percent, mean of the last epochs, mean ±" in printed

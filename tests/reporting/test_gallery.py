"""The gallery: which images it chooses, what it measures them by, and a page that is whole whatever the names."""

import base64
import csv
import io
import json
import os
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import CHROMIUM, DRIVER, browser
from helpers.own_images import image_folder, write_image
from helpers.scripts import assert_refused, assert_runs, load_checkpoint, run_here
from PIL import Image

from dataset.folder import load_folder
from dataset.image_files import image_files
from models.wrn import WideResNet
from reporting.predictions import Predictions, class_means, predict_files
from reporting.predictor import Predictor
from reporting.reference import reference_of
from reporting.selection import ALIKE, MOST_TO_LABEL, mistakes, spread, to_label, unlike
from reporting.thumbnails import SIDE, thumbnails
from reporting.trained import load_model

CPU = ["--gpu", "cpu"]
RUN = ["--dataset", "folder", "--img_size", 16, "--depth", 10, "--width", 1, *CPU]
RUN += ["--batch-size", 4, "--epoch", 1, "--val-iteration", 2, "--holdout", 0.3, "--manualSeed", 5]
LOOK = {"img_size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def made(rng, n, classes, alike=()):
    """Predictions of random images; alike: (i, j), of which j is i again with some noise."""
    rows = rng.dirichlet(np.full(classes, 0.5), n).astype(np.float32)
    order = np.argsort(-rows, axis=1)[:, :3]
    grey = rng.integers(0, 256, (n, 16, 16), dtype=np.uint8)
    for i, j in alike:
        grey[j] = np.clip(grey[i] * 0.9 + rng.normal(0, 9, (16, 16)), 0, 255)
    files = [Path(f"{i}.png") for i in range(n)]
    return Predictions(files, order, np.take_along_axis(rows, order, 1), rng.random(n, np.float32), grey)


@pytest.mark.parametrize("per_class", [1, 3, 50])
def test_what_to_label_is_what_a_slow_loop_finds(per_class):
    rng = np.random.default_rng(per_class)
    pairs = [(i, i + 60) for i in range(0, 60, 2)]
    predictions = made(rng, 120, 4, pairs)
    by_margin = sorted(range(120), key=lambda i: predictions.probabilities[i, 0] - predictions.probabilities[i, 1])
    chosen, passed = [], 0
    for i in by_margin:
        of_class = [j for j in chosen if predictions.classes[j, 0] == predictions.classes[i, 0]]
        if len(of_class) < per_class:
            grey = predictions.grey.reshape(120, -1).astype(float)
            if any(np.corrcoef(grey[i], grey[j])[0, 1] >= ALIKE for j in chosen):
                passed += 1
            else:
                chosen.append(i)
    assert to_label(predictions, per_class) == (chosen, passed)
    assert not any(i in chosen and j in chosen for i, j in pairs)
    assert per_class < 50 or (passed, len(chosen)) == (30, 90)


def test_even_images_are_near_duplicates_and_many_are_not_all_listed():
    predictions = made(np.random.default_rng(0), MOST_TO_LABEL + 90, 3)
    assert len(to_label(predictions, 10**6)[0]) == MOST_TO_LABEL
    few = made(np.random.default_rng(0), 4, 3)
    few.grey[:3] = np.array([0, 90, 255], np.uint8)[:, None, None]
    chosen, passed = to_label(few, 9)
    assert (len(chosen), passed, 3 in chosen) == (2, 2, True)


def test_by_class_from_the_most_to_the_least_confident():
    predictions = made(np.random.default_rng(1), 200, 3)
    for c in range(3):
        members = [i for i in range(200) if predictions.classes[i, 0] == c]
        members.sort(key=lambda i: -predictions.probabilities[i, 0])
        some = spread(predictions, c, 7)
        ranks = [members.index(i) for i in some]
        assert (len(some), ranks[0], ranks[-1]) == (7, 0, len(members) - 1)
        assert set(np.diff(ranks)) <= {(len(members) - 1) // 6, (len(members) - 1) // 6 + 1}
        assert spread(predictions, c, 1000) == members
        assert spread(predictions, c, 1) == members[:1]


def test_the_strange_and_the_mistaken():
    predictions, labels = made(np.random.default_rng(2), 90, 3), np.random.default_rng(3).integers(0, 3, 90)
    beyond = unlike(predictions.distance, 0.7)
    assert sorted(beyond) == [i for i in range(90) if predictions.distance[i] > 0.7]
    assert (np.diff(predictions.distance[beyond]) <= 0).all()
    wrong = mistakes(predictions, labels)
    assert sorted(wrong) == [i for i in range(90) if predictions.classes[i, 0] != labels[i]]
    assert (np.diff(predictions.probabilities[wrong, 0]) <= 0).all()


@pytest.mark.parametrize("labels", [[0, 3, 0, 3, 0, 0, 3], None], ids=["labels", "likeliest classes"])
def test_distances_from_class_means(labels, tmp_path):
    """Image by image, in float64; a class without images has no mean; batches don't matter."""
    torch.manual_seed(0)
    network = WideResNet(4, 10, 1)
    predictor = Predictor(network, LOOK)
    files = [tmp_path / f"{i}.png" for i in range(7)]
    for i, file in enumerate(files):
        write_image(file, i, (16 + i, 20))
    features = predictor.features(predictor.read(files)[0]).double()
    likeliest = predictor(predictor.read(files)[0]).argmax(dim=1).tolist()
    of_class = {}
    for row, c in zip(features, labels or likeliest, strict=True):
        of_class.setdefault(c, []).append(row)
    expected = [torch.stack(rows).mean(dim=0) for _, rows in sorted(of_class.items())]
    means, n = class_means(predictor, files, labels, 3, False)
    assert (len(means), n) == (len(expected), 7)
    found = predict_files(predictor, files, 2, False, means)
    for row, distance in zip(features, found.distance, strict=True):
        nearest = max(float(row @ mean / (row.norm() * mean.norm())) for mean in expected)
        assert distance == pytest.approx(1 - nearest, abs=1e-6)
    assert found.classes[:, 0].tolist() == likeliest


def test_thumbnails(tmp_path):
    """The whole image, upright, small; of a file that has gone, a picture that shows its name instead."""
    write_image(tmp_path / "wide.jpg", 1, (300, 100), turned=6)
    write_image(tmp_path / "small.png", 2, (20, 10), mode="RGBA")
    write_image(tmp_path / "grey.png", 3, (20, 10), mode="I;16")
    (tmp_path / "bad.png").write_bytes(b"no image")
    files = [tmp_path / name for name in ("wide.jpg", "small.png", "grey.png", "bad.png", "wide.jpg", "gone.png")]
    found = thumbnails(files)
    assert [found.pop(tmp_path / name) for name in ("bad.png", "gone.png")] == ["data:,"] * 2
    images = {path.name: Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for path, uri in found.items()}
    sizes = {name: image.size for name, image in images.items()}
    assert sizes == {"wide.jpg": (SIDE // 3, SIDE), "small.png": (20, 10), "grey.png": (20, 10)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images, two of them damaged, and a run on it with a held-out part and a test part."""
    root = tmp_path_factory.mktemp("gallery")
    folder = image_folder(root / "data")
    for path in ("labelled/cat/3.png", "labelled/dog/0.png"):
        (folder / path).write_bytes(b"no image")
    assert_runs("train_cifar_fix.py", *RUN, "--data_root", folder, "--skip_corrupt", "--out", root / "run")
    return root


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of these, that a test may change, with paths from the folder that it is in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    state = load_checkpoint(Path("run/checkpoint.pth.tar"))
    state["arguments"]["data_root"] = "data"
    torch.save(state, "run/checkpoint.pth.tar")
    return state


def changed(state, *left_out, **entries):
    """Save the checkpoint of the run with other entries."""
    torch.save({k: v for k, v in {**state, **entries}.items() if k not in left_out}, "run/checkpoint.pth.tar")


def predicted(*flags, images="data/unlabelled"):
    """The page of a prediction, and its stdout."""
    out = ["--out", "new/out.csv", "--gallery", "new/page.html"]
    result = assert_runs("predict.py", "--checkpoint", "run/checkpoint.pth.tar", images, *out, *CPU, *flags)
    return Path("new/page.html").read_text(encoding="utf-8"), result


def section(page, name):
    return re.search(rf'<section id="{name}">.*?</section>', page, re.S)[0]


def cards(text):
    """Of each: file name, note, [(class, percent)]."""
    found = []
    for one in re.findall(r'<figure class="card">.*?</figure>', text, re.S):
        guesses = re.findall(r'<span class="guess"><span>(.*?)</span> <span>(.*?) %</span>', one)
        note = re.search(r'<span class="why">(.*?)</span>', one)
        found.append((unescape(re.search(r"<code>(.*?)</code>", one)[1]), note and note[1], guesses))
    return found


def of_run(model=None):
    model = model or load_model(Path("run/checkpoint.pth.tar"), "--checkpoint", torch.device("cpu"))
    predictor = Predictor(model.predict, model.facts)
    return reference_of(model, predictor, image_files(Path("data/unlabelled")), 4, False), predictor


def test_what_is_held_out_is_what_the_run_held_out(run):
    """Also where it has left out damaged files; the means are of what it learned from."""
    reference, predictor = of_run()
    evaluated = reference.evaluated
    dataset, split = load_folder(Path("data"), 16, False, True, 0.3, 5)
    pixels, _ = predictor.read(evaluated.predictions.files)
    np.testing.assert_array_equal(pixels, dataset.held_out.pixels)
    np.testing.assert_array_equal(evaluated.labels, dataset.held_out.labels)
    assert (evaluated.part, reference.images) == ("held-out", len(split.labelled))
    assert all(path.parts[:2] == ("data", "labelled") for path in evaluated.predictions.files)
    features = predictor.features(torch.from_numpy(dataset.train.pixels[split.labelled]))
    labels = dataset.train.labels[split.labelled]
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(2)])
    torch.testing.assert_close(reference.means, means / means.norm(dim=1, keepdim=True))


def test_mistakes_are_mistakes_and_of_the_held_out_part(run):
    page, _ = predicted()
    evaluated = of_run()[0].evaluated
    truth = {"/".join(path.parts[2:]): path.parent.name for path in evaluated.predictions.files}
    guess = dict(zip(truth, evaluated.predictions.classes[:, 0], strict=True))
    shown = cards(section(page, "mistakes"))
    assert {name for name, *_ in shown} == {name for name in truth if truth[name] != ["cat", "dog"][guess[name]]}
    assert shown and all(note == f"true: {truth[name]}" for name, note, _ in shown)
    confident = [float(guesses[0][1]) for *_, guesses in shown]
    assert confident == sorted(confident, reverse=True)
    words = " ".join(section(page, "mistakes").split())
    assert f"Of the {len(truth)} held-out images" in words and f"{len(shown)} are mistaken" in words
    names = list(truth.values())
    right = [truth[file] for file in truth if truth[file] == ["cat", "dog"][guess[file]]]
    balanced = np.mean([100 * right.count(name) / names.count(name) for name in set(names)])
    assert f"<b>{balanced:.1f} %</b> balanced accuracy, on {len(truth)} held-out images" in page
    (chart,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    for c, name in enumerate(chart["names"]):
        rows = [guess[file] for file in truth if truth[file] == name]
        assert chart["cells"][c] == [
            round(100 * rows.count(("cat", "dog").index(to)) / len(rows), 1) for to in chart["names"]
        ]


def without_held_out(run):
    """As if all that can be read had been learned from."""
    facts = {name: fact for name, fact in run["facts"].items() if name not in ("held_out_counts", "evaluated_on")}
    facts["labelled_counts"] = np.add(facts["labelled_counts"], run["facts"]["held_out_counts"]).tolist()
    changed(run, facts=facts)


def test_without_a_held_out_part_the_test_part(run):
    without_held_out(run)
    page, _ = predicted()
    assert "Mistakes on the test images" in page and "Of the 6 test images" in page
    assert "never trained on" not in page
    Path("data/test/cat/0.png").rename("data/test/cat/other.png")
    page, _ = predicted()
    assert not cards(section(page, "mistakes")) and "test images are not there any more, or not as" in page


REASONS = {
    "published code": (lambda run: changed(run, "facts", "arguments"), "is of the published code"),
    "another data set": (
        lambda run: changed(run, arguments=run["arguments"] | {"dataset": "digits"}),
        "was not trained on a folder of one&#39;s own images",
    ),
    "moved": (lambda run: Path("data/labelled").parent.rename("other"), "--data_root data is not there"),
    "another class": (lambda run: write_image(Path("data/labelled/eel/1.png"), 1), "has other classes now"),
    "another image": (lambda run: write_image(Path("data/labelled/cat/9.png"), 1), "data/labelled has other numbers"),
    "mended": (lambda run: write_image(Path("data/labelled/cat/3.png"), 1), "data/labelled has other numbers"),
    "another image, all learned from": (
        lambda run: (without_held_out(run), write_image(Path("data/labelled/cat/9.png"), 1)),
        "data/labelled has other numbers",
    ),
    "no test images any more": (
        lambda run: (without_held_out(run), shutil.rmtree("data/test")),
        "data/test: the run&#39;s test images are not there any more",
    ),
    "emptied": (lambda run: shutil.rmtree("data/labelled/dog"), "data/labelled: has 1 class folders"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_where_mistakes_cannot_be_had_the_page_says_why(kind, run):
    change, words = REASONS[kind]
    shutil.copytree("data/unlabelled", "images")
    change(run)
    told = ["--classes", "cat,dog", "--dataset", "cifar10", "--img_size", 16] if kind == "published code" else []
    page, _ = predicted(*told, images="images")
    assert words in " ".join(section(page, "mistakes").split())
    assert not cards(section(page, "mistakes")) and "held-out" not in page
    text = " ".join(section(page, "unlike").split())
    assert "The means are of 9 of the images given here" in text and "quantile of the images given here" in text
    assert len(cards(section(page, "unlike"))) == 1  # a twentieth of nine, rounded up


def test_the_threshold_is_the_one_that_is_stated(run):
    page, _ = predicted()
    reference, predictor = of_run()
    threshold = np.quantile(reference.evaluated.predictions.distance, 0.95)
    found = predict_files(predictor, image_files(Path("data/unlabelled")), 4, False, reference.means)
    beyond = {file.name for file, distance in zip(found.files, found.distance, strict=True) if distance > threshold}
    assert {name for name, *_ in cards(section(page, "unlike"))} == beyond
    text = " ".join(section(page, "unlike").split())
    assert f"threshold of {threshold:.3f}" in text and f"{len(beyond)} of 9 images are farther" in text
    assert "means are of the 5 labelled images that the network learned from" in text


def test_the_csv_is_the_same_with_a_gallery_and_agrees_with_it(run):
    page, result = predicted("--label_next", 2)
    assert result.stdout.splitlines()[-2:] == ["results: new/out.csv", "results: new/page.html"]
    flags = ["--checkpoint", "run/checkpoint.pth.tar", "data/unlabelled", "--out", "alone.csv", *CPU]
    assert_runs("predict.py", *flags)
    assert Path("alone.csv").read_bytes() == Path("new/out.csv").read_bytes()
    lines = Path("new/out.csv").read_text(encoding="utf-8").splitlines()
    rows = {Path(row["file"]).name: row for row in csv.DictReader(lines)}
    for part in ("next", "unlike", "classes"):
        for name, _, ((first, p), (second, _)) in cards(section(page, part)):
            assert (rows[name]["class"], rows[name]["class_2"]) == (first, second)
            assert float(p) == pytest.approx(100 * float(rows[name]["probability"]), abs=0.06)
    assert sorted(name for name, *_ in cards(section(page, "classes"))) == sorted(rows)
    chosen = cards(section(page, "next"))
    margin = {name: float(row["probability"]) - float(row["probability_2"]) for name, row in rows.items()}
    for c in ("cat", "dog"):
        members = sorted((name for name, row in rows.items() if row["class"] == c), key=margin.__getitem__)
        assert [name for name, _, guesses in chosen if guesses[0][0] == c] == members[:2]
    copied = re.search(r"<pre[^>]*>\n(.*?)</pre>", page, re.S)[1].splitlines()
    assert copied == [f"data/unlabelled/{name}" for name, *_ in chosen]


def check_alone(page):
    """That a page needs nothing else: no script of others' making, no address."""
    assert page.count("<script") == page.count("</script>") == 2
    assert set(re.findall(r'(?:src|href)="(?!#)([^,"]*)', page)) <= {"data:image/jpeg;base64", "data:"}
    assert "default-src 'none'" in page and not re.search(r"@import|url\(", page)
    assert all(c.isprintable() or c == "\n" for c in page)


def test_names_stay_names(run):
    """Of files, and of classes, given and of the run's own folder: what HTML or scripts would obey, or no Unicode."""
    classes = ['"><img src=http:x onerror=alert(1)>', "<|script><script>alert(1)<|script>h\udce9ron\n"]
    for part in ("labelled", "test"):
        for before, after in zip(("cat", "dog"), classes, strict=True):
            (Path("data") / part / before).rename(Path("data") / part / after)
    facts = run["facts"] | load_folder(Path("data"), 16, False, True, 0.3, 5)[0].files  # paths have changed, too
    changed(run, facts=facts | {"classes": classes})
    for i, name in enumerate(["<b>x.png", '" onerror="alert(1).png', os.fsdecode(b"h\xe9ron\n.png"), "a&amp;b.png"]):
        write_image(Path("images") / name, i)
    page, _ = predicted(images="images")
    check_alone(page)
    assert {name for name, *_ in cards(section(page, "classes"))} == {
        "<b>x.png",
        '" onerror="alert(1).png',
        "h\\udce9ron\\n.png",
        "a&amp;b.png",
    }
    assert "<b>x" not in page and "<img src=http" not in page and "<|script>" not in page
    assert cards(section(page, "mistakes")) and "h\\udce9ron\\n" in section(page, "mistakes")
    (chart,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert set(chart["names"]) == {classes[0], classes[1].replace("\udce9", "\\udce9").replace("\n", "\\n")}


def test_one_image(run):
    page, _ = predicted(images="data/unlabelled/c0.jpg")
    check_alone(page)
    assert "Predictions for 1 image</h1>" in page
    assert [len(cards(section(page, part))) for part in ("next", "classes")] == [1, 1]
    assert "No image is taken for: " in page


PLACES = {
    "page.txt": "a name that ends in .html",
    "folder.html": "not a file",
    "data/unlabelled/c0.jpg/page.html": "take another --gallery",
    "same.html": "is --out, too",
    "images/0.html": "would replace the checkpoint, an image or a CSV given",
}


def test_only_what_has_no_label_is_to_be_labelled_next(run):
    """Not what the run's own folder has in a class by now, whether the run had it or not."""
    write_image(Path("data/labelled/cat/9.png"), 77)
    page, _ = predicted("--skip_corrupt", images="data")
    shown = {name for name, *_ in cards(section(page, "next"))}
    assert shown and all(name.startswith("unlabelled/") for name in shown)
    assert "and 15 images that have a label already" in " ".join(section(page, "next").split())
    page, _ = predicted("--skip_corrupt", images="data/labelled")
    assert not cards(section(page, "next")) and "All images given here have a label already" in section(page, "next")
    write_image(Path("data/labelled/zebra/0.png"), 78)  # a new class of what was unlike any
    page, _ = predicted("--skip_corrupt", images="data/labelled")
    assert not cards(section(page, "next")) and "has other classes now" in section(page, "mistakes")


def test_a_list_of_images_is_not_replaced(run):
    Path("mine.csv").write_text("path,label\ndata/unlabelled/c1.jpg,cat\n")
    flags = ["--checkpoint", "run/checkpoint.pth.tar", "mine.csv", "--out", "mine.csv", *CPU]
    assert_refused(run_here("predict.py", *flags), "--out mine.csv", "a CSV given")
    assert Path("mine.csv").read_text().endswith(",cat\n")


@pytest.mark.parametrize("place", PLACES)
def test_a_page_replaces_nothing_else(place, run):
    Path("folder.html").mkdir()
    write_image(Path("images/0.html"), 1, format="PNG")
    before = Path("images/0.html").read_bytes()
    out = "same.html" if place == "same.html" else "new/out.csv"
    flags = ["--checkpoint", "run/checkpoint.pth.tar", "images/0.html", "--out", out, "--gallery", place, *CPU]
    named = place.removesuffix("/page.html")
    assert_refused(run_here("predict.py", *flags), f"--gallery {named}", PLACES[place])
    assert Path("images/0.html").read_bytes() == before and not Path("new").exists()
    assert_refused(run_here("predict.py", *flags, "--label_next", 0), "--label_next", "above 0")


def test_nothing_is_written_where_an_image_cannot_be_read(run):
    Path("data/unlabelled/c1.jpg").write_bytes(b"no image")
    flags = ["--checkpoint", "run/checkpoint.pth.tar", "data/unlabelled", "--out", "new/a.csv", *CPU]
    result = run_here("predict.py", *flags, "--gallery", "new/page.html")
    assert result.returncode == 2 and "c1.jpg: not a readable image" in result.stderr.splitlines()[-1]
    assert not Path("new").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver installed")
def test_the_gallery_in_a_browser(run, tmp_path):
    """Every picture is decoded, the matrix is drawn, no request is made; phones needn't scroll sideways."""
    write_image(Path("data/unlabelled") / f"{'long' * 40}.png", 1)
    predicted()
    with browser(tmp_path / "profile") as page:
        for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
            page.look(width, 3000, scheme)
            page.open(Path("new/page.html"))
            assert page.run("return document.documentElement.scrollWidth") == width
            loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)"
            assert page.run(loaded)
            assert page.run("return document.querySelector('.matrix svg.heat').textContent.includes('true class')")
        assert page.run("return [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
        assert page.console() == []

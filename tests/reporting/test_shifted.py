"""Shifted test sets: published class counts, the slow way's figures, intervals, known priors; the script, bad input."""

import csv
import hashlib
import io
import json
import shutil
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from helpers.data_files import write_cifar
from helpers.golden import golden
from helpers.own_images import image_folder, write_image
from helpers.scripts import FIX, SHORT, assert_refused, assert_runs, load_checkpoint, run_here
from PIL import Image

from dataset import load
from dataset.pixels import Pixels
from dataset.small_imagenet127 import load_small_imagenet
from dataset.stream import Stream
from eval_shifted_test_distribution import main
from models.wrn import WideResNet
from reporting.figures import COLOURS
from reporting.shifted import (
    RATIOS,
    accuracies,
    answers,
    area,
    interval,
    profiles,
    shifted_counts,
    shifted_figures,
)
from reporting.shifted_files import table, write
from reporting.shifted_picture import shifted_curves
from reporting.trained import load_model
from training.folder import discard_run
from utils.errors import UserError
from utils.metrics import evaluate

SCRIPT, CPU = "eval_shifted_test_distribution.py", ["--gpu", "cpu"]
COSSL = ["--epoch", 1, "--val-iteration", 3, "--warm_tfe", 1, "--max_lam", 0.6]
FILES = ["shifted.csv", "shifted.json", "shifted.png"]


def shuffled(sizes, seed=8):
    return np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def slow_subset(labels, order, ratio, n_max):
    """Indices of a shifted set, image by image."""
    present = [c for c in order if (labels == c).any()]
    index = []
    for i, c in enumerate(present if ratio > 0 else present[::-1]):
        room = int(n_max * (1 / abs(ratio)) ** (i / (len(present) - 1)) + 1e-9)
        index += np.flatnonzero(labels == c)[:room].tolist()
    return index


def test_the_published_sets():
    labels, order = shuffled([1000] * 10), np.arange(10)
    counts, shares = shifted_counts(labels, order), profiles(labels, order)
    right = np.random.default_rng(0).random((1, len(labels))) < 0.7
    top1 = accuracies(right, labels, counts, shares)["top1"]
    cases = golden("shifted_test.json")
    assert [case["gamma"] for case in cases] == list(RATIOS)
    for case, row, figure in zip(cases, counts, top1, strict=True):
        assert row.tolist() == case["counts"]
        index = slow_subset(labels, order, case["gamma"], 1000)
        assert len(index) == case["n"]
        index = sorted(index, key=lambda j: labels[j])  # the published indices stand class by class
        assert hashlib.sha256(np.array(index, dtype="<i8").tobytes()).hexdigest() == case["sha256_int64_le"]
        assert figure == 100 * right[0, index].mean()


def test_cifar100s_largest_class_has_100_images():
    counts = shifted_counts(shuffled([100] * 100), np.arange(100))
    assert counts.max(axis=1).tolist() == [100] * len(RATIOS)
    assert counts.min(axis=1).tolist() == [100 // abs(ratio) for ratio in RATIOS]


SETS = {
    "balanced": ([40] * 5, [0, 1, 2, 3, 4]),
    "imbalanced, other order": ([70, 33, 51, 40], [2, 0, 3, 1]),
    "an absent class": ([30, 0, 41, 35], [3, 1, 2, 0]),
}


@pytest.mark.parametrize("kind", SETS)
def test_one_pass_equals_every_subset_by_itself(kind):
    sizes, order = SETS[kind]
    labels, order = shuffled(sizes), np.array(order)
    logits = torch.randn(len(labels), len(sizes), generator=torch.Generator().manual_seed(1))
    logits[range(len(labels)), labels] += 0.8
    prior = np.array([0.4, 0.3, 0.2, 0.07, 0.03][: len(sizes)])
    figures = shifted_figures(logits, labels, order, prior)
    n_max = min(size for size in sizes if size)
    assert (figures["n_max"], figures["ratios"]) == (n_max, list(RATIOS))
    for i, ratio in enumerate(RATIOS):
        index = slow_subset(labels, order, ratio, n_max)
        data = torch.utils.data.Subset(torch.utils.data.TensorDataset(logits, torch.from_numpy(labels)), index)
        batches = list(torch.utils.data.DataLoader(data, 7))
        slow = evaluate(lambda rows: rows, batches, [1] * len(sizes))
        assert figures["images"][i] == len(index)
        assert figures["top1"][i] == slow["top1"]
        assert figures["low"][i] <= slow["top1"] <= figures["high"][i]

        present = [c for c in order if sizes[c]]
        share = np.zeros(len(sizes))
        for j, c in enumerate(present if ratio > 0 else present[::-1]):
            share[c] = abs(ratio) ** (-j / (len(present) - 1))
        share /= share.sum()
        recall = evaluate(lambda rows: rows, [(logits, torch.from_numpy(labels))], [1] * len(sizes))["recall"]
        expected = sum(share[c] * recall[c] for c in present)
        assert figures["weighted"][i] == pytest.approx(expected)
        assert figures["weighted_low"][i] <= expected <= figures["weighted_high"][i]

        posterior = [
            [q * p / t for q, p, t in zip(row, share, prior, strict=True)] for row in logits.softmax(1).tolist()
        ]
        right = [int(np.argmax(row)) == c for row, c in zip(posterior, labels, strict=True)]
        assert figures["known_prior"]["top1"][i] == 100 * (sum(right[j] for j in index) / len(index))
        recall = [np.mean([right[j] for j in range(len(labels)) if labels[j] == c]) for c in present]
        expected = sum(100 * share[c] * r for c, r in zip(present, recall, strict=True))
        assert figures["known_prior"]["weighted"][i] == pytest.approx(expected)
    lowest = int(np.argmin(figures["top1"]))
    assert figures["worst"] == {"ratio": RATIOS[lowest], "top1": min(figures["top1"])}


def test_weighted_equals_plain_where_no_count_is_rounded():
    """Three classes of 1024 images: at ratio 1, 4, 16, 64 and 256 all counts are whole."""
    labels, order = shuffled([1024] * 3), np.arange(3)
    counts, shares = shifted_counts(labels, order), profiles(labels, order)
    # The same recall among the first images of a class as among all.
    right = np.array([[False, True, True, False], [True, False, False, False], [True, True, True, False]])
    hits = np.empty(len(labels), dtype=bool)
    for c in range(3):
        hits[labels == c] = np.tile(right[c], 256)
    figures = accuracies(hits[None], labels, counts, shares)
    for ratio in (1, 4, 16, 64, 256, -4, -16, -64, -256):
        i = RATIOS.index(ratio)
        assert figures["top1"][i] == pytest.approx(figures["weighted"][i])
    np.testing.assert_allclose(shares, counts / counts.sum(axis=1, keepdims=True), atol=0.01)


@pytest.mark.parametrize("ratio", [512, 8, 1, -512])
def test_the_intervals_cover(ratio):
    """Of 300 test sets of networks with known recalls, about 95 % have the expected figures within their intervals; and
    so where the rarest class has no image, or one.
    """
    rng, labels, i = np.random.default_rng(3), np.repeat(np.arange(10), 60), RATIOS.index(ratio)
    counts, shares = (f(labels, np.arange(10))[i] for f in (shifted_counts, profiles))
    recall = np.linspace(0.95, 0.4, 10)
    right = rng.random((300, len(labels))) < recall[labels]
    found = accuracies(right, labels, np.tile(counts, (300, 1)), np.tile(shares, (300, 1)))
    for prefix, name, weights in (("", "top1", counts / counts.sum()), ("weighted_", "weighted", shares)):
        truth, low, high = 100 * (weights * recall).sum(), found[f"{prefix}low"], found[f"{prefix}high"]
        assert 0.91 <= ((low <= truth) & (truth <= high)).mean() <= 0.99
        assert abs(found[name].mean() - truth) < 1


def test_the_interval_is_a_bootstrap():
    """Against redrawing images, group by group."""
    rng, hits, counts = np.random.default_rng(5), np.array([[30, 12, 5]]), np.array([[40, 20, 10]])
    answered = [np.arange(n) < k for n, k in zip(counts[0], hits[0], strict=True)]
    means = [100 * np.concatenate([rng.choice(a, len(a)) for a in answered]).mean() for _ in range(4000)]
    low, high = interval(hits, counts, counts / counts.sum())
    np.testing.assert_allclose([low[0], high[0]], np.percentile(means, [2.5, 97.5]), atol=1.5)


def test_known_prior_is_bayes_rule():
    """Two Gaussian classes, a classifier that is right for its training distribution: correcting it helps where the
    test set is shifted away from it, and changes nothing where it isn't."""
    rng, labels = np.random.default_rng(0), shuffled([4000] * 2)
    x = rng.normal(labels, 1.0)
    prior = np.array([128, 1]) / 129
    likelihood = np.stack([-(x**2) / 2, -((x - 1) ** 2) / 2], axis=1)
    logits = torch.from_numpy(likelihood + np.log(prior))
    figures = shifted_figures(logits, labels, np.arange(2), prior)
    gain = np.subtract(figures["known_prior"]["weighted"], figures["weighted"])
    assert gain[RATIOS.index(128)] == 0
    assert gain[RATIOS.index(1)] > 10 and gain[RATIOS.index(-128)] > 50
    assert (gain > -0.1).all()
    shares = profiles(labels, np.arange(2))
    expected = (likelihood + np.log(shares[:, None])).argmax(axis=2)
    assert np.array_equal(answers(logits, shares, prior)[1:], expected)


def test_area():
    assert area(np.full(len(RATIOS), 70.0)) == pytest.approx(70)
    line = np.array([np.sign(r) * np.log2(abs(r)) for r in RATIOS])
    assert area(line + 50) == pytest.approx(50)
    assert area(np.abs(line)) == pytest.approx(4.5)


def test_one_class_cannot_shift():
    with pytest.raises(UserError, match="fewer than two classes"):
        shifted_figures(torch.zeros(3, 2), np.zeros(3, dtype=np.int64), np.arange(2))


def made(run, **others):
    """A record of a run whose network guesses."""
    labels = shuffled([12] * 3)
    figures = shifted_figures(torch.randn(len(labels), 3), labels, np.arange(3))
    about = {"run": run, "method": "FixMatch", "dataset": "digits", "epoch": 1, "checkpoint": run}
    about |= {"seed": None, "protocol": {}}
    return about | figures | others


def axes_of(monkeypatch, records):
    """The axes and the title of shifted.png, before it is saved."""
    seen = []
    monkeypatch.setattr("reporting.shifted_picture.finish", lambda _, axes, title, path: seen.append((axes, title)))
    shifted_curves(records, None)
    return seen[0]


def drawn(monkeypatch, records):
    """Its title, and the colour of each curve."""
    axes, title = axes_of(monkeypatch, records)
    return title, [line.get_color() for line in axes.get_lines()]


def test_few_images_are_warned_of_and_titles_name_the_data_set(monkeypatch):
    title, _ = drawn(monkeypatch, [made("a")])
    warning = "fewer than 100 images (down to 12) at 20 of 20 ratios: wide intervals"
    assert title == f"Shifted test sets of digits\n{warning}"
    assert table([made("a")]).startswith("Shifted test sets of digits: accuracy in percent")
    assert f"\n\nwarning: {warning}\n\n" in table([made("a")])
    many = made("a", images=[100] * len(RATIOS), dataset="folder", data_root="/x/birds")
    assert "warning" not in table([many])
    assert drawn(monkeypatch, [many])[0] == "Shifted test sets of folder birds"


def test_runs_of_a_method_have_its_colour(monkeypatch):
    methods = ["FixMatch+CoSSL", "FixMatch", "FixMatch+CoSSL", "supervised"]
    _, colours = drawn(monkeypatch, [made(f"/r/{i}", method=method) for i, method in enumerate(methods)])
    assert colours == [COLOURS[1], COLOURS[0], COLOURS[1], COLOURS[8]]


def test_seeds_are_one_curve_with_a_band(monkeypatch):
    """Mean, lowest and highest of runs that differ only in their seed; not of another length, epoch or method, nor of
    runs whose arguments aren't known. The axis starts at 0.
    """
    levels = np.array([[50.0 + 10 * s - r for r in range(len(RATIOS))] for s in range(3)])
    cossl = {"method": "FixMatch+CoSSL"}
    records = [made(f"/r/{s}", seed=s, protocol={"lr": 1}, top1=levels[s].tolist(), **cossl) for s in range(3)]
    records.append(made("/r/3", seed=3, protocol={"lr": 2}, **cossl))
    records.append(made("/r/4", seed=3, protocol={"lr": 1}, epoch=2, **cossl))
    records.append(made("/r/5", seed=0, protocol={"lr": 1}, **cossl))
    records += [made("/r/6", **cossl), made("/r/7", **cossl), made("/r/8", seed=0, protocol={"lr": 1})]
    axes, _ = axes_of(monkeypatch, records)
    first, *others = axes.get_lines()
    np.testing.assert_allclose(first.get_ydata(), levels.mean(axis=0))
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (levels.min(), levels.max())
    assert first.get_label() == "FixMatch+CoSSL (0, 3 seeds)"
    assert [line.get_label() for line in others] == [f"FixMatch+CoSSL ({i})" for i in range(3, 8)] + ["FixMatch"]
    assert len({line.get_marker() for line in [first, *others[:-1]]}) == 6
    assert axes.get_ylim() == (0, 100)
    words = "line: mean, band: lowest to highest seed; of one run its 95 % interval"
    assert axes.get_xlabel().splitlines()[1] == words
    figure = axes.figure
    figure.draw_without_rendering()
    for text in (axes.xaxis.label, axes.yaxis.label):
        box = text.get_window_extent()
        assert (
            figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        )


def test_what_is_written_is_replaced_together(tmp_path, monkeypatch):
    """Where the figure can't be drawn, nothing is new."""
    (tmp_path / "run").mkdir()
    write(tmp_path, "digits", [made("run")], {tmp_path / "run": 0})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reporting.shifted_files.shifted_curves", fails)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, "digits", [made("other", epoch=2)], {tmp_path / "run": 0})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def record(out):
    return json.loads((out / "shifted.json").read_text())


def plain_logits(checkpoint, test, look):
    """The logits that a recipe's evaluation sees."""
    predict = load_model(checkpoint, "", torch.device("cpu")).predict
    images = Pixels(test, *look, torch.device("cpu"))
    stream = Stream("test", images, np.arange(len(test.labels)), ("plain",), 1, 0)
    with torch.no_grad():
        return torch.cat([predict(views[0]) for views, _ in stream.sweep()])


@pytest.fixture(scope="module")
def coupled(pretrained_by, tiny, tmp_path_factory):
    """The folder of a tiny co-learning run on digits."""
    out, script = tmp_path_factory.mktemp("coupled") / "cossl", "train_cifar_fix_cossl.py"
    start = pretrained_by("train_cifar_fix.py") / "checkpoint.pth.tar"
    assert_runs(script, *tiny(script), *COSSL, "--resume", start, "--out", out)
    return out


@pytest.fixture
def runs(pretrained, coupled, tmp_path):
    """Copies of a plain and a co-learning run: (plain, cossl)."""
    for name, source in (("plain", pretrained), ("cossl", coupled)):
        (tmp_path / name).mkdir()
        shutil.copy(source / "checkpoint.pth.tar", tmp_path / name)
    return tmp_path / "plain", tmp_path / "cossl"


def test_plain_and_cossl(runs, tmp_path):
    out = tmp_path / "new" / "out"
    result = assert_runs(SCRIPT, *runs, "--known_prior", "--out", out, *CPU)
    assert not result.stderr
    data = load("digits", tmp_path)
    both = record(out)["runs"]
    for folder, found in zip(runs, both, strict=True):
        state = load_checkpoint(folder / "checkpoint.pth.tar")
        logits = plain_logits(folder / "checkpoint.pth.tar", data.test, (data.mean, data.std))
        top1 = found["top1"][RATIOS.index(1)]
        assert top1 == pytest.approx(state["history"]["test"]["top1"][-1].item())  # of training's own evaluation
        counts = np.array(state["facts"]["labelled_counts"] if folder == runs[0] else [1] * 10)
        expected = shifted_figures(logits, data.test.labels, np.arange(10), counts / counts.sum())
        assert {name: found[name] for name in expected} == expected
        weights = state["ema_teacher"] if folder == runs[1] else state["ema_state_dict"]
        bias = weights["bias" if folder == runs[1] else "output.bias"]
        for name, guesses in (("balanced", logits.argmax(1)), ("balanced_without_bias", (logits - bias).argmax(1))):
            right = guesses.numpy() == data.test.labels
            recalls = [right[data.test.labels == c].mean() for c in range(10)]
            assert found[name] == pytest.approx(100 * np.mean(recalls))
        own = record(folder)
        assert own == {name: value for name, value in found.items() if name != "run"}
        assert (own["dataset"], own["epoch"], own["n_max"]) == ("digits", state["epoch"], 50)
        assert own["checkpoint"] == str(folder / "checkpoint.pth.tar")
    assert [found["method"] for found in both] == ["FixMatch", "FixMatch+CoSSL"]
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert not list(tmp_path.rglob(".*.tmp"))

    with (out / "shifted.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(RATIOS)
    for row, (run, i) in zip(rows, [(run, i) for run in both for i in range(len(RATIOS))], strict=True):
        assert (row["run"], row["method"], row["ratio"]) == (run["run"], run["method"], str(RATIOS[i]))
        for name in ("images", "top1", "low", "high", "weighted", "weighted_low", "weighted_high"):
            assert float(row[name]) == pytest.approx(run[name][i], abs=1e-4)
        for name in ("top1", "weighted"):
            assert float(row[f"known_prior_{name}"]) == pytest.approx(run["known_prior"][name][i], abs=1e-4)
    with Image.open(out / "shifted.png") as image:
        assert image.size[0] > 1000
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if "|" in line
    ]
    first = both[0]
    assert lines[0] == ["ratio", "images", *(f"{i}: {n}" for i in (1, 2) for n in ("top-1", "weighted", "known prior"))]
    for i, line in enumerate(lines[2 : 2 + len(RATIOS)]):
        assert line[:2] == [str(RATIOS[i]), str(first["images"][i])]
        assert line[2] == f"{first['top1'][i]:.2f} [{first['low'][i]:.2f}, {first['high'][i]:.2f}]"
        assert line[3] == f"{first['weighted'][i]:.2f}"
    assert lines[-2][2] == f"{first['worst']['top1']:.2f} at {first['worst']['ratio']}"
    assert lines[-1][2] == f"{first['area']:.2f}"
    known = first["known_prior"]
    worst = int(np.argmin(known["top1"]))
    assert known["worst"] == {"ratio": RATIOS[worst], "top1": known["top1"][worst]}
    assert lines[-2][4] == f"{known['top1'][worst]:.2f} at {RATIOS[worst]}"


def test_a_closed_pipe_loses_no_results(pretrained, tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    shutil.copy(pretrained / "checkpoint.pth.tar", tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(tmp_path), "--out", str(tmp_path / "out"), *CPU])
    with redirect_stdout(Closed()), pytest.raises(BrokenPipeError):
        main()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert (tmp_path / "shifted.json").exists()


def stripped(source, target):
    """A checkpoint as the published code leaves it."""
    state = load_checkpoint(source / "checkpoint.pth.tar")
    keys = ("epoch", "state_dict", "ema_state_dict", "optimizer", "teacher_head", "ema_teacher", "emp_distb_u")
    target.parent.mkdir(exist_ok=True)
    torch.save({key: state[key] for key in keys if key in state}, target)


def test_published_checkpoints(runs, tmp_path):
    """Named as files: only the last checkpoint's figures are left beside it."""
    plain, cossl = tmp_path / "published" / "checkpoint_1.pth.tar", tmp_path / "published" / "checkpoint.pth.tar"
    stripped(runs[0], plain)
    stripped(runs[1], cossl)
    flags = ["--dataset", "digits", "--out", tmp_path / "out", *CPU]
    assert_runs(SCRIPT, plain, cossl, *runs, *flags)
    a, b, *ours = record(tmp_path / "out")["runs"]
    assert (a["method"], b["method"]) == ("FixMatch or MixMatch", "FixMatch+CoSSL or MixMatch+CoSSL")
    for published, own in zip((a, b), ours, strict=True):
        assert published["top1"] == own["top1"]
        assert published["known_prior"] is None
    assert record(tmp_path / "published")["top1"] == b["top1"]
    assert_refused(run_here(SCRIPT, plain, *CPU), "--dataset", str(plain), "digits")
    assert_refused(
        run_here(SCRIPT, plain, *flags, "--known_prior"), "--known_prior", str(plain), "give --labelled_counts"
    )
    assert_runs(SCRIPT, cossl, *flags, "--known_prior")  # its head is balanced
    counts = ",".join(map(str, load_checkpoint(runs[0] / "checkpoint.pth.tar")["facts"]["labelled_counts"]))
    assert_runs(SCRIPT, plain, runs[0], *flags, "--known_prior", "--labelled_counts", counts)
    theirs, own = record(tmp_path / "out")["runs"]
    assert theirs["known_prior"] == own["known_prior"] is not None
    assert_refused(run_here(SCRIPT, plain, *flags, "--known_prior", "--labelled_counts", "1,2"), "--labelled_counts: 2")
    assert_refused(run_here(SCRIPT, plain, *flags, "--labelled_counts", counts), "--labelled_counts", "--known_prior")


def test_cifar100s_own_images_are_scored(tmp_path, monkeypatch):
    """The published branch scores CIFAR-10's."""
    write_cifar("cifar100", tmp_path, 4, monkeypatch)
    torch.manual_seed(0)
    weights = WideResNet(100, 10, 1).state_dict()
    checkpoint = tmp_path / "last.pth.tar"
    published = {"epoch": 3, "state_dict": weights, "ema_state_dict": weights, "optimizer": {}}
    torch.save(published | {"emp_distb_u": torch.ones(128, 100)}, checkpoint)
    flags = ["--dataset", "cifar100", "--data_root", tmp_path, "--out", tmp_path / "out", *CPU]
    assert_runs(SCRIPT, checkpoint, *flags)
    (found,) = record(tmp_path / "out")["runs"]
    assert (found["method"], found["n_max"], found["images"][RATIOS.index(1)]) == ("ReMixMatch", 4, 400)
    assert not (tmp_path / "shifted.json").exists()
    assert_refused(
        run_here(SCRIPT, checkpoint, *flags[2:], "--dataset", "digits"), str(checkpoint), "100 classes", "10"
    )


def test_small_imagenet127(pretrained_by, small_imagenet127, tmp_path):
    """Without flags: data set, folder and size are those of the training. Frequent classes of the data come first."""
    folder, out = pretrained_by("train_small_imagenet127_fix.py"), tmp_path / "out"
    assert_runs(SCRIPT, folder / "checkpoint.pth.tar", "--out", out, *CPU)
    data = load_small_imagenet(small_imagenet127, 32)
    (found,) = record(out)["runs"]
    logits = plain_logits(folder / "checkpoint.pth.tar", data.test, (data.mean, data.std))
    sizes = np.bincount(data.train.labels, minlength=127)
    expected = shifted_figures(logits, data.test.labels, np.argsort(-sizes, kind="stable"))
    assert {name: found[name] for name in expected} == expected
    assert found["dataset"] == "small_imagenet127"


def test_food101(pretrained_by, food101, tmp_path):
    """The balanced set's top-1 is that of the training's evaluation; without flags here, too."""
    folder = pretrained_by("train_food_fix.py")
    assert_runs(SCRIPT, folder, "--out", tmp_path, *CPU)
    (found,) = record(tmp_path)["runs"]
    assert (found["dataset"], found["n_max"], found["images"][RATIOS.index(1)]) == ("food101", 6, 18)
    with (folder / "log.txt").open() as file:
        last = list(csv.DictReader(file, delimiter="\t"))[-1]
    assert found["top1"][RATIOS.index(1)] == pytest.approx(float(last["top1"]), rel=1e-4)


def test_own_images(tmp_path):
    """Classes and their order by the folder; other classes than those of the training are refused."""
    data, run, out = image_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "out"
    flags = ["--dataset", "folder", "--img_size", 24, "--depth", 10, "--width", 1, "--batch-size", 4]
    train = [*flags, "--data_root", data, "--epoch", 1, "--val-iteration", 2, *CPU]
    assert_runs("train_cifar_supervised.py", *train, "--out", run)
    assert_runs(SCRIPT, run, "--out", out, *CPU)
    found = record(run)
    assert (found["dataset"], found["n_max"]) == ("folder", 3)
    top1 = load_checkpoint(run / "checkpoint.pth.tar")["history"]["test"]["top1"][-1].item()
    assert found["top1"][RATIOS.index(1)] == pytest.approx(top1)
    for part in ("labelled", "test"):
        (data / part / "dog").rename(data / part / "wolf")
    assert_refused(run_here(SCRIPT, run, "--out", out, *CPU), str(run), "trained on other classes")


def change(checkpoint, **entries):
    torch.save(load_checkpoint(checkpoint) | entries, checkpoint)


def other_data(folder):
    path = folder / "checkpoint.pth.tar"
    change(path, arguments=load_checkpoint(path)["arguments"] | {"dataset": "fashion_mnist"})


def diverged(folder):
    weights = load_checkpoint(folder / "checkpoint.pth.tar")["ema_state_dict"]
    weights["output.bias"][3] = float("nan")
    change(folder / "checkpoint.pth.tar", ema_state_dict=weights)


def eleven_classes(folder):
    network = WideResNet(11, 10, 1)
    weights, head = network.state_dict(), network.output.state_dict()
    change(folder / "checkpoint.pth.tar", ema_state_dict=weights, ema_teacher=head, history=None)


def no_runs(folder):
    (folder / "checkpoint.pth.tar").unlink()
    (folder / "log.txt").write_text("epoch\n")


# What is done to the first of two good runs, and words of the error.
BAD_RUNS = {
    "no checkpoint": (no_runs, ["holds no checkpoint.pth.tar", "give"]),
    "no folder": (shutil.rmtree, ["no such file"]),
    "empty": (lambda folder: (folder / "checkpoint.pth.tar").write_bytes(b""), ["not a readable checkpoint"]),
    "text": (lambda folder: (folder / "checkpoint.pth.tar").write_text("x" * 99), ["not a readable checkpoint"]),
    "no network": (lambda folder: change(folder / "checkpoint.pth.tar", ema_state_dict={}), ["of no network here"]),
    "a list": (
        lambda folder: change(folder / "checkpoint.pth.tar", ema_state_dict=[1]),
        ["its ema_state_dict is damaged"],
    ),
    "no weights": (
        lambda folder: torch.save({"epoch": 1}, folder / "checkpoint.pth.tar"),
        ["lacks state_dict, ema_state_dict"],
    ),
    "other data": (other_data, ["its --dataset is fashion_mnist", "evaluate them apart"]),
    "diverged": (diverged, ["aren't all numbers", "leave it out"]),
    "classes": (eleven_classes, ["names 10 classes", "tells 11 apart"]),
    "counts": (
        lambda folder: change(folder / "checkpoint.pth.tar", facts={"labelled_counts": [1, 2, 3]}),
        ["lacks method, start_epoch"],
    ),
    "head": (
        lambda folder: change(folder / "checkpoint.pth.tar", ema_teacher=torch.nn.Linear(9, 10).state_dict()),
        ["of no network here"],
    ),
}


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_a_bad_run_is_named_before_anything_is_computed(kind, runs, tmp_path):
    damage, words = BAD_RUNS[kind]
    damage(runs[1])
    result = run_here(SCRIPT, *runs, "--out", tmp_path / "out", *CPU)
    assert_refused(result, str(runs[1]), *words)
    assert "images in" not in result.stdout
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("shifted*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["RUN"]),
        (["{plain}", "{plain}/checkpoint.pth.tar"], ["named twice"]),
        (["{plain}", "--out", "{plain}"], ["--out", "take another"]),
        (["{plain}", "--out", "{plain}/checkpoint.pth.tar"], ["--out", "not a folder"]),
        (["{plain}", "--dataset", "mnist"], ["--dataset", "mnist", "cifar10"]),
        (["{plain}", "--dataset", "small_imagenet127", "--data_root", "{plain}"], ["no such file"]),
        (["{plain}", "--img_size", "7"], ["--img_size"]),
        (["{plain}", "--batch-size", "0"], ["--batch-size"]),
        (["{plain}", "--gpu", "x"], ["--gpu"]),
    ],
)
def test_bad_flags(flags, words, runs, tmp_path):
    flags = [flag.format(plain=runs[0]) for flag in flags]
    assert_refused(run_here(SCRIPT, *flags, *["--out", tmp_path / "out"] * ("--out" not in flags)), *words)
    assert not list(tmp_path.rglob("shifted*"))


def test_overwriting_a_run_removes_its_shifted_figures(tmp_path):
    (tmp_path / "shifted.json").write_text("{}")
    discard_run(tmp_path)
    assert not (tmp_path / "shifted.json").exists()


def test_help():
    text = " ".join(run_here(SCRIPT, "--help").stdout.split())
    for words in ("RUN", "--dataset", "small_imagenet127", "--known_prior", "(default: results/shifted)", "checkpoint"):
        assert words in text


def test_own_images_without_a_test_set(tmp_path):
    """Runs are evaluated on the part that was held out from them, if it is the same."""
    data, out = image_folder(tmp_path / "data"), tmp_path / "out"
    shutil.rmtree(data / "test")
    flags = ["--dataset", "folder", "--data_root", data, "--holdout", 0.5, "--img_size", 16, "--depth", 10]
    flags += ["--width", 1, "--batch-size", 4, *CPU, *SHORT]
    for seed in (0, 1):
        assert_runs(FIX, *flags, "--manualSeed", seed, "--out", tmp_path / f"run{seed}")
    result = assert_runs(SCRIPT, tmp_path / "run0", "--out", out, *CPU)
    assert "there is no test set: the figures are of the held-out part, 5 images" in result.stdout
    assert json.loads((out / "shifted.json").read_text())["runs"][0]["n_max"] == 2
    both = run_here(SCRIPT, tmp_path / "run0", tmp_path / "run1", "--out", tmp_path / "both", *CPU)
    assert_refused(both, "its --manualSeed is 1", "evaluate them apart")
    for i in (7, 8):
        write_image(data / "labelled" / "dog" / f"{i}.png", i)
    changed = run_here(SCRIPT, tmp_path / "run0", "--out", tmp_path / "both", *CPU)
    assert_refused(changed, "may have been trained on images that are held out now")

"""Own images above 64 pixels: files that workers decode. What is held in memory, crops, damage, and runs of them."""

import csv
import json
import multiprocessing
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.forked import assert_ranks_run, run_forked
from helpers.own_images import image_folder, write_image
from helpers.scripts import (
    COSSL,
    FIX,
    FIX_COSSL,
    HANG,
    METHODS,
    assert_refused,
    assert_runs,
    assert_same,
    handed_to_fit,
    load_checkpoint,
    log_lines,
    run_here,
    summary,
)
from PIL import Image

from dataset.crops import Chunk, Cropper, centre_crop, resized
from dataset.folder import load_folder
from dataset.image_files import read_images
from dataset.image_loader import ImageLoader
from dataset.images import Files, Images
from dataset.long_tail import LongTailed
from dataset.self_training import Joined, with_joined
from dataset.streams import Sampling, file_streams
from models.weights import IMAGENET_LOOK
from reporting.shifted import RATIOS
from training.checkpoint import BEST, LATEST
from training.graphs import by_number
from training.totals import Totals
from utils.errors import UserError

CPU, SIZE = torch.device("cpu"), 72
WANTED = {"labelled": ("weak",), "unlabelled": ("weak", "strong")}
FLAGS = f"--dataset folder --img_size {SIZE} --gpu cpu --depth 10 --width 1 --batch-size 4 --ema-decay 0.5 --workers 1"
FLAGS = [*FLAGS.split(), "--manualSeed", 3, "--epoch", 2, "--val-iteration", 3]
SHIFTED = "eval_shifted_test_distribution.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    return image_folder(tmp_path / "data")


def last_top1(run: Path) -> float:
    return load_checkpoint(run / LATEST)["history"]["test"]["top1"][-1].item()


def damage(path: Path) -> None:
    path.write_bytes(b"no image any more")


# --- What is held in memory ---


def test_above_64_pixels_nothing_is_decoded_at_the_start(folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded")

    expected, expected_split = load_folder(folder, 64, True, False, 0.25, 3)
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(AssertionError, match="decoded"):
        load_folder(folder, 64, True, False)
    tracemalloc.start()
    dataset, split = load_folder(folder, 512, True, False, 0.25, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 512**2  # that of one image
    assert (dataset.mean, dataset.std) == IMAGENET_LOOK
    for part in ("train", "test", "held_out"):
        files, images = getattr(dataset, part), getattr(expected, part)
        assert isinstance(files, Files) and isinstance(images, Images)
        assert len(files.paths) == len(images.pixels) and all(isinstance(path, str) for path in files.paths)
        assert files.labels.tolist() == images.labels.tolist()
    for now, then in zip(split, expected_split, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_both_sizes_are_split_alike(known, unlabelled, tmp_path):
    """The files of the one are the images of the other, also where the labelled images are the unlabelled ones."""
    folder = image_folder(tmp_path / "data", known)
    if not unlabelled:
        (folder / "unlabelled").rename(tmp_path / "elsewhere")
    for include in (False, True):
        (files, of_files), (images, of_images) = (load_folder(folder, size, include, False) for size in (SIZE, 64))
        np.testing.assert_array_equal(read_images([*map(Path, files.train.paths)], 64, False)[0], images.train.pixels)
        for now, then in zip(of_files, of_images, strict=True):
            np.testing.assert_array_equal(now, then)


def test_a_sweep_takes_fewer_images_the_larger_they_are(folder):
    sweeps = [load_folder(folder, size, True, False)[0].test.sweep for size in (72, 224, 512)]
    assert sweeps == [395, 40, 7]


# --- Crops ---


def opened(folder: Path, skip_corrupt=False, holdout=None):
    dataset, split = load_folder(folder, SIZE, True, skip_corrupt, holdout, 3)
    return file_streams(dataset, split, WANTED, Sampling(4, 3), ImageLoader(SIZE, 3, 0, skip_corrupt, CPU))


@pytest.mark.parametrize("crops", [0, 2])
def test_crops_are_upright(crops, tmp_path):
    """As of the image that was turned by hand; those of Food-101 aren't turned."""
    write_image(tmp_path / "lying.png", 1, (90, 120), turned=6)
    upright = Image.open(tmp_path / "lying.png").transpose(Image.Transpose.ROTATE_270)
    upright.save(tmp_path / "upright.png")
    cropper = Cropper(SIZE, 0)

    def cut(name: str, turned: bool) -> torch.Tensor:
        return cropper[Chunk("any", 0, 0, [str(tmp_path / name)], crops, turned)].pixels

    assert torch.equal(cut("lying.png", True), cut("upright.png", True))
    assert not torch.equal(cut("lying.png", False), cut("upright.png", True))


KINDS = {
    "grey_16_bits.png": {"mode": "I;16"},
    "alpha.png": {"mode": "RGBA"},
    "cmyk.jpg": {"mode": "CMYK"},
    "palette.png": {"mode": "P"},
    "lying.jpg": {"size": (140, 100), "turned": 6},
    "one_pixel.png": {"size": (1, 1)},
    "thin.png": {"size": (300, 1)},
}


def test_evaluation_and_prediction_prepare_images_alike(folder):
    for name, options in KINDS.items():
        write_image(folder / "test" / "dog" / name, 1, **options)
    data = opened(folder)
    images, _ = map(torch.cat, zip(*data.test(), strict=True))
    paths = [Path(path) for path in data.tested.images.paths]
    pixels, kept = read_images(paths, SIZE, False, lambda image, size: centre_crop(image, size, resized(SIZE)))
    assert len(kept) == len(paths) == 6 + len(KINDS)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_LOOK)
    torch.testing.assert_close(images, (torch.from_numpy(pixels) / 255 - mean) / std)


@pytest.mark.parametrize("known", [False, True])
def test_labels_come_along_where_all_are_known(known, tmp_path):
    data = opened(image_folder(tmp_path / "data", known), holdout=0.25)
    batch = data.batches(("labelled", "unlabelled", "balanced", "partners")).at(0)
    for name in ("unlabelled", "partners"):
        labels, stream = getattr(batch, name).labels, getattr(data, name)
        assert (labels is not None) == known
        swept = [labels for _, labels in stream.sweep(("plain",))]
        assert torch.cat(swept).tolist() == stream.images.labels[stream.members].tolist() if known else swept == [None]
    assert batch.labelled.labels.tolist() == data.labelled.images.labels[data.labelled.order(0)[1]].tolist()
    assert batch.balanced.labels.min() >= 0
    assert data.facts()["held_out_counts"] == [2, 1]
    held_out = dict(data.evaluated())["held_out"]
    assert [len(labels) for _, labels in held_out] == [3]


# --- Damage ---


def test_a_damaged_image_is_named_when_it_is_read(folder, tmp_path):
    """And replaced with --skip_corrupt."""
    damage(folder / "labelled" / "dog" / "1.png")
    flags = [*FLAGS, "--data_root", folder, "--out", tmp_path / "out"]
    assert_refused(run_here(FIX, *flags), str(folder / "labelled/dog/1.png"), "--skip_corrupt")
    result = assert_runs(FIX, *flags, "--skip_corrupt")
    assert result.stderr.count(f"skipped, not a readable image: {folder / 'labelled/dog/1.png'}") == 1
    assert "  skipped " in result.stdout and "  waited_s " in result.stdout


@pytest.mark.parametrize("script", COSSL)
def test_the_warm_up_counts_what_can_be_read(script, folder, tmp_path):
    """Were the rare class's damaged images counted, their features would be drawn from."""
    flags = [*FLAGS, "--data_root", folder, "--epoch", 1]
    assert_runs(script.replace("_cossl", ""), *flags, "--out", tmp_path / "first")
    for number in (1, 2, 3):
        damage(folder / "labelled" / "dog" / f"{number}.png")
    flags += ["--resume", tmp_path / "first" / LATEST, "--warm_tfe", 1, "--skip_corrupt", "--out"]
    result = assert_runs(script, *flags, tmp_path / "second")
    assert result.stderr.count("skipped, not a readable image") == 3
    damage(folder / "labelled" / "dog" / "0.png")
    result = run_here(script, *flags, tmp_path / "third")
    error = result.stderr.splitlines()[-1]
    assert (result.returncode, error) == (2, "error: --data_root: no labelled image of dog can be read; replace some")


# --- Runs ---


@pytest.mark.parametrize("script", METHODS)
def test_both_stages_and_what_answers(script, folder, tmp_path):
    """predict.py says of the test images, some of which lie on their side, what the last evaluation found."""
    for i, name in enumerate(("cat", "dog") * 4):
        write_image(folder / "test" / name / f"{i}.jpg", i, (90, 120), turned=6)
    flags = [*FLAGS, "--data_root", folder, "--holdout", 0.25]
    first, second, out = (tmp_path / name for name in ("first", "second", "predictions.csv"))
    result = assert_runs(script, *flags, "--out", first)
    assert "3 of 10 labelled images are held out" in result.stdout
    start = ["--resume", first / BEST, "--warm_tfe", 1]
    result = assert_runs(script.replace(".py", "_cossl.py"), *flags, *start, "--out", second)
    assert not result.stderr and BEST in result.stdout
    facts = {"img_size": SIZE, "resize": 82, "mean": list(IMAGENET_LOOK[0]), "evaluated_on": "test"}
    assert facts.items() <= summary(second).items()
    assert load_checkpoint(second / BEST)["facts"].items() >= facts.items()
    for worker in multiprocessing.active_children():
        worker.join(HANG)
    assert not multiprocessing.active_children()
    for run in (first, second):
        assert_runs("predict.py", "--checkpoint", run / LATEST, folder / "test", "--out", out, "--gpu", "cpu")
        rows = list(csv.DictReader(out.open(newline="")))
        right = [row["class"] == Path(row["file"]).parent.name for row in rows]
        assert len(right) == 14
        assert 100 * np.mean(right) == pytest.approx(last_top1(run))


def test_without_workers_the_numbers_are_the_same(folder, tmp_path):
    flags = [*FLAGS, "--data_root", folder]
    for workers in (0, 2):
        assert_runs(FIX, *flags, "--workers", workers, "--out", tmp_path / str(workers))
    assert_same(*(load_checkpoint(tmp_path / name / LATEST) for name in ("0", "2")))


def test_images_in_memory_need_no_workers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageLoader, "_open", lambda _: pytest.fail("started"))
    assert_runs(FIX, *FLAGS, "--img_size", 64, "--data_root", folder, "--out", tmp_path / "out")


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(folder, tmp_path):
    """Co-learning, in the middle of its second epoch."""
    flags = [*FLAGS, "--data_root", folder, "--holdout", 0.25]
    whole, out, start = (tmp_path / name for name in ("whole", "out", "start"))
    assert_runs(FIX, *flags, "--out", start)
    flags += ["--resume", start / LATEST, "--warm_tfe", 1]
    assert run_forked(FIX_COSSL, *flags, "--out", whole).returncode == 0
    killed = run_forked("tests/helpers/dies_at.py", 0, 4, FIX_COSSL, *flags, "--out", out)
    assert killed.returncode == -signal.SIGKILL
    assert run_forked(FIX_COSSL, *flags, "--out", out).returncode == 0
    for name in (BEST, LATEST):
        assert_same(load_checkpoint(whole / name), load_checkpoint(out / name))
    assert log_lines(whole) == log_lines(out)
    assert summary(whole) == summary(out)


def test_within_an_epoch_it_goes_on_bit_for_bit(folder, tmp_path):
    flags = [*FLAGS, "--data_root", folder]
    assert_runs(FIX, *flags, "--out", tmp_path / "whole")
    part = run_here(FIX, *flags, "--out", tmp_path / "out", "--time_limit", 1e-9)
    assert part.returncode == 124
    assert load_checkpoint(tmp_path / "out" / LATEST)["step"] == 1
    assert_runs(FIX, *flags, "--out", tmp_path / "out")
    assert_same(*(load_checkpoint(tmp_path / name / LATEST) for name in ("whole", "out")))


@pytest.mark.ranks
def test_two_ranks(folder, tmp_path):
    flags = [*FLAGS, "--data_root", folder, "--out"]
    assert_ranks_run(FIX, *flags, tmp_path / "first")
    start = ["--resume", tmp_path / "first" / LATEST, "--warm_tfe", 1]
    assert_ranks_run(FIX_COSSL, *flags, tmp_path / "second", *start)
    for run in ("first", "second"):
        assert json.loads((tmp_path / run / "summary.json").read_text())["processes"] == 2
        assert len(log_lines(tmp_path / run)) == 3


@pytest.mark.parametrize("tested", [False, True])
def test_shifted_test_sets(tested, folder, tmp_path):
    """Of the test images, or of the held-out part; the balanced set's top-1 is that of the training's evaluation."""
    for i, name in enumerate(("cat", "dog") * 4):
        write_image(folder / "labelled" / name / f"more_{i}.jpg", i, (90, 120), turned=6)
    if not tested:
        (folder / "test").rename(tmp_path / "elsewhere")
    run = tmp_path / "run"
    assert_runs(FIX, *FLAGS, "--data_root", folder, "--holdout", 0.25, "--out", run)
    result = assert_runs(SHIFTED, run, "--gpu", "cpu", "--out", tmp_path / "shifted")
    (found,) = json.loads((tmp_path / "shifted" / "shifted.json").read_text())["runs"]
    held_out = load_checkpoint(run / LATEST)["facts"]["held_out_counts"]
    assert ("held-out part" in result.stdout) != tested
    assert max(found["images"]) == (6 if tested else 2 * min(held_out))
    if tested:
        assert found["top1"][RATIOS.index(1)] == pytest.approx(last_top1(run))


# --- What it doesn't go with, and what it does ---


def test_a_graph_is_refused(folder):
    batches = opened(folder).batches(("labelled",))
    with pytest.raises(UserError, match=r"--graph: needs images that lie in memory.*--img_size 64 or less"):
        by_number(lambda batch: {}, Totals(), batches, {}, graph=True)


def test_self_training(folder, tmp_path):
    """What joins is copied: its file has a second label."""
    flags = [*FLAGS, "--data_root", folder, "--num_generation", 2, "--tau", 0.1, "--out", tmp_path / "out"]
    script = "train_cifar_fix_crest.py"
    result = run_here(script, *flags, "--skip_corrupt")
    assert_refused(result, "--skip_corrupt: CReST+", "above 64 pixels")
    assert not (tmp_path / "out").exists()
    result = assert_runs(script, *flags)
    assert "of 9 unlabelled images join the labelled ones" in result.stdout
    data = handed_to_fit(script, *flags[:-1], tmp_path / "elsewhere").data
    assert isinstance(data.labelled.images.paths[0], str)
    dataset, split = load_folder(folder, SIZE, True, False)
    joined = Joined(np.array([12, 11]), np.array([1, 0]), 5)
    more, wider = with_joined(dataset, split, joined)
    assert more.train.paths == [*dataset.train.paths, dataset.train.paths[12], dataset.train.paths[11]]
    assert more.train.labels[wider.labelled].tolist() == [*dataset.train.labels[split.labelled], 1, 0]
    assert more.train.upright and isinstance(wider, LongTailed)

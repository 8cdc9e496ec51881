"""Recipes with networks that others have trained: --arch, --weights, --tune; what co-learning takes from stage 1."""

import csv
import hashlib
import re
import shutil
import signal

import numpy as np
import pytest
import torch
import torchvision
from helpers.forked import assert_ranks_run, run_forked
from helpers.own_images import image_folder
from helpers.scripts import COSSL as CO_LEARNING
from helpers.scripts import (
    FIX,
    FIX_COSSL,
    METHODS,
    TINY,
    assert_refused,
    assert_runs,
    assert_same,
    handed_to_fit,
    load_checkpoint,
    log_lines,
    run_here,
    summary,
)

pytestmark = pytest.mark.slow
ARCH = "mobilenet_v3_small"
STEPS = ["--epochs", 2, "--val-iteration", 3]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(torchvision.models.get_model(ARCH).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def flags(weights):
    without = TINY[: TINY.index("--depth")] + TINY[TINY.index("--batch-size") :]
    return [*without, "--arch", ARCH, "--weights", weights]


@pytest.fixture(scope="module")
def stage1(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("stage1") / "run"
    assert_runs(FIX, *flags, *STEPS, "--out", out)
    return out


def test_what_a_checkpoint_says_of_its_network(stage1, weights):
    state = load_checkpoint(stage1 / "checkpoint.pth.tar")
    sha = hashlib.sha256(weights.read_bytes()).hexdigest()
    told = {name: state["facts"][name] for name in ("arch", "weights_sha256", "img_size", "mean", "std")}
    assert told == {
        "arch": ARCH,
        "weights_sha256": sha,
        "img_size": 16,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert summary(stage1)["weights_sha256"] == sha
    assert state["arguments"]["tau"] == 0.7 and state["arguments"]["weights"] == str(weights)


def test_defaults_with_weights_and_without(flags, tmp_path):
    def chosen(*given):
        args = handed_to_fit(FIX, *given, "--out", tmp_path).run.args
        return args.tau, args.lr, args.lr_body

    assert chosen(*flags) == (0.7, 0.0005, 0.0002)
    assert chosen(*flags, "--tau", 0.95, "--lr", 0.002, "--lr_body", 0.001) == (0.95, 0.002, 0.001)
    assert chosen(*TINY) == (0.95, 0.002, None)


@pytest.mark.parametrize("script", [*METHODS, "train_cifar_supervised.py"])
def test_the_classifier_is_warmed_up_before_the_first_step(script, flags, tmp_path):
    """On the labelled images it then does better than by chance, in the average as well; the body stays as it was."""
    found = handed_to_fit(script, *flags, "--out", tmp_path)
    body = {name: value.clone() for name, value in found.student.live.body.state_dict().items()}
    found.before()

    def right(network):
        views, labels = zip(
            *((views[0], labels) for views, labels in found.data.labelled.sweep(("plain",))), strict=True
        )
        with torch.no_grad():
            guess = network.eval()(torch.cat(views)).argmax(dim=1)
        hits = guess == torch.cat(labels)
        return torch.stack([hits[torch.cat(labels) == c].float().mean() for c in range(10)]).mean()

    assert right(found.student.live) == right(found.student.ema) > 0.3
    assert all(torch.equal(value, body[name]) for name, value in found.student.live.body.state_dict().items())


def test_an_untrained_network_has_no_warm_up_and_shrinks(tmp_path):
    found = handed_to_fit(FIX, *TINY, "--arch", ARCH, "--out", tmp_path)
    assert found.before is None and found.student.shrink == 0.02 * 0.002


def test_weights_do_not_shrink(flags, tmp_path):
    found = handed_to_fit(FIX, *flags, "--out", tmp_path)
    assert found.student.shrink == 0
    assert [group["lr"] for group in found.student.optimizer.param_groups] == [0.0005, 0.0002]


@pytest.mark.parametrize("script", CO_LEARNING)
def test_co_learning_takes_data_and_network_from_its_stage_1(script, flags, weights, tmp_path):
    """Of all that both stages should agree in; what is given counts; the weights' file is not asked for again."""
    first, out = tmp_path / "first", tmp_path / "second"
    assert_runs(script.replace("_cossl", ""), *flags, *STEPS, "--tune", "last:3", "--out", first)
    more = ["--batch-size", 16, "--warm_tfe", 1, "--gpu", "cpu", "--epochs", 1, "--val-iteration", 2]
    assert_runs(script, "--resume", first / "checkpoint.pth.tar", *more, "--out", out)
    a, b = (load_checkpoint(path / "checkpoint.pth.tar") for path in (first, out))
    shared = ("dataset", "num_max", "imb_ratio_l", "manualSeed", "arch", "weights", "tune")
    assert all(a["arguments"][name] == b["arguments"][name] for name in shared)
    assert a["facts"]["weights_sha256"] == b["facts"]["weights_sha256"]
    assert b["arguments"]["batch_size"] == 16 and b["facts"]["mean"] == [0.485, 0.456, 0.406]
    frozen = next(name for name in a["state_dict"] if name.startswith("body.features.0"))
    assert torch.equal(a["state_dict"][frozen], b["state_dict"][frozen])
    refused = run_here(
        script, "--resume", first / "checkpoint.pth.tar", "--arch", "resnet18", *more, "--out", out / "x"
    )
    assert_refused(refused, "pre-trained otherwise", "--arch")


def test_a_run_that_goes_on_needs_neither_stage_1_nor_weights(stage1, tmp_path):
    first, out = tmp_path / "first.pth.tar", tmp_path / "out"
    first.write_bytes((stage1 / "checkpoint.pth.tar").read_bytes())
    flags = ["--resume", first, "--batch-size", 16, "--warm_tfe", 1, "--gpu", "cpu", "--val-iteration", 2]
    assert_runs(FIX_COSSL, *flags, "--epochs", 1, "--out", out)
    first.unlink()
    assert "mean balanced" in assert_runs(FIX_COSSL, *flags, "--epochs", 1, "--out", out).stdout


def test_weights_that_were_moved_are_the_same_and_others_are_not(stage1, flags, weights, tmp_path):
    moved, other = tmp_path / "moved.pth", tmp_path / "other.pth"
    shutil.copy(weights, moved)
    torch.save(torchvision.models.get_model(ARCH).state_dict(), other)
    for script, out in ((FIX, tmp_path / "longer"), (FIX_COSSL, tmp_path / "cossl")):
        resume = ["--resume", stage1 / "checkpoint.pth.tar", *flags, *STEPS, "--epochs", 3]
        assert_refused(run_here(script, *resume, "--weights", other, "--out", out), "--weights", str(weights))
        warm = ["--warm_tfe", 1] if script == FIX_COSSL else []
        assert_runs(script, *resume, *warm, "--weights", moved, "--out", out)
        assert load_checkpoint(out / "checkpoint.pth.tar")["arguments"]["weights"] == str(moved)


def test_killed_and_resumed_bit_for_bit(flags, two_threads, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    own = [*flags, *STEPS]
    assert_runs(FIX, *own, "--out", whole)
    result = run_forked("tests/helpers/dies_at.py", 0, 4, FIX, *own, "--out", killed)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_runs(FIX, *own, "--out", killed)
    assert_same(*(load_checkpoint(out / "checkpoint.pth.tar") for out in (whole, killed)))
    assert log_lines(whole) == log_lines(killed) and summary(whole) == summary(killed)


@pytest.mark.ranks
def test_two_ranks(flags, tmp_path):
    assert_ranks_run(FIX, *flags, *STEPS, "--out", tmp_path)
    assert summary(tmp_path)["arch"] == ARCH


@pytest.mark.parametrize("more", [["--amp"], ["--channels_last"], ["--tune", "norm"]])
def test_with_the_flags_for_speed(more, flags, tmp_path):
    assert_runs(FIX, *flags, *more, "--epochs", 1, "--val-iteration", 2, "--out", tmp_path)


def test_own_images_from_training_to_the_exported_file(weights, tmp_path):
    """Answers of predict.py and of the exported network agree, and shifted test sets can be made of the run."""
    images, out = image_folder(tmp_path / "images"), tmp_path / "fix"
    own = ["--dataset", "folder", "--data_root", images, "--img_size", 48, "--batch-size", 4, "--gpu", "cpu"]
    assert_runs(FIX, *own, "--arch", ARCH, "--weights", weights, *STEPS, "--out", out)
    checkpoint, table = out / "checkpoint.pth.tar", tmp_path / "p.csv"
    assert_runs("predict.py", "--checkpoint", checkpoint, images / "test", "--out", table, "--gpu", "cpu")
    assert_runs("export.py", checkpoint, "--to", "torch", "--out", tmp_path / "m.pt2")
    exported = torch.export.load(tmp_path / "m.pt2").module()
    from cossl import load

    predictor, classes = load(checkpoint)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    pixels, _ = predictor.read([row["file"] for row in rows])
    torch.testing.assert_close(exported(pixels), predictor(pixels), rtol=0, atol=1e-4)
    assert [classes[i] for i in predictor(pixels).argmax(dim=1)] == [row["class"] for row in rows]
    assert_runs("eval_shifted_test_distribution.py", out, "--gpu", "cpu", "--out", tmp_path / "shifted")
    assert_runs("report.py", out, "--out", tmp_path / "report")


def test_weights_of_another_network_leave_nothing(weights, tmp_path):
    result = run_here(FIX, *TINY, "--arch", "resnet18", "--weights", weights, "--out", tmp_path / "out")
    assert_refused(result, f"--weights {weights}", "resnet18")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arch", [[], ["--arch", "wrn-16-1"], ["--arch", "resnet81"]])
def test_weights_are_of_a_network_of_the_library(arch, weights, tmp_path):
    result = run_here(FIX, *TINY, *arch, "--weights", weights, "--out", tmp_path / "out")
    assert_refused(result, "--arch")
    assert not (tmp_path / "out").exists()


def test_spellings(tmp_path):
    found = handed_to_fit(FIX, *TINY, "--arch", "wrn-16-1", "--weights", "none", "--out", tmp_path).run
    assert (found.args.arch, found.args.depth, found.args.width, found.args.weights) == (None, 16, 1, None)
    for text in ("last:0", "last:", "some", "last:-1"):
        assert_refused(run_here(FIX, *TINY, "--tune", text, "--out", tmp_path), "--tune", "last:10")


def test_hardly_any_pseudo_label_is_told_once(tmp_path):
    result = assert_runs(FIX, *TINY, "--tau", 1, "--epochs", 6, "--val-iteration", 1, "--out", tmp_path)
    assert result.stderr.count("less than 1 %") == 1 and "--tau 1" in result.stderr


def test_a_forecast_after_20_steps(tmp_path):
    flags = [*TINY, "--epochs", 2, "--out", tmp_path]
    line = r"[\d.]+ steps a second: 0:00:\d\d to the end of this epoch, 0:00:\d\d to that of the run \(\d\d:\d\d\)"
    found = assert_runs(FIX, *flags, "--val-iteration", 21).stdout
    assert len(re.findall(line, found)) == 1
    assert not re.findall(line, assert_runs(FIX, *flags, "--val-iteration", 9, "--overwrite").stdout)


@pytest.mark.parametrize("size", [48, 72])
def test_cached_features_are_those_of_an_evaluation(size, weights, tmp_path):
    """Of images prepared as a recipe prepares what it is tested on, below and above 64 pixels."""
    images, file = image_folder(tmp_path / "images"), tmp_path / "f.npy"
    network = ["--arch", ARCH, "--weights", weights, "--img_size", size, "--gpu", "cpu"]
    assert_runs("cache_features.py", images, *network, "--out", file)
    data = ["--dataset", "folder", "--data_root", images, "--batch-size", 4, "--workers", 0]
    found = handed_to_fit(FIX, *data, *network, "--out", tmp_path / "out")
    with torch.no_grad():
        tested = torch.cat([found.student.ema.features(images) for images, _ in found.data.test()])
    rows = np.load(file)
    assert rows.dtype == np.float16 and rows.shape == (10 + 9 + 6, 1024)
    np.testing.assert_allclose(rows[-6:], tested.numpy(), rtol=2e-3, atol=2e-3)
    result = assert_runs("floor.py", "--data_root", images, "--features", file, "--out", tmp_path / "floor")
    assert f"on {ARCH}" in result.stdout


@pytest.mark.parametrize("given", [[], ["--arch", ARCH, "--checkpoint", "x.pth.tar"]])
def test_features_are_of_one_network(given, tmp_path):
    result = run_here("cache_features.py", tmp_path, *given, "--out", tmp_path / "f.npy")
    assert_refused(result, "--checkpoint", "--arch")


@pytest.mark.parametrize("script", ["train_cifar_fix_abc.py", "train_cifar_fix_acr.py"])
def test_a_second_head_starts_as_the_warmed_up_first(script, flags, tmp_path):
    found = handed_to_fit(script, *flags, *STEPS, "--lr", 0.001, "--lr_body", 0.0001, "--out", tmp_path)
    standard, live = found.step.state["standard_head"], found.student.live
    rates = {id(p): group["lr"] for group in found.student.optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in (*standard.parameters(), *live.output.parameters())} == {0.001}
    assert {rates[id(p)] for p in live.body.parameters() if id(p) in rates} == {0.0001}
    found.before()
    assert torch.equal(standard.weight, live.output.weight) and torch.equal(standard.bias, live.output.bias)

"""The recipes as a user runs them: outputs of a run, every mistake in one line, the published commands."""

import gzip
import json
import os
import pickle
import pty
import re
import struct
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.data_files import imbalance, write_cifar
from helpers.golden import golden
from helpers.scripts import (
    COSSL,
    FIX,
    FIX_COSSL,
    METHODS,
    MIX,
    MIX_COSSL,
    REMIX,
    REMIX_COSSL,
    ROOT,
    SHORT,
    TINY,
    assert_refused,
    assert_runs,
    command,
    environment,
    handed_to_fit,
    load_checkpoint,
    run_here,
    run_script,
)

from dataset.images import Dataset, Images
from dataset.long_tail import long_tailed
from training.progress import Progress

SUPERVISED = "train_cifar_supervised.py"
SILENT = SimpleNamespace(step=lambda t, wait: [])  # a forecast
SMALL, SMALL_COSSL = "train_small_imagenet127_fix.py", "train_small_imagenet127_fix_cossl.py"


def fashion_mnist(folder, per_class: int, compress: bool):
    """The four official files, small: random images with a bright row at the label's height."""
    folder.mkdir()
    for part, seed in (("train", 1), ("t10k", 2)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), per_class)
        images = np.random.default_rng(seed).integers(0, 60, (len(labels), 28, 28)).astype(np.uint8)
        images[np.arange(len(labels)), 2 * labels + 4] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            (folder / (f"{name}.gz" if compress else name)).write_bytes(gzip.compress(raw) if compress else raw)


@pytest.mark.parametrize("compress", [False, True])
def test_both_stages_on_fashion_mnist_files(tmp_path, compress):
    fashion_mnist(tmp_path / "data", 60, compress)
    flags = (
        f"--dataset fashion_mnist --data_root {tmp_path / 'data'} --gpu cpu --num_max 20 --ratio 2 --imb_ratio_l 10 "
        "--imb_ratio_u -10 --depth 10 --width 1 --batch-size 16 --epoch 2 --val-iteration 5"
    ).split()
    run_both_stages(FIX, flags, tmp_path)


def run_both_stages(script, flags, out):
    """Pre-train, then co-learn from the copy of the first epoch; the folder of the latter run."""
    assert_runs(script, *flags, "--out", out / "first")
    start = out / "first" / "checkpoint_1.pth.tar"
    flags = [*flags, "--max_lam", 0.6, "--resume", start]
    assert_runs(script.replace(".py", "_cossl.py"), *flags, "--out", out / "cossl")
    return out / "cossl"


@pytest.mark.parametrize("script", METHODS)
def test_cifar_in_the_official_format(script, cifar, tmp_path):
    name, root, *_ = cifar
    flags = f"--dataset {name} --data_root {root} --gpu cpu --depth 10 --width 1 --batch-size 4 --num_max 2 "
    flags += "--ratio 1 --imb_ratio_l 2 --imb_ratio_u 2 --epoch 1 --val-iteration 2"
    flags += " --align" if script == REMIX else ""
    summary = json.loads((run_both_stages(script, flags.split(), tmp_path) / "summary.json").read_text())
    num_classes = int(name[5:])
    assert len(summary["classes"]) == num_classes
    assert summary["labelled_counts"] == [2] + [1] * (num_classes - 1)


@pytest.mark.slow
def test_published_settings_of_cifar100_on_as_many_images(tmp_path, monkeypatch):
    """At num_max 150 on files that hold the 450 images of the largest class that they need."""
    write_cifar("cifar100", tmp_path, 450, monkeypatch)
    for script, gamma, align in ((FIX, 100, []), (MIX, 20, []), (REMIX, 50, ["--align"])):
        flags = f"--dataset cifar100 --data_root {tmp_path} --gpu cpu --depth 10 --width 1 --num_max 150 "
        flags += f"--batch-size 4 --imb_ratio_l {gamma} --imb_ratio_u {gamma} --epoch 1 --val-iteration 1"
        data = handed_to_fit(script, *flags.split(), *align, "--out", tmp_path / script).data
        assert (data.counts[0], data.counts[-1]) == (150, 150 // gamma)
        assert data.unlabelled_counts[0] == (450 if script == FIX else 300)
        batch = data.batches(("labelled", "unlabelled")).at(0)
        assert batch.labelled.views[0].shape == batch.unlabelled.views[0].shape == (4, 3, 32, 32)


@pytest.mark.parametrize("include_labelled", [False, True])
@pytest.mark.parametrize("gamma", [20, 50, 100])
def test_published_profiles_of_cifar100_fit_its_500_images_a_class(gamma, include_labelled):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 500))
    train = Images(np.zeros((len(labels), 1), dtype=np.uint8), labels)
    dataset = Dataset(train, train, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(100))))
    split = long_tailed(dataset, imbalance(150, 2.0, gamma, gamma), include_labelled)
    profiles = golden("imbalance_profiles.json")
    (published,) = (c["counts"] for c in profiles if (c["max_num"], c["class_num"], c["gamma"]) == (150, 100, gamma))
    assert split.counts.tolist() == np.bincount(labels[split.labelled]).tolist() == published
    assert split.unlabelled_counts.tolist() == np.bincount(labels[split.unlabelled]).tolist()
    assert split.unlabelled_counts[[0, -1]].tolist() == [
        300 + 150 * include_labelled,
        300 // gamma + 150 // gamma * include_labelled,
    ]


def test_what_a_run_leaves(pretrained):
    summary = json.loads((pretrained / "summary.json").read_text())
    assert summary["method"] == "FixMatch"
    assert (summary["epochs"], summary["epochs_averaged"]) == (2, 1)
    for part in ("last_20_mean", "last_epoch", "best"):
        assert set(summary[part]) >= {"top1", "balanced", "gm", "many", "medium", "few", "recall", "loss"}
    assert len(summary["last_20_mean"]["recall"]) == len(summary["classes"]) == 10
    assert summary["arguments"]["val_iteration"] == 6
    assert summary["arguments"]["recipe"] == "train_cifar_fix"
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert load_checkpoint(pretrained / "checkpoint.pth.tar")["versions"] == summary["versions"]
    assert summary["wall_seconds"] > 0
    header, *rows = [line.split("\t") for line in (pretrained / "log.txt").read_text().splitlines()]
    assert header[:5] == ["epoch", "loss", "loss_x", "loss_u", "mask"]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(len(row) == len(header) for row in rows)
    last = float(rows[-1][header.index("balanced")])
    assert last == pytest.approx(summary["last_20_mean"]["balanced"], rel=1e-4)


def test_tensorboard_scalars(pretrained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(pretrained / "tensorboard")).Reload()
    assert {"train/loss", "train/mask", "test/balanced", "test/gm"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("test/top1")] == [1, 2]


@pytest.mark.slow
def test_plain_lines_where_there_is_no_terminal(tmp_path):
    result = run_script(FIX, *TINY, "--epoch", 3, "--val-iteration", 2, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 3
    assert re.search(r"\d+ labelled +40 .* 2\n", result.stdout)
    assert "mean balanced accuracy" in lines[-2]
    assert str(tmp_path) in lines[-1]
    assert "\r" not in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 200])
def test_progress_bar_on_a_terminal(columns, tmp_path):
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command(FIX, *TINY, "--epoch", 2, "--val-iteration", 5, "--out", tmp_path),
        cwd=ROOT,
        stdout=terminal,
        stderr=terminal,
        env=environment(COLUMNS=str(columns), TERM="xterm"),
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(main, 65536)
        except OSError:  # the terminal's other end is closed
            break
    os.close(main)
    assert process.wait() == 0, shown.decode()
    text = shown.decode()
    assert "mean balanced accuracy" in text
    bars = [part for part in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;]*m", "", text)) if "ETA" in part]
    assert max(map(len, bars)) <= columns
    first = next(bar for bar in bars if "epoch" in bar)  # the first step is always shown
    assert re.search(r"10% .* ETA: .+ epoch 1/2  loss \d", first), text
    assert columns < 200 or all(word in first for word in ("loss_u", "mask", "acc_u")), text


def test_a_bar_is_drawn_at_most_twice_a_second(monkeypatch):
    progress, drawn = Progress(1, 4, 0, SILENT), []
    progress.bar = SimpleNamespace(update=lambda t, force, figures: drawn.append((t, force, figures)))
    for t, now in enumerate((100.0, 100.3, 100.6, 101.2), 1):
        monkeypatch.setattr("training.progress.time", SimpleNamespace(monotonic=lambda now=now: now))
        progress.step(t, lambda t=t: {"loss": t})
    assert drawn == [(t, True, f"epoch 1/1  loss {t}") for t in (1, 3, 4)]


def test_an_epochs_line_fits_100_columns(capsys):
    """What matters first; the rest is in log.txt."""
    names = ["acc_u", "loss_x", "mask", "loss", "loss_u", "loss_rot", "acc_selected"]
    test = dict.fromkeys(["loss", "top1", "balanced", "gm", "many", "medium", "few", "ece"], 98.76543)
    row = {"train": dict.fromkeys(names, 0.123456), "test": test | {"recall": [1.0]}}
    Progress(5000, 1, 0, SILENT).epoch(1234, row, {"waited_s": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line) <= 100 and re.match(r"epoch 1234/5000  loss 0.1235  balanced 98.77  few 98.77 .* left$", line)


PUBLISHED = "--ratio 2 --val-iteration 500 --manualSeed 1 --gpu 0 --start-epoch 3 --step --out result"


@pytest.mark.parametrize("script", [*METHODS, *COSSL])
@pytest.mark.parametrize(("dataset", "num_max", "gamma"), [("cifar10", 1500, 150), ("cifar100", 150, 20)])
def test_published_commands_get_as_far_as_the_data(script, dataset, num_max, gamma, pretrained, tmp_path):
    """Here CIFAR can't be had, so the flags are all that is tried; the data come last of what can be wrong."""
    flags = f"{PUBLISHED} --dataset {dataset} --num_max {num_max} --imb_ratio_l {gamma} --imb_ratio_u {gamma}".split()
    flags += ["--align"] if "remix" in script else []
    flags += ["--epoch", "500"]
    if script in COSSL:
        state, start = load_checkpoint(pretrained / "checkpoint.pth.tar"), tmp_path / "published"
        torch.save({key: state[key] for key in ("epoch", "state_dict", "ema_state_dict", "optimizer")}, start)
        flags += ["--epoch", "100", "--max_lam", "0.6", "--resume", start]
    damaged = tmp_path / f"cifar-{dataset[5:]}-python.tar.gz"
    damaged.write_bytes(b"cut short")
    assert_refused(run_here(script, *flags, "--data_root", tmp_path), str(damaged))


COMMON_DEFAULTS = {
    "--epochs": "500",
    "--batch-size": "64",
    "--lr": "0.002",
    "--val-iteration": "500",
    "--ema-decay": "0.999",
    "--manualSeed": "0",
    "--gpu": "0",
    "--out": "result",
    "--data_root": "data",
    "--copy_every": "100",
}
CIFAR_DEFAULTS = {
    "--dataset": "cifar10",
    "--num_max": "1500",
    "--ratio": "2.0",
    "--imb_ratio_l": "100",
    "--imb_ratio_u": "100",
    "--width": "2",
    "--depth": "28",
}
COSSL_DEFAULTS = {
    "--epochs": "400",
    "--max_lam": "0.8",
    "--lr_tfe": "0.002",
    "--wd_tfe": "0.0005",
    "--warm_tfe": "10",
    "--classifier": "tfe",
}
MIX_DEFAULTS = {"--mix_alpha": "0.75", "--T": "0.5", "--lambda-u": "75"}
OWN_DEFAULTS = {
    FIX: CIFAR_DEFAULTS | {"--tau": "0.95"},
    MIX: CIFAR_DEFAULTS | MIX_DEFAULTS,
    REMIX: CIFAR_DEFAULTS | MIX_DEFAULTS | {"--lambda-u": "1.5", "--w_rot": "0.5", "--w_ent": "0.5"},
    SUPERVISED: CIFAR_DEFAULTS,
    SMALL: {"--img_size": "32", "--labeled_percent": "0.1", "--mu": "1", "--width": "64", "--tau": "0.95"},
}


@pytest.mark.parametrize("script", [*METHODS, *COSSL, SUPERVISED, SMALL, SMALL_COSSL])
def test_help_names_every_published_flag_with_its_default(script):
    text = " ".join(assert_runs(script, "--help").stdout.split())
    defaults = COMMON_DEFAULTS | OWN_DEFAULTS[script.replace("_cossl", "")]
    for flag, default in (defaults | COSSL_DEFAULTS if "cossl" in script else defaults).items():
        about = re.search(rf" {flag},? (?:(?!(?<!,) --).)*", text)  # up to the next flag, but for other spellings
        assert about and f"(default: {default})" in about[0], flag
    assert "None" not in text
    switches = ["--learning-rate", "--epoch", "--resume", "--overwrite", *["--align"] * ("remix" in script)]
    assert all(f" {switch} " in text for switch in switches)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--dataset svhn", ["--dataset", "svhn", "cifar100", "digits"]),
        ("--imb_ratio_l 0", ["--imb_ratio_l", "'0'"]),
        ("--imb_ratio_u 0", ["--imb_ratio_u", "'0'"]),
        ("--num_max 500", ["--num_max", "class 0", "has only", "lower"]),
        ("--num_max -3", ["--num_max", "'-3'"]),
        ("--batch-size 0", ["--batch-size", "above 0"]),
        ("--batch-size 200", ["--batch-size 200", "labelled set has only"]),
        ("--epochs x", ["--epochs", "whole number"]),
        ("--lr -1", ["--lr", "above 0"]),
        ("--tau 1.5", ["--tau", "from 0 to 1"]),
        ("--depth 12", ["--depth", "6 n + 4"]),
        ("--gpu one", ["--gpu", "cpu"]),
        ("--out=", ["--out", "expected a path"]),
        ("--manualSeed -1", ["--manualSeed"]),
        ("--resume nowhere/checkpoint.pth.tar", ["--resume nowhere/checkpoint.pth.tar", "no such file"]),
        ("--nonsense 3", ["--nonsense"]),
        ("--copy_every 0", ["--copy_every", "above 0"]),
        ("--T 0.5", ["--T 0.5"]),
    ],
)
def test_wrong_flags(flags, words, tmp_path):
    refused_flags(FIX, flags, words, tmp_path / "out")


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        (MIX, "--T 0", ["--T", "0.001 to 1000"]),
        (MIX, "--mix_alpha -1", ["--mix_alpha", "0.001 to 1000", "'-1'"]),
        (REMIX, "--mix_alpha 1e-50", ["--mix_alpha", "0.001 to 1000"]),
        (MIX, "--lambda-u x", ["--lambda-u", "at least 0", "'x'"]),
        (MIX, "--w_rot 1", ["--w_rot 1"]),
        (REMIX, "--T nan", ["--T", "0.001 to 1000"]),
        (REMIX, "--w_rot -1", ["--w_rot", "at least 0"]),
        (REMIX, "--w_ent inf", ["--w_ent", "at least 0"]),
        (REMIX, "--align 1", ["unrecognized arguments: 1"]),
        (FIX_COSSL, "--classifier svm", ["--classifier", "svm", "tfe", "crt"]),
        (MIX_COSSL, "--max_lam 2", ["--max_lam", "from 0 to 1"]),
        (REMIX_COSSL, "--warm_tfe 0", ["--warm_tfe", "above 0"]),
        (SUPERVISED, "--tau 0.9", ["--tau 0.9"]),
    ],
)
def test_wrong_flags_of_the_other_recipes(script, flags, words, tmp_path):
    start = "--resume somewhere " if script in COSSL else ""
    refused_flags(script, start + flags, words, tmp_path / "out")


def refused_flags(script, flags, words, out):
    assert_refused(run_here(script, *TINY, *SHORT, "--out", out, *flags.split()), *words)
    assert not out.exists()


def test_missing_data_files(tmp_path):
    fashion_mnist(tmp_path / "data", 60, False)
    missing = tmp_path / "data" / "t10k-labels-idx1-ubyte"
    missing.rename(tmp_path / "elsewhere")
    flags = ["--dataset", "fashion_mnist", "--data_root", tmp_path / "data", "--out", tmp_path / "out"]
    assert_refused(run_here(FIX, *TINY, *SHORT, *flags), missing.name, str(tmp_path / "data"))
    missing.write_bytes((tmp_path / "elsewhere").read_bytes()[:-3])
    assert_refused(run_here(FIX, *TINY, *SHORT, *flags), str(missing))
    assert not (tmp_path / "out").exists()


def test_unwritable_out(tmp_path):
    (tmp_path / "file").write_text("")
    result = run_here(FIX, *TINY, *SHORT, "--out", tmp_path / "file" / "out")
    assert_refused(result, "--out", str(tmp_path / "file"))


@pytest.fixture
def broken_checkpoint(request, pretrained, tmp_path):
    """A file that is no checkpoint that CoSSL can start from, of the kind asked for."""
    path, whole = tmp_path / "broken.pth.tar", pretrained / "checkpoint.pth.tar"
    state = load_checkpoint(whole)
    if request.param == "truncated":
        path.write_bytes(whole.read_bytes()[:-1000])
    elif request.param == "text":
        path.write_text("not a checkpoint")
    elif request.param == "empty":
        path.write_bytes(b"")
    elif request.param == "foreign":
        torch.save({"model": state["state_dict"]}, path)
    elif request.param == "list":
        torch.save([1, 2, 3], path)
    elif request.param == "code":
        path.write_bytes(pickle.dumps(print))
    elif request.param == "cossl":
        torch.save(state | {"teacher_head": {}}, path)
    elif request.param == "damaged":
        torch.save(state | {"arguments": [1]}, path)
    elif request.param == "otherwise":
        state["state_dict"] = {"weight": torch.zeros(3)}
        torch.save(state, path)
    return path


KINDS = ["truncated", "text", "empty", "foreign", "list", "code", "cossl", "damaged", "otherwise"]


@pytest.mark.parametrize("broken_checkpoint", KINDS, indirect=True)
def test_broken_checkpoints(broken_checkpoint, tmp_path):
    out = tmp_path / "out"
    flags = [*TINY, *SHORT, "--resume", broken_checkpoint, "--out", out]
    assert_refused(run_here(FIX_COSSL, *flags), str(broken_checkpoint))
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--width 2", ["--width (1 there, 2 now)"]),
        ("--depth 16", ["--depth (10 there, 16 now)"]),
        ("--dataset cifar10", ["--dataset (digits there, cifar10 now)"]),
    ],
)
@pytest.mark.parametrize("script", [FIX, FIX_COSSL])
def test_checkpoint_of_another_network_or_data_set(script, flags, words, pretrained, tmp_path):
    start = ["--resume", pretrained / "checkpoint.pth.tar", "--out", tmp_path / "out"]
    assert_refused(run_here(script, *TINY, *SHORT, *start, *flags.split()), "--resume", *words)
    assert not (tmp_path / "out").exists()


def test_published_checkpoint_of_another_width(pretrained, tmp_path):
    state = load_checkpoint(pretrained / "checkpoint.pth.tar")
    del state["arguments"]
    torch.save(state, tmp_path / "published.pth.tar")
    flags = ["--resume", tmp_path / "published.pth.tar", "--out", tmp_path / "out", "--width", 2]
    assert_refused(run_here(FIX_COSSL, *TINY, *SHORT, *flags), "published.pth.tar", "--width")
    assert not (tmp_path / "out").exists()


def test_another_split_than_in_pretraining_is_said(pretrained, tmp_path):
    flags = ["--resume", pretrained / "checkpoint.pth.tar", "--out", tmp_path, "--manualSeed", 2]
    result = assert_runs(FIX_COSSL, *TINY, *SHORT, *flags)
    assert "--manualSeed (1 there, 2 now)" in result.stderr


@pytest.mark.parametrize("script", COSSL)
def test_supervised_checkpoint_starts_any_co_learning(script, pretrained_by, tmp_path):
    start = pretrained_by(SUPERVISED) / "checkpoint.pth.tar"
    result = assert_runs(script, *TINY, *SHORT, "--resume", start, "--out", tmp_path)
    now = script.replace("_cossl.py", "")
    assert f"script (train_cifar_supervised there, {now} now)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_co_learning_with_crt(pretrained, tmp_path):
    """Its summary says so, and the run isn't continued with the other learner."""
    flags = [*TINY, *SHORT, "--resume", pretrained / "checkpoint.pth.tar", "--out", tmp_path]
    assert_runs(FIX_COSSL, *flags, "--classifier", "crt")
    assert json.loads((tmp_path / "summary.json").read_text())["arguments"]["classifier"] == "crt"
    assert_refused(run_here(FIX_COSSL, *flags), "--classifier (crt there, tfe now)")


@pytest.mark.parametrize("start", [[], ["--resume", ""], ["--resume", ROOT]])
def test_cossl_needs_a_checkpoint(start, tmp_path):
    assert_refused(run_here(FIX_COSSL, *TINY, *SHORT, *start, "--out", tmp_path / "out"), "--resume")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", [FIX, FIX_COSSL])
def test_overwriting_the_checkpoint_to_start_from_is_refused(script, pretrained):
    flags = ["--resume", pretrained / "checkpoint_1.pth.tar", "--out", pretrained, "--overwrite"]
    assert_refused(run_here(script, *TINY, *SHORT, *flags), "--overwrite would delete", "checkpoint_1.pth.tar")
    assert (pretrained / "checkpoint_1.pth.tar").exists()


@pytest.mark.parametrize("script", METHODS)
def test_diverging_loss_ends_the_run_in_one_line(script, tmp_path):
    flags = ["--epoch", 3, "--val-iteration", 20, "--lr", "1e8", "--out", tmp_path]
    assert_refused(run_here(script, *TINY, *flags), "--lr 1e+08", "step ", "loss_", "a lower learning rate")


@pytest.mark.slow
def test_benchmark_of_the_augmentation_runs():
    result = run_script("benchmarks/augmentation.py", "--batch", 4, "--size", 16, "--seconds", 0.1)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\nratio +\d+\.\d\n", result.stdout)

"""The scripts that repeat the published runs: what they run, in which order, and what they skip."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.scripts import HANG, ROOT

from dataset.images import Dataset, Files
from dataset.long_tail import class_counts
from reporting.groups import paper_of
from reporting.protocol import NAMED_APART
from reporting.runs import FinishedRun
from utils.args import PLACE, SPEED, plain
from utils.flags import with_role

SCRIPTS = {
    "run_cifar10.sh": ("cifar10", 1500, ("mix", "remix", "fix"), (50, 100, 150)),
    "run_cifar100.sh": ("cifar100", 150, ("remix", "fix"), (20, 50, 100)),
}
SMALL_IMAGENET, FOOD = "run_smallimagenet127.sh", "run_food101.sh"


def bash(script, *arguments, **environment):
    command = ["bash", str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=os.environ | environment)


def printed(script, *arguments) -> list[list[str]]:
    """Each printed line's two commands."""
    result = bash(script, "--print", *arguments)
    assert result.returncode == 0, result.stderr
    return [line.split(" && ") for line in result.stdout.splitlines()]


@pytest.fixture
def parsed(monkeypatch):
    """A command -> its script, and its arguments as that script's own parser reads them."""

    class Parsed(Exception):
        pass

    def stop(args):
        raise Parsed(args)

    def parse(command):
        _, script, *flags = shlex.split(command)
        recipe = importlib.import_module(script.removesuffix(".py"))
        monkeypatch.setattr(recipe, "open_run", stop)
        monkeypatch.setattr(sys, "argv", [script, *flags])
        with pytest.raises(Parsed) as caught:
            recipe.main()
        return script, caught.value.args[0]

    return parse


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_published_run(script, parsed):
    dataset, num_max, methods, gammas = SCRIPTS[script]
    runs = set()
    for pretrain, cossl in printed(script):
        (first, a), (second, b) = parsed(pretrain), parsed(cossl)
        method = first.removeprefix("train_cifar_").removesuffix(".py")
        assert second == f"train_cifar_{method}_cossl.py"
        assert (a.epochs, b.epochs, b.max_lam) == (500, 100, 0.6)
        for args in (a, b):
            assert (args.dataset, args.num_max, args.ratio, args.val_iteration) == (dataset, num_max, 2, 500)
            assert args.imb_ratio_l == args.imb_ratio_u == a.imb_ratio_l
            assert (args.manualSeed, args.gpu, args.batch_size, args.width) == (1, "0", 64, 2)
            assert getattr(args, "align", None) is (True if method == "remix" else None)
        # The copy that co-learning starts from is one that pre-training writes.
        assert b.resume == a.out / "checkpoint_401.pth.tar"
        assert a.epochs >= 401 and 401 % a.copy_every == 1
        assert a.out != b.out
        runs.add((method, a.imb_ratio_l, a.out, b.out))
    assert {run[:2] for run in runs} == {(method, gamma) for method in methods for gamma in gammas}
    assert len({out for run in runs for out in run[2:]}) == 2 * len(methods) * len(gammas)


def test_every_published_run_of_small_imagenet127(parsed):
    sizes = []
    for pretrain, cossl in printed(SMALL_IMAGENET):
        (first, a), (second, b) = parsed(pretrain), parsed(cossl)
        assert (first, second) == ("train_small_imagenet127_fix.py", "train_small_imagenet127_fix_cossl.py")
        assert (a.epochs, b.epochs, b.max_lam) == (500, 100, 0.6)
        for args in (a, b):
            assert (args.val_iteration, args.labeled_percent, args.mu, args.tau) == (500, 0.1, 1, 0.95)
            assert (args.manualSeed, args.gpu, args.batch_size, args.lr, args.width) == (1, "0", 64, 0.002, 64)
            assert args.img_size == a.img_size
        assert b.resume == a.out / "checkpoint_401.pth.tar"
        assert a.epochs >= 401 and 401 % a.copy_every == 1
        assert a.out != b.out
        sizes.append(a.img_size)
    assert sizes == [32, 64]
    assert "prepare_small_imagenet_127.py" in bash(SMALL_IMAGENET, "--help").stdout.split("--data_root  ")[1]


@pytest.fixture
def no_food(monkeypatch):
    """Food-101 without its files."""
    files = Files([""] * 101 * 1000, np.repeat(np.arange(101), 1000))
    data = Dataset(files, files, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(101))))
    monkeypatch.setattr("dataset.food101.load_food101", lambda root: data)


def test_every_published_run_of_food101(parsed, no_food):
    gammas = []
    for pretrain, cossl in printed(FOOD):
        (first, a), (second, b) = parsed(pretrain), parsed(cossl)
        assert (first, second) == ("train_food_fix.py", "train_food_fix_cossl.py")
        assert (a.epochs, a.decay_epochs, a.warmup_epochs, b.epochs, b.max_lam) == (1000, 9000, 5, 200, 0.6)
        assert (a.ema_decay, b.ema_decay, b.lr_tfe, b.wd_tfe, b.warm_tfe) == (0.999, 0.9, 0.04, 5e-4, 5)
        for args in (a, b):
            assert (args.num_max, args.ratio, args.batch_size, args.mu) == (250, 2, 256, 2)
            assert (args.lr, args.wd) == (0.04, 3e-4)
            assert (args.tau, args.img_size, args.depth, args.manualSeed, args.gpu) == (0.9, 224, 50, 1, "0")
            assert args.imb_ratio_l == args.imb_ratio_u == a.imb_ratio_l
            sets = (class_counts(n, 101, args.imb_ratio_l).sum() for n in (250, 500))
            assert sum(sets) // (args.mu * args.batch_size) == {50: 37, 100: 32}[args.imb_ratio_l]  # steps per epoch
        assert b.resume == a.out / "checkpoint_801.pth.tar"
        assert a.epochs >= 801 and 801 % a.copy_every == 1
        assert a.out != b.out
        gammas.append(a.imb_ratio_l)
    assert gammas == [50, 100]


METHODS = {"mix": "MixMatch+CoSSL", "remix": "ReMixMatch+CoSSL", "fix": "FixMatch+CoSSL"}
# What decides no number: MixMatch's co-learning has no such weight, only folders are resized, and the data decide.
UNUSED = {("mix", "lambda_u"), ("cifar", "img_size"), ("food", "val_iteration")}


@pytest.mark.parametrize("script", [*SCRIPTS, SMALL_IMAGENET, FOOD])
def test_the_report_knows_the_published_runs_and_no_others(script, parsed, no_food):
    """Their commands have published figures; with any argument changed, none, or one marked as of another budget."""
    decides_nothing = {*with_role(PLACE, SPEED), *NAMED_APART} - {"dataset"}
    for _, command in printed(script):
        recipe, args = parsed(command)
        _, data, *_, method, _ = recipe.removesuffix(".py").split("_")
        start = int(args.resume.name.removeprefix("checkpoint_").removesuffix(".pth.tar"))
        facts = {"method": METHODS[method], "start_epoch": start}
        figure, budget = beside(plain(args), facts)
        assert figure is not None and budget == "", command
        for name, value in plain(args).items():
            if value is None or {(method, name), (data, name)} & UNUSED or name in decides_nothing:
                continue
            other = {bool: lambda v: not v, str: lambda v: "crt"}.get(type(value), lambda v: 3 * v)(value)
            figure, budget = beside(plain(args) | {name: other}, facts)
            assert figure is None or budget, name
        assert beside(plain(args), facts | {"start_epoch": 1})[1]


def beside(arguments, facts):
    return paper_of(FinishedRun("folder", "finished", [], facts | {"arguments": arguments}))


def test_some_methods_and_imbalances_for_fewer_epochs(parsed):
    """Co-learning then starts where pre-training ends."""
    lines = printed("run_cifar10.sh", "--methods", "mix,fix", "--gammas", "100", "--epochs", "20,4")
    runs = [[parsed(command)[1] for command in line] for line in lines]
    assert [first.out.parent.name for first, _ in runs] == ["mix-gamma100-seed1", "fix-gamma100-seed1"]
    for first, second in runs:
        assert (first.epochs, second.epochs, second.max_lam) == (20, 4, 0.6)
        assert second.resume == first.out / "checkpoint.pth.tar"


def test_seeds_devices_and_folders_pass_through(parsed, tmp_path):
    data, out = tmp_path / "my data", tmp_path / "my results"
    lines = printed("run_cifar10.sh", "--seeds", "1,2,3", "--gpus", "0,1", "--data_root", data, "--out", out)
    runs = [parsed(command)[1] for line in lines for command in line]
    assert len(lines) == 27
    assert len({args.out for args in runs}) == 54
    assert {args.manualSeed for args in runs} == {1, 2, 3}
    assert [args.gpu for args in runs] == ["0", "0", "1", "1"] * 13 + ["0", "0"]
    assert all(args.data_root == data and out in args.out.parents for args in runs)


@pytest.fixture
def python(tmp_path):
    """Stands in for Python: notes its arguments, leaves a summary; fails with the code in the file `fail`."""
    path, notes = tmp_path / "python", tmp_path / "notes"
    path.write_text(
        f'#!/bin/bash\necho "$@" >> {notes}\n[ ! -e {tmp_path}/fail ] || exit $(cat {tmp_path}/fail)\n'
        'while [ "$1" != --out ]; do shift; done\nmkdir -p "$2"\n'
        'echo \'  "status": "finished",\' > "$2/summary.json"\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("gpus", ["cpu", "0,1"])
def test_runs_all_and_skips_what_is_finished(gpus, python, tmp_path):
    notes, out = tmp_path / "notes", tmp_path / "some runs"
    result = bash("run_cifar100.sh", "--gpus", gpus, "--out", out, PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    device = re.compile(r"--gpu \S+")  # printed lines take turns, runs take the device that is free
    assert sorted(device.sub("", line) for line in notes.read_text().splitlines()) == sorted(
        device.sub("", " ".join(shlex.split(command)[1:]))
        for line in printed("run_cifar100.sh", "--gpus", gpus, "--out", out)
        for command in line
    )
    assert set(device.findall(notes.read_text())) <= {f"--gpu {name}" for name in gpus.split(",")}
    notes.unlink()
    (out / "cifar100" / "fix-gamma50-seed1" / "cossl" / "summary.json").unlink()
    result = bash("run_cifar100.sh", "--gpus", gpus, "--out", out, PYTHON=str(python))
    assert result.stdout.count("finished before") == 5
    ran = notes.read_text().splitlines()  # an interrupted pair goes on: its pre-training, finished, trains no more
    assert [line.split()[0] for line in ran] == ["train_cifar_fix.py", "train_cifar_fix_cossl.py"]
    assert all("--imb_ratio_l 50 " in line for line in ran)


@pytest.mark.parametrize("gpus", ["cpu", "0,1"])
def test_a_run_is_told_how_much_follows_it(gpus, tmp_path):
    """In epochs like its own, for the forecast of the list's end; what is finished doesn't count."""
    python, notes, out = tmp_path / "python", tmp_path / "notes", tmp_path / "out"
    python.write_text(f'#!/bin/bash\necho "$1 $LIST_AFTER" >> {notes}\n')
    python.chmod(0o755)
    done = out / "cifar10" / "fix-gamma100-seed1" / "cossl"
    done.mkdir(parents=True)
    (done / "summary.json").write_text('"status": "finished"')
    flags = ["--methods", "remix,fix", "--gammas", "50,100", "--epochs", "40,10", "--gpus", gpus, "--out", out]
    result = bash("run_cifar10.sh", *flags, PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    costs = {"remix": (195, 234), "fix": (100, 120)}  # of a step of both stages
    pairs, expected = ["remix", "remix", "fix"], []
    for i, name in enumerate(pairs):
        rest = sum(40 * costs[other][0] + 10 * costs[other][1] for other in pairs[i + 1 :]) // len(gpus.split(","))
        first, second = costs[name]
        expected.append(f"train_cifar_{name}.py {(rest + 10 * second) // first}")
        expected.append(f"train_cifar_{name}_cossl.py {rest // second}")
    assert sorted(notes.read_text().splitlines()) == sorted(expected)


def test_a_failed_run_is_named_and_the_others_are_done(python, tmp_path):
    (tmp_path / "fail").write_text("1")
    result = bash("run_cifar10.sh", "--out", tmp_path / "out", PYTHON=str(python))
    assert result.returncode == 123
    assert len((tmp_path / "notes").read_text().splitlines()) == 9  # no co-learning without its pre-training
    errors = result.stderr.splitlines()
    assert len(errors) == 9
    assert "mix-gamma50-seed1: stopped, the same command goes on" in errors[0]


def test_a_run_takes_the_device_that_is_free(tmp_path):
    """The first run on device 0 waits until all others are done on device 1."""
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(
        f'#!/bin/bash\nuntil [ "$(ls {out} | wc -l)" = 5 ] || [[ " $* " != *" --gpu 0 "* ]]; do sleep 0.05; done\n'
        f'while [ "$1" != --out ]; do shift; done\n[[ "$2" != */cossl ]] || mktemp -p {out}\n'
    )
    python.chmod(0o755)
    out.mkdir()
    result = bash("run_cifar100.sh", "--gpus", "0,1", "--out", out, PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    began = [line.split(":")[0] for line in result.stdout.splitlines() if line.endswith("-seed1")]
    assert sorted(began) == ["gpu 0"] + 5 * ["gpu 1"]


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["cpu", "0,1"])
def test_an_interrupt_reaches_the_runs(gpus, tmp_path):
    """Whoever ends the script ends what it started: else the same command would train beside it."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/bash\ntrap 'touch {tmp_path}/ended-$$; exit 130' TERM\ntouch {tmp_path}/began-$$\n"
        "for i in {1..6000}; do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    command = ["bash", str(ROOT / "run_cifar10.sh"), "--gpus", gpus, "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHON": str(python)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    number = len(gpus.split(","))
    deadline = time.monotonic() + HANG
    while len(list(tmp_path.glob("began-*"))) < number and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, problem = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert "interrupted: the same command goes on" in problem
    assert len(list(tmp_path.glob("ended-*"))) == len(list(tmp_path.glob("began-*"))) == number


def test_many_seeds_are_no_longer_command_than_few(python, tmp_path):
    result = bash("run_cifar100.sh", "--seeds", ",".join(map(str, range(25))), "--out", tmp_path, PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "notes").read_text().splitlines()) == 2 * 6 * 25


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--seeds", "1;2"], "--seeds 1;2"),
        (["--seeds", "7,2,007"], "--seeds: 7 stands there twice"),
        (["--gpus", "0,"], "--gpus 0,"),
        (["--out"], "--out needs a value"),
        (["--data_root", ""], "--data_root needs a value"),
        (["--fast"], "--fast: unknown"),
        (["--epochs", "5"], "--epochs 5"),
        (["--methods", "abc"], "none of this script's runs"),
        (["--gammas", "7"], "none of this script's runs"),
    ],
)
@pytest.mark.parametrize("script", [*SCRIPTS, SMALL_IMAGENET, FOOD])
def test_wrong_options_are_one_line(script, flags, word):
    result = bash(script, *flags)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert word in result.stderr and "usage: bash " + script in result.stderr


@pytest.mark.parametrize("script", [*SCRIPTS, SMALL_IMAGENET, FOOD])
def test_help(script):
    result = bash(script, "--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in ("00 epochs", "--print", "--seeds", "--gpus", "--data_root", "--out"))
    assert "set -e" not in result.stdout

"""Two gloo processes under torchrun train what one process does that forwards the same rows in the same chunks; ranks
that die end the run in a line, and its checkpoint goes on with any number of them.
"""

import json
import shutil
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers.data_files import imbalance
from helpers.forked import assert_ranks_run, forked_ranks
from helpers.ranks import STEPS, composed, result
from helpers.scripts import (
    FIX,
    HANG,
    ROOT,
    TINY,
    assert_refused,
    assert_runs,
    environment,
    load_checkpoint,
    log_lines,
    run_here,
    run_ranks,
    steps,
)

from dataset.batches import Batches, Minibatch
from dataset.crop_views import draw_crop_views
from dataset.folder import UNKNOWN
from dataset.food101 import load_food101
from dataset.image_loader import ImageLoader
from dataset.images import Images
from dataset.long_tail import long_tailed
from dataset.pixels import Pixels
from dataset.stream import Stream
from dataset.streams import Sampling, file_streams
from methods.averaged import Averaged
from utils.device import pick_device
from utils.errors import UserError
from utils.ranks import my_rows

SCRIPTS = [f"train_cifar_{name}{stage}.py" for name in ("fix", "mix", "remix") for stage in ("", "_cossl")]
SCRIPTS += [f"train_{name}_fix{stage}.py" for name in ("food", "small_imagenet127") for stage in ("", "_cossl")]
PRIOR_COSSL, CDMAD = "train_cifar_fix_prior_cossl.py", "train_cifar_fix_cdmad.py"
OTHERWISE = ["train_cifar_fix_prior.py", "train_cifar_fix_abc.py", "train_cifar_fix_acr.py", PRIOR_COSSL]
SCRIPTS += [*OTHERWISE, CDMAD]
SCRIPTS += ["train_cifar_fix_prior.py --preset adello", "train_cifar_fix_prior.py --published_prior"]
SCRIPTS += ["train_cifar_fix_abc.py --keep published", "train_cifar_fix_cossl.py --classifier abc"]
SCRIPTS += ["train_cifar_fix_cossl.py --classifier caa", "train_cifar_fix_acr.py --labels_by live"]


def own_lines(stderr: str) -> list[str]:
    """The lines that scripts write, without torchrun's report."""
    return [line for line in stderr.splitlines() if "error: " in line or "interrupted" in line]


class Chunks:
    """A step of two ranks in one process: their rows forwarded one after the other, from equal networks.

    Each rank goes twice: what it would tell the other before its loss is there (sums of guesses) is heard in the first
    round, and used in the second.
    """

    def __init__(self, objects: dict, as_rank) -> None:
        self.as_rank, self.heard, self.said = as_rank, None, []
        modules = [thing for thing in objects.values() if isinstance(thing, torch.nn.Module)]
        self.buffers = [buffer for module in modules for buffer in module.buffers()]
        self.left, self.rates = {}, {}

    def descend(self, averaged: Averaged, loss: torch.Tensor) -> None:
        averaged.optimizer.zero_grad()
        loss.backward()
        gradients = [None if p.grad is None else p.grad.clone() for p in averaged._learning()]
        self.left.setdefault(averaged, []).append((gradients, [b.clone() for b in averaged.live.buffers()]))
        self.rates[averaged] = [group["lr"] for group in averaged.optimizer.param_groups]  # a schedule goes on

    def mean_over_ranks(self, tensors: list[torch.Tensor]) -> None:
        said = self.said[-1]
        said.append([tensor.clone() for tensor in tensors])
        if self.heard is not None:
            for tensor, *both in zip(tensors, *(of_rank[len(said) - 1] for of_rank in self.heard), strict=True):
                tensor.copy_(sum(both) / 2)

    def round(self, step, batches, t: int) -> list[torch.Tensor]:
        before = [buffer.clone() for buffer in self.buffers]
        self.said, self.left = [], {}
        for rank in (0, 1):
            self.said.append([])
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
            self.as_rank(rank)
            of_rank = type(batches)(batches.streams, batches.draws, batches.seed, batches.name)
            step(of_rank.at(t))
        return before

    def step(self, step, batches, t: int) -> None:
        self.heard = None
        for buffer, value in zip(self.buffers, self.round(step, batches, t), strict=True):
            buffer.copy_(value)
        self.heard = self.said
        self.round(step, batches, t)
        for averaged, ((grads_0, buffers_0), (grads_1, buffers_1)) in self.left.items():
            for p, a, b in zip(averaged._learning(), grads_0, grads_1, strict=True):
                p.grad = None if a is None else (a + b) / 2
            for buffer, a, b in zip(averaged.live.buffers(), buffers_0, buffers_1, strict=True):
                buffer.copy_((a + b) / 2)
            now = [group["lr"] for group in averaged.optimizer.param_groups]
            set_rates(averaged, self.rates[averaged])
            averaged.optimizer.step()
            set_rates(averaged, now)
            averaged.average()


def set_rates(averaged: Averaged, rates: list[float]) -> None:
    for group, rate in zip(averaged.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


@pytest.fixture(scope="module")
def both_ranks(tiny, pretrained_by, tmp_path_factory):
    """Flags of a few steps of each script, and what rank 0 and rank 1 have after them."""
    folder = tmp_path_factory.mktemp("ranks")
    flags = {}
    for one in SCRIPTS:
        script, *more = one.split()
        start = ["--resume", pretrained_by(script.replace("_cossl", "")) / "checkpoint.pth.tar"] * ("cossl" in script)
        start += ["--warm_prior", 0] * (script in OTHERWISE) + ["--kappa", 0.5, "--lam_h", 1] * (script == PRIOR_COSSL)
        align, tau = ["--align"] * ("remix" in script), ["--tau", 0.2] * ("cifar_fix" in script and script != CDMAD)
        crt = ["--classifier", "crt"] * ("small_imagenet127_fix_cossl" in script)  # no draws in its warm-up
        all_of_it = [*tiny(script), *align, *tau, *crt, *steps(script, STEPS), "--out", folder / "none", *start, *more]
        flags[one] = [str(flag) for flag in all_of_it]
    (folder / "flags.json").write_text(json.dumps(flags))
    assert_ranks_run("tests/helpers/ranks.py", folder / "flags.json", folder / "result")
    return flags, *(torch.load(folder / f"result.{rank}") for rank in (0, 1))


@pytest.mark.ranks
@pytest.mark.parametrize("script", SCRIPTS)
def test_two_ranks_train_as_one_process_does_in_two_chunks(script, both_ranks, as_rank):
    flags, zero, one = both_ranks
    means, counts = zero[script]["logs"]
    assert means["loss"] > 0
    if "acc_selected" in means:  # of the images that both ranks have selected
        assert means["acc_selected"] == pytest.approx((counts[4].sum() / counts[1].sum().clamp(min=1)).item())
    torch.testing.assert_close(zero[script], one[script], rtol=0, atol=0)
    zero = {name: found for name, found in zero[script].items() if name != "logs"}

    run = composed(script.split()[0], flags[script])
    run.before()  # the head's warm-up: on the same features, or on whole batches
    chunks = Chunks(run.objects, as_rank)
    with (
        patch.object(Averaged, "descend", lambda averaged, loss: chunks.descend(averaged, loss)),
        patch("methods.remixmatch.mean_over_ranks", chunks.mean_over_ranks),
        patch("methods.prior.mean_over_ranks", chunks.mean_over_ranks),
    ):
        for t in range(run.steps):
            chunks.step(run.step, run.batches, t)
    unlabelled = run.args.batch_size * getattr(run.args, "mu", 1)
    assert counts.sum(dim=1)[0] == run.steps * unlabelled  # guesses of both ranks
    expected = result(run.objects)
    assert any(grad.abs().max() > 1e-4 for grad in expected["gradients"]["state_dict"].values())
    torch.testing.assert_close(zero, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.ranks
def test_what_ranks_tell_each_other(both_ranks):
    _, zero, one = both_ranks
    zero, one = zero["met"], one["met"]
    torch.testing.assert_close(zero["mean"], [torch.full((2, 3), 1.5), torch.tensor(2.0, dtype=torch.float64)])
    torch.manual_seed(0)
    assert torch.equal(one["alike"]["0.weight"], torch.nn.Linear(2, 2).weight)
    assert one["alike"]["1.num_batches_tracked"] == 0
    assert zero.pop("fed") == one.pop("fed") == [{"waited_s": 1.5, "skipped": 4}, {"waited_s": 0}]
    assert zero.pop("problem") == one.pop("problem") == "--out: not the same (3 and 4)"
    torch.testing.assert_close(zero, one, rtol=0, atol=0)


def everything(batch: Minibatch) -> list[torch.Tensor]:
    return [*batch.views, *([] if batch.labels is None else [batch.labels])]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("wanted", [("weak", "strong", "plain", "strong"), ("plain",), ("weak",), ()])
def test_ranks_share_the_batch_of_one_process(balanced, known, wanted, as_rank):
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, 60) if known or balanced else np.full(60, UNKNOWN)
    pixels = random.randint(0, 256, (60, 3, 16, 16)).astype(np.uint8)
    images = Pixels(Images(pixels, labels), (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    stream = Stream("any", images, np.arange(59, -1, -1), wanted, 12, 0, balanced=balanced)
    another = Stream("another", images, np.arange(60), ("weak",), 24, 0)

    def at(t: int) -> list[torch.Tensor]:
        batch = Batches({"unlabelled": stream, "labelled": another}, (), 0).at(t)
        return [*everything(batch.unlabelled), *everything(batch.labelled)]

    for t in (0, 7):
        whole, parts = at(t), []
        for rank in range(3):
            as_rank(rank, of=3)
            parts.append(at(t))
            if wanted:
                (swept,) = list(stream.sweep())
                assert all(len(view) == 60 for view in swept.views)
        as_rank(0, of=1)
        joined = [torch.cat(part) for part in zip(*parts, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(joined, whole, strict=True))
        assert len(joined) == len(whole)


def test_ranks_share_the_batch_of_files(food101, as_rank):
    """Crops, operations and mirroring of a row don't depend on the number of ranks; chunks start anew at each."""
    images = load_food101(food101)
    split = long_tailed(images, imbalance(), include_labelled=True)
    views, names = {"labelled": ("weak",), "unlabelled": ("weak", "strong")}, ("labelled", "unlabelled", "balanced")

    def opened():
        loader = ImageLoader(32, 1, 0, False, torch.device("cpu"))
        return file_streams(images, split, views, Sampling(8, 1, mu=5), loader)

    def batches() -> list[torch.Tensor]:
        batch = opened().batches(names).at(3)
        return [part for name in names for part in everything(getattr(batch, name))]

    whole, parts = batches(), []
    for rank in range(2):
        as_rank(rank)
        parts.append(batches())
    assert all(torch.equal(torch.cat(pair), one) for *pair, one in zip(*parts, whole, strict=True))


def test_draws_of_some_rows():
    draw = draw_crop_views(np.random.default_rng(0), ("strong", "weak"), 8, 16)
    some = draw.of_rows(slice(2, 5))
    assert np.array_equal(some.layers[0], draw.layers[0][2:5])
    assert np.array_equal(some.flip, draw.flip[:, 2:5])
    assert some.layers[1] is None


def test_blocks_of_rows(as_rank):
    assert my_rows(12) == slice(0, 12)
    as_rank(2, of=3)
    assert my_rows(12) == slice(8, 12)
    with pytest.raises(UserError, match=r"--batch-size 16: not a multiple of the 3 processes"):
        my_rows(16)


def test_each_rank_has_the_gpu_of_its_number(as_rank, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    as_rank(1)
    assert pick_device("0") == torch.device("cuda", 1)
    assert chosen == [1]
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="leave --gpu out"):
        pick_device("1")
    as_rank(2, of=3)
    with pytest.raises(UserError, match=r"--nproc_per_node: more processes than .* CUDA devices \(2\)"):
        pick_device("0")


@pytest.mark.ranks
def test_a_mistake_is_one_line(tmp_path):
    """Of each rank, but where another one's end has ended it first."""
    done = run_ranks(FIX, *TINY, "--batch-size", 15, "--out", tmp_path / "out")
    assert done.returncode != 0
    lines = [line.removeprefix("rank 1: ") for line in own_lines(done.stderr)]
    told = [line for line in lines if line.startswith("error: --batch-size 15: not a multiple of the 2 processes")]
    assert told and all(line in told or "another process of the run has ended" in line for line in lines)
    assert not (tmp_path / "out").exists()


LEAVES = """if True:
    import atexit
    from contextlib import nullcontext
    from utils import ranks, start
    ranks.joined = nullcontext
    atexit.register(print, "Python was taken down")
    start.run_main(lambda: print("trained"))
"""


def test_a_rank_leaves_without_taking_python_down():
    """A thread of gloo that still holds a tensor would abort it, now and then."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    settings = environment(WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", **address)
    command = [sys.executable, "-c", LEAVES]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "trained\n", "")


def test_half_of_the_settings_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run_here(FIX, *TINY, "--out", tmp_path / "out")
    assert_refused(result, "WORLD_SIZE is set, but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT, RANK", "torchrun")


@pytest.mark.parametrize(
    "wrong", [{"WORLD_SIZE": "x"}, {"RANK": "-1"}, {"WORLD_SIZE": "1", "MASTER_PORT": "99999"}], ids=str
)
def test_settings_that_torchrun_never_makes(wrong, monkeypatch):
    usual = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in (usual | wrong).items():
        monkeypatch.setenv(name, value)
    (name, value), *_ = sorted(wrong.items())
    assert_refused(run_here("report.py", "nowhere"), f"{name}={value!r}", "unset")


@pytest.mark.ranks
def test_killed_rank_ends_the_run_which_goes_on_with_one_rank_or_two(tmp_path):
    flags = [*TINY, "--epoch", 3, "--val-iteration", 6, "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    killed = run_ranks("tests/helpers/dies_at.py", 1, 8, FIX, *flags, one)  # rank 1, in the middle of epoch 2
    assert killed.returncode != 0
    (line,) = own_lines(killed.stderr)
    assert "another process of" in line and "has ended" in line and "the same command" in line
    assert f'{FIX}", line' not in killed.stderr  # a traceback
    assert not list(one.glob(".*.tmp"))
    assert load_checkpoint(one / "checkpoint.pth.tar")["epoch"] == 1

    shutil.copytree(one, two)
    result = run_ranks(FIX, *flags, two)
    assert result.returncode == 0, result.stderr
    for number, stdout, out in ((1, assert_runs(FIX, *flags, one).stdout, one), (2, result.stdout, two)):
        epochs = [line.split()[1] for line in stdout.splitlines() if line.startswith("epoch ")]
        assert epochs == ["2/3", "3/3"]
        assert stdout.count("continuing after epoch 1") == stdout.count("mean balanced accuracy") == 1
        assert [row.split()[0] for row in log_lines(out)] == ["epoch", "1", "2", "3"]
        assert load_checkpoint(out / "checkpoint.pth.tar")["epoch"] == 3
        assert json.loads((out / "summary.json").read_text())["processes"] == number
    assert log_lines(one)[:2] == log_lines(two)[:2]


@pytest.mark.ranks
@pytest.mark.parametrize(("of", "stopped"), [(2, 0), (3, 1)])
def test_a_rank_that_stops_answering_is_named(of, stopped, tmp_path):
    """By those that wait for it; one that ends first may end the others."""
    flags = [*TINY, "--epoch", 3, "--val-iteration", 6, "--batch-size", 12, "--rank_timeout", 0.1, "--out", tmp_path]
    ranks = forked_ranks(of, "tests/helpers/dies_at.py", stopped, "8:SIGSTOP", FIX, *flags)
    try:
        others = [process.wait() for rank, process in enumerate(ranks) if rank != stopped]
        assert ranks[stopped].process.is_alive()
    finally:
        ranks[stopped].process.kill()
    assert {result.returncode for result in others} == {1}
    lines = [result.stderr.strip() for result in others]
    named = f"error: rank {stopped} has not answered for 0.1 minutes (--rank_timeout); the same command"
    told = [line for line in lines if line.removeprefix("rank 1: ").removeprefix("rank 2: ").startswith(named)]
    assert told and all("\n" not in line and (line in told or "another process of" in line) for line in lines)
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] == 1

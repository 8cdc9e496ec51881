"""Killed and resumed runs repeat the bits of runs that weren't, in both stages; other runs aren't mixed up."""

import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.forked import run_forked
from helpers.scripts import (
    HANG,
    ROOT,
    TINY,
    assert_refused,
    assert_runs,
    assert_same,
    command,
    environment,
    load_checkpoint,
    log_lines,
    run_here,
    steps,
    summary,
)

from training.checkpoint import read_checkpoint
from training.resume import refuse_other_run
from training.stage1 import check_pretraining
from utils.args import DATA, PLACE, REFUSE, RESULT, SPEED, WARN
from utils.errors import UserError
from utils.flags import FLAGS, spelled, with_role

EPOCHS, STEPS = 2, 3  # of each epoch
PUBLISHED = {"epoch", "state_dict", "ema_state_dict", "optimizer"}
PRETRAINING = PUBLISHED | {"step", "totals", "history", "seconds", "arguments", "facts", "versions"}
COSSL = PRETRAINING | {"teacher_head", "ema_teacher", "teacher_optimizer"}
# The keys of a recipe's checkpoints.
RECIPES = {
    "train_cifar_supervised.py": PRETRAINING,
    "train_cifar_fix.py": PRETRAINING,
    "train_cifar_mix.py": PRETRAINING,
    "train_cifar_remix.py": PRETRAINING | {"emp_distb_u"},
    "train_cifar_fix_cossl.py": COSSL,
    "train_cifar_mix_cossl.py": COSSL,
    "train_cifar_remix_cossl.py": COSSL | {"emp_distb_u"},
    "train_cifar_fix_prior.py": PRETRAINING | {"class_prior"},
    "train_cifar_fix_prior_cossl.py": COSSL | {"class_prior", "kappa"},
    "train_cifar_fix_abc.py": PRETRAINING | {"class_prior", "standard_head"},
    "train_cifar_fix_acr.py": PRETRAINING | {"class_prior", "standard_head"},
    "train_cifar_fix_cdmad.py": PRETRAINING | {"debias"},
    "train_small_imagenet127_fix.py": PRETRAINING,
    "train_small_imagenet127_fix_cossl.py": COSSL,
    "train_food_fix.py": PRETRAINING,
    "train_food_fix_cossl.py": COSSL,
}
REMIX, REMIX_COSSL, COSSL_FIX = "train_cifar_remix.py", "train_cifar_remix_cossl.py", "train_cifar_fix_cossl.py"


@pytest.fixture(params=RECIPES)
def recipe(request, tiny, pretrained_by):
    """(script, its flags besides --out, keys of its checkpoints)"""
    script = request.param
    first_stage = script.replace("_cossl", "")
    start = [] if script == first_stage else ["--resume", pretrained_by(first_stage) / "checkpoint.pth.tar"]
    align = ["--align"] if "remix" in script else []
    workers = ["--workers", 2, "--warm_tfe", 1][: 4 if "cossl" in script else 2] if "food" in script else []
    prior = ["--warm_prior", 0, "--tau", 0.2] if "class_prior" in RECIPES[script] else []
    kappa = ["--kappa", "fit", "--lam_h", 1] if "kappa" in RECIPES[script] else []
    more = [*workers, *align, *prior, *kappa, *start]
    return script, [*tiny(script), "--epoch", EPOCHS, *steps(script, STEPS), *more], RECIPES[script]


def run_and_kill(out: Path, t: int, script: str, flags: list) -> None:
    """Run a script until kill -9 ends it before step t."""
    result = run_forked("tests/helpers/dies_at.py", 0, t, script, *flags, "--out", out)
    assert result.returncode == -signal.SIGKILL, result.stderr


def copies(out: Path) -> set[str]:
    return {path.name for path in out.glob("checkpoint_*.pth.tar")}


SCHEDULED = ["--schedule", "short"]


@pytest.mark.slow
def test_a_killed_run_on_the_short_schedule_goes_on_bit_for_bit(pretrained, two_threads, tmp_path):
    """Its decays are functions of the step, and Muon's momentum is saved."""
    script, start = COSSL_FIX, ["--resume", pretrained / "checkpoint.pth.tar", "--warm_tfe", 1]
    flags = [*TINY, "--epoch", 3, "--val-iteration", STEPS, *SCHEDULED, *start]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_runs(script, *flags, "--out", whole)
    run_and_kill(killed, 2 * STEPS + 2, script, flags)
    part = run_here(script, *flags, "--time_limit", 1e-6, "--out", killed)  # within an epoch
    assert part.returncode == 124, part.stderr
    assert_runs(script, *flags, "--out", killed)
    assert_same(*(load_checkpoint(out / "checkpoint.pth.tar") for out in (whole, killed)))
    assert log_lines(whole) == log_lines(killed)


def test_a_run_on_the_short_schedule_may_be_made_longer_but_not_go_on_as_published(tmp_path):
    """Nothing in it depends on its length."""
    flags, first = [*TINY, "--val-iteration", 2, *SCHEDULED], tmp_path / "first"
    assert_runs("train_cifar_fix.py", *flags, "--epochs", 1, "--out", first)
    start = ["--epochs", 2, "--resume", first / "checkpoint.pth.tar"]
    assert_runs("train_cifar_fix.py", *flags, "--epochs", 2, "--out", tmp_path / "whole")
    assert_runs("train_cifar_fix.py", *flags, *start, "--out", tmp_path / "longer")
    assert_same(*(load_checkpoint(tmp_path / name / "checkpoint.pth.tar") for name in ("whole", "longer")))
    published = [flag for flag in flags if flag not in SCHEDULED]
    result = run_here("train_cifar_fix.py", *published, *start, "--out", tmp_path / "other")
    assert_refused(result, "--schedule (short there, published now)")


@pytest.mark.slow
def test_killed_run_goes_on_bit_for_bit(recipe, two_threads, tmp_path):
    script, flags, keys = recipe
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_runs(script, *flags, "--out", whole)
    run_and_kill(killed, STEPS + 2, script, flags)
    assert load_checkpoint(killed / "checkpoint.pth.tar")["epoch"] == 1
    assert "epoch 1/" not in assert_runs(script, *flags, "--out", killed).stdout
    a, b = (load_checkpoint(out / "checkpoint.pth.tar") for out in (whole, killed))
    assert set(a) == keys
    assert a["epoch"] == EPOCHS
    assert_same(a, b)
    for name in ("log.txt", "diagnostics.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    assert summary(whole) == summary(killed)
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
    # A finished run says so again, and trains no more.
    before = (killed / "checkpoint.pth.tar").stat().st_mtime_ns
    assert "mean balanced accuracy" in assert_runs(script, *flags, "--out", killed).stdout
    assert (killed / "checkpoint.pth.tar").stat().st_mtime_ns == before


def test_resume_flag_goes_back_to_that_checkpoint(pretrained, tmp_path):
    """Pre-training from checkpoint_1 of another folder, and made longer: the same as that run from there on."""
    flags = [*TINY, "--val-iteration", 6, "--resume", pretrained / "checkpoint_1.pth.tar"]
    assert_runs("train_cifar_fix.py", *flags, "--epoch", 3, "--out", tmp_path)
    mine = log_lines(tmp_path)
    assert mine[:3] == log_lines(pretrained)
    assert len(mine) == 4


def test_another_run_in_the_folder_is_refused_unless_overwritten(pretrained, tmp_path):
    out = tmp_path / "run"
    flags = [*TINY, "--val-iteration", 2, "--epoch", 1, "--out", out]
    assert_runs("train_cifar_fix.py", *flags)
    before = (out / "checkpoint.pth.tar").read_bytes()
    result = run_here("train_cifar_fix.py", *flags, "--lr", "0.003", "--tau", "0.8")
    assert_refused(result, "--out", "--lr (0.002 there, 0.003 now)", "--tau (0.95 there, 0.8 now)", "--overwrite")
    cossl = [*flags, "--resume", pretrained / "checkpoint.pth.tar"]
    word = "script (train_cifar_fix there, train_cifar_fix_cossl now)"
    assert_refused(run_here("train_cifar_fix_cossl.py", *cossl), "--out", "another run", word)
    assert (out / "checkpoint.pth.tar").read_bytes() == before
    (out / "checkpoint_101.pth.tar").touch()
    (out / "notes.txt").write_text("mine")
    assert_runs("train_cifar_fix.py", *flags, "--lr", "0.003", "--overwrite")
    assert load_checkpoint(out / "checkpoint.pth.tar")["arguments"]["lr"] == 0.003
    assert not (out / "checkpoint_101.pth.tar").exists()
    assert (out / "notes.txt").exists()
    assert len(list((out / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("train_cifar_mix.py", "script (train_cifar_fix there, train_cifar_mix now)"),
        (REMIX, "script (train_cifar_fix there, train_cifar_remix now)"),
        ("train_cifar_supervised.py", "script (train_cifar_fix there, train_cifar_supervised now)"),
    ],
    ids=["mix", "remix", "supervised"],
)
def test_a_run_of_another_method_is_not_continued(script, word, pretrained, tmp_path):
    flags = [*TINY, "--epoch", 3, "--val-iteration", 6]
    assert_refused(run_here(script, *flags, "--out", pretrained), "--out", word)
    start = ["--resume", pretrained / "checkpoint.pth.tar", "--out", tmp_path / "out"]
    assert_refused(run_here(script, *flags, *start), "--resume", word)
    assert not (tmp_path / "out").exists()


def test_copies_of_checkpoints(tmp_path):
    """Of epochs 1, N + 1, 2 N + 1, ...; co-learning leaves the first one out. N may change on the way."""
    flags = [*TINY, "--val-iteration", 2, "--epoch", 4]
    fix, cossl = tmp_path / "fix", tmp_path / "cossl"
    assert_runs("train_cifar_fix.py", *flags, "--copy_every", 2, "--out", fix)
    assert copies(fix) == {"checkpoint_1.pth.tar", "checkpoint_3.pth.tar"}
    start = fix / "checkpoint_1.pth.tar"
    assert_runs("train_cifar_fix_cossl.py", *flags, "--copy_every", 2, "--resume", start, "--out", cossl)
    assert copies(cossl) == {"checkpoint_3.pth.tar"}
    assert load_checkpoint(cossl / "checkpoint_3.pth.tar")["epoch"] == 3
    assert_runs("train_cifar_fix.py", *flags, "--copy_every", 1, "--resume", start, "--out", fix)
    assert copies(fix) == {f"checkpoint_{n}.pth.tar" for n in range(1, 5)}
    assert_runs("train_cifar_fix_cossl.py", *flags, "--copy_every", 3, "--resume", start, "--out", cossl)


def test_published_checkpoints_of_food101_are_read_without_their_wrapper(pretrained, tmp_path):
    """Some of their state dicts are those of DataParallel: `module.` before each name."""
    state = load_checkpoint(pretrained / "checkpoint.pth.tar")
    published = {key: state[key] for key in PUBLISHED}
    wrapped = {f"module.{name}": value for name, value in state["ema_state_dict"].items()}
    torch.save(published | {"ema_state_dict": wrapped}, tmp_path / "published.pth.tar")
    read = read_checkpoint(tmp_path / "published.pth.tar", "--resume")
    assert_same(read["ema_state_dict"], state["ema_state_dict"])
    flags = [*TINY, "--val-iteration", 6, "--resume", tmp_path / "published.pth.tar"]
    assert_runs("train_cifar_fix_cossl.py", *flags, "--epoch", 1, "--out", tmp_path / "cossl")


@pytest.mark.parametrize(("script", "own"), [("train_cifar_fix.py", []), (REMIX, ["--align"])])
def test_a_published_checkpoint_starts_both_stages(script, own, pretrained_by, tmp_path):
    """It has the networks, the optimiser and ReMixMatch's running mean, but neither arguments nor history."""
    ours, published = pretrained_by(script), tmp_path / "checkpoint_1.pth.tar"
    state = load_checkpoint(ours / "checkpoint_1.pth.tar")
    torch.save({key: state[key] for key in state if key in PUBLISHED | {"emp_distb_u"}}, published)
    flags = [*TINY, *own, "--val-iteration", 6, "--resume", published]
    assert_runs(script, *flags, "--epoch", 2, "--out", tmp_path / "first")
    header, _, second = log_lines(ours)
    assert log_lines(tmp_path / "first") == [header, second]
    assert_runs(script.replace(".py", "_cossl.py"), *flags, "--epoch", 1, "--out", tmp_path / "cossl")
    result = run_here(script, *flags, "--epoch", 1, "--out", tmp_path / "none")
    assert_refused(result, "--epochs 1", "1 epochs already", "raise")
    assert not (tmp_path / "none").exists()


def test_a_published_checkpoint_of_another_method_lacks_its_state(pretrained, tmp_path):
    """It has no arguments that would tell."""
    state = load_checkpoint(pretrained / "checkpoint_1.pth.tar")
    torch.save({key: state[key] for key in PUBLISHED}, tmp_path / "published.pth.tar")
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6, "--resume", tmp_path / "published.pth.tar"]
    assert_refused(run_here(REMIX, *flags, "--out", tmp_path / "out"), "published.pth.tar", "its emp_distb_u")
    assert not (tmp_path / "out").exists()


def test_co_learning_goes_on_without_the_checkpoint_that_it_started_from(pretrained, tmp_path):
    """That is read when a run begins; afterwards `--resume` may name anything. A finished run says so again."""
    start, whole, out = tmp_path / "start.pth.tar", tmp_path / "whole", tmp_path / "out"
    start.write_bytes((pretrained / "checkpoint.pth.tar").read_bytes())
    flags = [*TINY, "--epoch", 2, "--val-iteration", 3, "--warm_tfe", 1]
    assert_runs(COSSL_FIX, *flags, "--resume", start, "--out", whole)
    part = run_here(COSSL_FIX, *flags, "--resume", start, "--time_limit", 1e-6, "--out", out)
    assert part.returncode == 124, part.stderr
    start.unlink()
    rest = assert_runs(COSSL_FIX, *flags, "--resume", start, "--out", out)
    assert "continuing after step 1 of epoch 1" in rest.stdout
    assert_same(*(load_checkpoint(folder / "checkpoint.pth.tar") for folder in (whole, out)))
    assert summary(out) == summary(whole)
    for name in (start, tmp_path / "another.pth.tar"):
        end = assert_runs(COSSL_FIX, *flags, "--resume", name, "--out", out)
        assert "mean balanced accuracy" in end.stdout
        assert "epoch 1/" not in end.stdout and "epoch 2/" not in end.stdout
        assert summary(out)["arguments"]["resume"] == str(start)  # where it came from
    result = run_here(COSSL_FIX, *flags, "--resume", start, "--out", tmp_path / "new")
    assert_refused(result, f"--resume {start}: no such file")
    assert not (tmp_path / "new").exists()


OF_RUN = {name: 1 for name in FLAGS} | {"recipe": "train_cifar_fix"}


def refuse(then: dict, free: set[str] = frozenset()) -> None:
    refuse_other_run({"arguments": then}, OF_RUN, free, "--out x: holds another run", "take another folder")


@pytest.mark.parametrize("name", [*with_role(RESULT, DATA, SPEED), "recipe"])
def test_a_run_does_not_go_on_with_another_value(name):
    for then in (OF_RUN | {name: 2}, {key: value for key, value in OF_RUN.items() if key != name}):
        with pytest.raises(UserError) as caught:
            refuse(then)
        difference = f"{spelled(name)} ({then.get(name)} there, {OF_RUN[name]} now)"
        assert str(caught.value) == f"--out x: holds another run: {difference}; take another folder"
        refuse(then, {name})


@pytest.mark.parametrize("name", with_role(PLACE))
def test_where_and_how_long_a_run_goes_on_is_free(name):
    refuse(OF_RUN | {name: 2})
    refuse({key: value for key, value in OF_RUN.items() if key != name})


def test_all_that_differs_is_named_and_published_checkpoints_have_no_arguments():
    with pytest.raises(UserError, match=r"--lr .*--batch-size|--batch-size .*--lr"):
        refuse(OF_RUN | {"lr": 2, "batch_size": 3, "gpu": 4})
    refuse_other_run({}, OF_RUN, set(), "", "")


@pytest.mark.parametrize("name", [*FLAGS, "recipe"])
def test_what_co_learning_makes_of_a_pretraining_with_another_value(name, capsys):
    """Refused, warned of, or free; an argument that one of the stages lacks says nothing."""
    of_run = OF_RUN | {"holdout": None}  # with it, the seed isn't free
    now, path = of_run | {"recipe": "train_cifar_fix_cossl"}, Path("x.pth.tar")
    stages = FLAGS[name].stages if name in FLAGS else WARN
    then = {"epoch": 1, "step": 0, "arguments": of_run | {name: 2}}
    if stages == REFUSE:
        with pytest.raises(UserError, match=f"--resume x.pth.tar: pre-trained otherwise: {spelled(name)} "):
            check_pretraining(then, now, path)
    else:
        check_pretraining(then, now, path)
    warned = f"warning: --resume x.pth.tar was pre-trained otherwise: {spelled(name)} (2 there, {OF_RUN[name]} now)\n"
    assert capsys.readouterr().err == (warned if stages == WARN else "")
    if name != "recipe":
        check_pretraining({"epoch": 1, "arguments": {"recipe": "train_cifar_fix"}}, now | {"holdout": 0.2}, path)
    check_pretraining({"epoch": 1}, now | {"holdout": 0.2}, path)
    assert capsys.readouterr().err == ""


def test_a_pretraining_in_the_middle_of_an_epoch_is_warned_of(capsys):
    check_pretraining({"epoch": 3, "step": 2}, OF_RUN, Path("x.pth.tar"))
    assert capsys.readouterr().err == "warning: --resume x.pth.tar was saved in the middle of epoch 4\n"
    with pytest.raises(UserError, match=r"--resume x\.pth\.tar: a CoSSL checkpoint, give one of pre-training"):
        check_pretraining({"epoch": 3, "teacher_head": {}}, OF_RUN, Path("x.pth.tar"))


def test_running_mean_starts_anew_in_cossl(pretrained_by, tmp_path):
    start = pretrained_by(REMIX) / "checkpoint.pth.tar"
    assert load_checkpoint(start)["emp_distb_u"].shape == (12, 10)  # a row for each step so far
    assert_runs(REMIX_COSSL, *TINY, "--epoch", 1, "--val-iteration", 3, "--resume", start, "--out", tmp_path)
    rows = load_checkpoint(tmp_path / "checkpoint.pth.tar")["emp_distb_u"]
    assert rows.shape == (3, 10)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    "rows",
    [torch.full((5, 7), 1 / 7), torch.full((5,), 0.1), torch.full((129, 10), 0.1), None],
    ids=["classes", "one dimension", "too many", "none"],
)
def test_damaged_running_mean_is_refused(rows, pretrained_by, tmp_path):
    state = load_checkpoint(pretrained_by(REMIX) / "checkpoint_1.pth.tar")
    torch.save(state | {"emp_distb_u": rows}, tmp_path / "damaged.pth.tar")
    flags = [*TINY, "--align", "--epoch", 2, "--val-iteration", 6, "--out", tmp_path / "out"]
    assert_refused(run_here(REMIX, *flags, "--resume", tmp_path / "damaged.pth.tar"), "damaged.pth.tar", "emp_distb_u")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interrupt_is_one_line_and_leaves_a_checkpoint(tmp_path):
    flags = [*TINY, "--val-iteration", 20, "--epoch", 10**6, "--out", tmp_path]
    process = subprocess.Popen(
        command("train_cifar_fix.py", *flags),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.terminate()
    assert "interrupted" in process.stderr.read()
    assert process.wait(HANG) == 143
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] >= 1

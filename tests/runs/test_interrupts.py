"""Signals, the time limit, losses that are no numbers, and a second run in the folder: each ends a run as it should.

Killed processes: tests/test_resume.py and benchmarks/torture.py.
"""

import os
import shutil
import signal
import subprocess
import time
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.scripts import (
    FIX,
    FIX_COSSL,
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
    run_ranks,
    run_script,
    summary,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import NAME
from training.epoch import Sums, train_epoch
from training.lock import locked
from utils.errors import EXIT_CODES, Interrupted, UserError
from utils.interrupts import Interrupts

RUN = [*TINY, "--epoch", 2, "--val-iteration", 6]


@pytest.fixture
def signals(monkeypatch):
    """place -> signals: the next run of a script gets them there, of (when, number): when is "step T", "evaluation",
    "preparation"."""

    def send(*wanted: tuple[str, int]) -> None:
        import train_cifar_fix
        import train_cifar_fix_cossl

        def at(place: str) -> None:
            for when, number in wanted:
                if when == place:
                    os.kill(os.getpid(), number)

        def fitting(fit):
            def fitted(step, batches, evaluate, objects, args, facts, start, prepare=None, **rest):
                original = batches.at

                def sending(t):
                    at(f"step {t}")
                    return original(t)

                def evaluating():
                    at("evaluation")
                    return evaluate()

                def preparing():
                    at("preparation")
                    prepare()

                batches.at = sending
                ready = preparing if prepare else None
                fit(step, batches, evaluating, objects, args, facts, start, ready, **rest)

            return fitted

        for recipe in (train_cifar_fix, train_cifar_fix_cossl):
            original = getattr(recipe.fit, "original", recipe.fit)
            wrapped = fitting(original)
            wrapped.original = original
            monkeypatch.setattr(recipe, "fit", wrapped)

    return send


def scalars(out: Path) -> dict[int, list[tuple[str, float]]]:
    """What TensorBoard shows of a run, by epoch."""
    events, found = EventAccumulator(str(out / "tensorboard")).Reload(), {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            found.setdefault(event.step, []).append((tag, event.value))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert_runs(FIX, *RUN, "--out", out)
    return out


def assert_continues(out: Path, whole: Path) -> str:
    shown = assert_runs(FIX, *RUN, "--out", out).stdout
    assert_same(*(load_checkpoint(folder / NAME) for folder in (whole, out)))
    assert log_lines(whole) == log_lines(out)
    assert summary(whole) == summary(out)
    return shown


@pytest.mark.parametrize(
    ("when", "number", "epoch", "step", "said"),
    [
        ("step 2", signal.SIGINT, 0, 3, "step 3 of epoch 1"),
        ("step 8", signal.SIGTERM, 1, 3, "step 3 of epoch 2"),
        ("evaluation", signal.SIGTERM, 0, 6, "step 6 of epoch 1"),
        ("step 7", signal.SIGALRM, 1, 2, "step 2 of epoch 2"),
    ],
)
def test_signal_saves_the_step_and_the_run_goes_on_bit_for_bit(
    when, number, epoch, step, said, signals, whole, tmp_path
):
    signals((when, number))
    result = run_here(FIX, *RUN, "--out", tmp_path)
    assert result.returncode == EXIT_CODES[number]
    (line,) = result.stderr.splitlines()
    assert "saved after " + said in line and "same command" in line
    state = load_checkpoint(tmp_path / NAME)
    assert (state["epoch"], state["step"], len(state["history"])) == (epoch, step, epoch)
    signals()
    assert f"continuing after {said}" in assert_continues(tmp_path, whole)


def test_several_interruptions_within_an_epoch(signals, whole, tmp_path):
    for t in (1, 3, 6, 7):
        signals((f"step {t}", signal.SIGTERM))
        assert run_here(FIX, *RUN, "--out", tmp_path).returncode == 143
    signals()
    assert_continues(tmp_path, whole)


def test_a_second_signal_stops_at_once_and_saves_nothing(signals, tmp_path):
    signals(("step 2", signal.SIGINT), ("step 2", signal.SIGTERM))
    result = run_here(FIX, *RUN, "--out", tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (143, 1)
    assert not (tmp_path / NAME).exists()


def test_a_signal_that_is_sent_twice_is_one(signals, whole, tmp_path, monkeypatch):
    """As GNU's timeout and Slurm's srun do: to the process, and to its group."""
    monkeypatch.setattr("utils.interrupts.monotonic", lambda: 100.0)
    signals(("step 2", signal.SIGTERM), ("step 2", signal.SIGTERM))
    assert run_here(FIX, *RUN, "--out", tmp_path).returncode == 143
    assert load_checkpoint(tmp_path / NAME)["step"] == 3
    signals()
    assert_continues(tmp_path, whole)


def test_a_time_limit_beside_a_signal_is_no_second_one():
    """Where both come within one long call, Python handles the signal of the lower number first, Ctrl-C's."""
    with Interrupts(None) as interrupts:
        for number in (signal.SIGINT, signal.SIGALRM):
            os.kill(os.getpid(), number)
    assert interrupts.came == signal.SIGINT


@pytest.mark.parametrize("seconds", [0, 0.6])
def test_the_same_signal_later_is_a_second_one(seconds, monkeypatch):
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr("utils.interrupts.monotonic", lambda: next(clock))
    with Interrupts(None) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted) if seconds else nullcontext():
            os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.came == signal.SIGINT


def test_a_signal_that_comes_twice_while_data_are_loaded_ends_in_one_line(tmp_path, monkeypatch):
    import train_cifar_fix

    def open_data(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_cifar_fix, "open_data", open_data)
    result = run_here(FIX, *RUN, "--out", tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (143, 1)


def test_the_command_that_goes_on_is_named(signals, whole, tmp_path):
    """`--overwrite` would delete what was saved, and `--resume` of a copy would go back to it."""
    signals(("step 2", signal.SIGTERM))
    result = run_here(FIX, *RUN, "--overwrite", "--out", tmp_path)
    assert "the same command without --overwrite goes on" in result.stderr
    signals()
    assert_continues(tmp_path, whole)
    signals(("step 7", signal.SIGTERM))
    copy = tmp_path / "checkpoint_1.pth.tar"
    result = run_here(FIX, *RUN, "--resume", copy, "--out", tmp_path)
    assert "the same command without --resume goes on" in result.stderr
    signals()
    assert_continues(tmp_path, whole)


def test_a_second_signal_in_a_save_stops_after_it(signals, whole, tmp_path, monkeypatch):
    """Raised in the middle of torch.save, it would leave an error of the writer's, or abort the process."""
    write = torch.save

    def interrupted(state, file):
        os.kill(os.getpid(), signal.SIGINT)
        write(state, file)

    signals(("step 2", signal.SIGTERM))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", interrupted)
        result = run_here(FIX, *RUN, "--out", tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (130, 1)
    assert load_checkpoint(tmp_path / NAME)["step"] == 3
    signals()
    assert_continues(tmp_path, whole)


def test_killed_between_two_files_of_an_epoch(whole, tmp_path, monkeypatch):
    """TensorBoard, checkpoint, log: whichever is the last that was written, none lacks an epoch in the end."""
    from training.recorder import Recorder

    write = Recorder._write

    def killed(self, *_):
        raise KeyboardInterrupt

    def killed_in_epoch_2(self):
        killed(self) if self.done == 2 else write(self)

    for name, end in {"save": killed, "_write": killed_in_epoch_2}.items():
        out = tmp_path / name
        shutil.copytree(whole, out)
        (out / "checkpoint_1.pth.tar").rename(out / NAME)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Recorder, name, end)
            run_here(FIX, *RUN, "--out", out)
        assert_continues(out, whole)
        assert scalars(out) == scalars(whole)


def test_a_finished_co_learning_run_keeps_its_start(pretrained, tmp_path):
    flags = [*RUN, "--epoch", 1, "--out", tmp_path / "run", "--resume", tmp_path / NAME]
    for name in (NAME, "checkpoint_1.pth.tar"):
        shutil.copy(pretrained / name, tmp_path / NAME)
        assert_runs(FIX_COSSL, *flags)
        assert summary(tmp_path / "run")["start_epoch"] == 2


def test_a_signal_after_the_time_limit_lets_it_save(signals, tmp_path):
    signals(("step 2", signal.SIGALRM), ("step 2", signal.SIGTERM))
    assert run_here(FIX, *RUN, "--out", tmp_path).returncode == 143
    assert load_checkpoint(tmp_path / NAME)["step"] == 3


def test_a_signal_during_the_preparation_has_nothing_to_save(signals, pretrained, tmp_path):
    signals(("preparation", signal.SIGTERM))
    result = run_here(FIX_COSSL, *RUN, "--resume", pretrained / NAME, "--out", tmp_path)
    assert result.returncode == 143
    assert "nothing to save" in result.stderr
    assert not (tmp_path / NAME).exists()


def test_a_signal_in_the_last_save_lets_the_run_finish(whole, tmp_path, monkeypatch):
    import training.recorder

    write = training.recorder.write_log

    def interrupted(path, history, last):
        write(path, history, last)
        if last == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training.recorder, "write_log", interrupted)
    assert_runs(FIX, *RUN, "--out", tmp_path)
    assert summary(whole) == summary(tmp_path)


def test_time_limit_ends_each_part_and_may_differ(whole, tmp_path):
    for step, minutes in enumerate((1e-6, 2e-6, 1e-6), 1):  # over before the first step; each part does one
        result = run_here(FIX, *RUN, "--time_limit", minutes, "--out", tmp_path)
        assert result.returncode == 124
        assert "--time_limit" in result.stderr
        assert load_checkpoint(tmp_path / NAME)["step"] == step
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert_continues(tmp_path, whole)


def test_a_time_limit_shorter_than_an_evaluation_gets_further(signals, whole, tmp_path):
    """It may break an evaluation off once, not again by the process that does nothing else."""
    signals(("evaluation", signal.SIGALRM))
    for epoch, step in ((0, 6), (1, 0), (1, 6)):
        assert run_here(FIX, *RUN, "--out", tmp_path).returncode == 124
        state = load_checkpoint(tmp_path / NAME)
        assert (state["epoch"], state["step"]) == (epoch, step)
    assert_continues(tmp_path, whole)  # the signal comes again, and the last evaluation is not broken off


def test_a_time_limit_shorter_than_the_preparation_gets_further(signals, pretrained, tmp_path):
    flags = [*RUN, "--epoch", 1, "--resume", pretrained / NAME]
    signals(("preparation", signal.SIGALRM))
    result = run_here(FIX_COSSL, *flags, "--out", tmp_path / "parts")
    assert result.returncode == 124
    assert "saved after step 1 of epoch 1" in result.stderr
    for out in (tmp_path / "parts", tmp_path / "whole"):
        signals()
        assert_runs(FIX_COSSL, *flags, "--out", out)
    assert_same(*(load_checkpoint(tmp_path / name / NAME) for name in ("whole", "parts")))


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_another_process_has_continued_meanwhile_is_refused(there, whole, tmp_path, monkeypatch):
    """While this one waited for its data, after it had read the checkpoint, or had found none."""
    import train_cifar_fix

    original, other = train_cifar_fix.open_data, whole / NAME
    if there:
        assert run_here(FIX, *RUN, "--time_limit", 1e-6, "--out", tmp_path).returncode == 124

    def open_data(*settings, **rest):
        shutil.copy(other, tmp_path / "another")
        (tmp_path / "another").rename(tmp_path / NAME)
        return original(*settings, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(train_cifar_fix, "open_data", open_data)
        assert_refused(run_here(FIX, *RUN, "--out", tmp_path), f"--out {tmp_path}", "meanwhile", "once more")
        assert (tmp_path / NAME).read_bytes() == other.read_bytes()
        assert not (tmp_path / "failed.txt").exists()
        assert_runs(FIX, *RUN, "--overwrite", "--out", tmp_path)
    assert_continues(tmp_path, whole)


def test_a_run_that_is_over_keeps_the_versions_it_was_trained_with(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("training.recorder.versions", lambda: {"torch": "99"})
    assert_continues(tmp_path, whole)


def test_what_other_programs_make_of_an_unfinished_first_epoch(signals, tmp_path):
    """It has no history and no whole epoch; it evaluates, predicts, is reported, and starts co-learning."""
    out = tmp_path / "run"
    signals(("step 2", signal.SIGTERM))
    run_here(FIX, *RUN, "--out", out)
    signals()
    evaluated = assert_runs("eval_shifted_test_distribution.py", out, "--gpu", "cpu", "--out", tmp_path / "shifted")
    assert "epoch 0" in evaluated.stdout
    assert_refused(run_here("report.py", out, "--out", tmp_path / "report"), "no run is whole", "after epoch 0")
    flags = [*RUN, "--epoch", 1, "--resume", out / NAME, "--out", tmp_path / "cossl"]
    assert "in the middle of epoch 1" in assert_runs(FIX_COSSL, *flags).stderr


@pytest.mark.ranks
def test_two_ranks_take_up_an_epoch_and_end_after_it(signals, tmp_path):
    """Their time limit acts at the epoch's end; the counts of the steps that one process did are counted once."""
    signals(("step 2", signal.SIGTERM))
    run_here(FIX, *RUN, "--out", tmp_path)
    result = run_ranks(FIX, *RUN, "--time_limit", 1e-6, "--out", tmp_path)
    assert "continuing after step 3 of epoch 1" in result.stdout, result.stderr
    lines = [line for line in result.stderr.splitlines() if "--time_limit over" in line]
    assert lines and all("saved after epoch 1" in line for line in lines)
    state = load_checkpoint(tmp_path / NAME)
    assert (state["epoch"], state["step"]) == (1, 0)
    assert state["history"][0]["counts"][0].sum() == 6 * 16


def sums_of(*steps: dict[str, float]) -> Sums:
    sums = Sums()
    for logs in steps:
        sums.add({name: torch.tensor(value) for name, value in logs.items()})
    return sums


def test_the_first_bad_step_is_named_with_its_terms():
    args = Namespace(lr=0.5, lr_tfe=0.25)
    sums = sums_of(
        {"loss": 1.0, "loss_u": 2.0}, {"loss": 2.0, "loss_u": float("inf")}, {"loss": float("nan"), "loss_u": 0.0}
    )
    with pytest.raises(
        UserError, match=r"--lr 0.5, --lr_tfe 0.25: .*step 2 of epoch 7 \(loss 2, loss_u inf\); .*epoch 6"
    ):
        sums.check(7, args)
    sums_of({"loss": 1.0}, {"loss": 2.0}).check(7, args)


def test_bad_steps_are_kept_without_a_read():
    sums = Sums()
    for _ in range(2):
        sums.add({"loss": torch.zeros((), device="meta"), "pseudo": torch.zeros(2, 3, device="meta")})
    assert sums.bad[0].device.type == "meta"
    assert set(sums.totals()) == {"loss", "pseudo"}


def test_elsewhere_than_on_the_cpu_a_bad_step_is_found_at_the_end(monkeypatch):
    """Where reading waits, steps go on; the epoch's end still names the first bad one."""
    monkeypatch.setattr(Sums, "cheap", property(lambda self: False))
    args, trained = Namespace(lr=0.1, val_iteration=4, manualSeed=0), []

    def step(t):
        trained.append(t)
        return {"loss": torch.tensor(float("nan") if t >= 5 else 1.0)}

    with pytest.raises(UserError, match="step 2 of epoch 2"):
        train_epoch(step, 2, args, Namespace(step=lambda *_: None), Sums())
    assert trained == [4, 5, 6, 7]


@pytest.mark.parametrize("bad", ["loss", "weight"])
def test_nothing_bad_is_saved(bad, whole, tmp_path, monkeypatch):
    """In the second epoch a loss, or with the epoch's last step a weight, is no number: the first checkpoint stays."""
    import train_cifar_fix

    original = train_cifar_fix.fit

    def fit(step, batches, evaluate, objects, *rest):
        def stepping(numbered):
            t, batch = numbered
            logs = step(batch)
            if t == 11 and bad == "weight":
                objects["state_dict"].output.bias.data[0] = float("inf")
            return logs | ({"loss_x": torch.tensor(float("nan"))} if t == 8 and bad == "loss" else {})

        original(stepping, Namespace(at=lambda t: (t, batches.at(t))), evaluate, objects, *rest)

    monkeypatch.setattr(train_cifar_fix, "fit", fit)
    result = run_here(FIX, *RUN, "--out", tmp_path)
    words = ["step 3 of epoch 2", "loss_x nan"] if bad == "loss" else ["weight"]
    assert_refused(result, "--lr 0.002", "lower", "epoch 1", *words)
    assert load_checkpoint(tmp_path / NAME)["epoch"] == 1
    assert f"error: {(tmp_path / 'failed.txt').read_text()}" == result.stderr  # for the report
    monkeypatch.undo()
    assert_continues(tmp_path, whole)
    assert not (tmp_path / "failed.txt").exists()


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_until_the_first_one_is_dead(tmp_path):
    flags = [*TINY, "--epoch", 1, "--val-iteration", 10**6, "--out", tmp_path]
    process = subprocess.Popen(command(FIX, *flags), cwd=ROOT, stdout=subprocess.DEVNULL, env=environment())
    try:
        while not list(tmp_path.glob(".lock")) or not (tmp_path / ".lock").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        before = sorted(tmp_path.iterdir())
        for overwrite in ([], ["--overwrite"]):
            result = run_here(FIX, *flags, *overwrite)
            assert_refused(result, f"--out {tmp_path}", f"process {process.pid} on ", "take another folder")
        assert sorted(tmp_path.iterdir()) == before
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path):
        pass


@pytest.mark.slow
def test_killed_at_random_moments():
    """One kill of each kind."""
    result = run_script("benchmarks/torture.py", "--kills", 3, "--recipe", "train_cifar_fix")
    assert result.returncode == 0, result.stdout + result.stderr
    name, kills, _, _, again, runs, differing = result.stdout.splitlines()[-1].split()
    assert (name, kills, again, differing) == ("train_cifar_fix", "3", "0", "nothing")
    assert int(runs) >= 1

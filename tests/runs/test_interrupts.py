"""Signals, the time limit, losses that are no numbers, and a second run in the folder: each ends a run as it should.

Killed processes: tests/training/test_resume.py and benchmarks/torture.py.
"""

import itertools
import os
import shutil
import signal
import subprocess
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.forked import forked_ranks, run_forked
from helpers.places import watched
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
    run_script,
    summary,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import utils.stop
from training.background import Background
from training.checkpoint import LATEST
from training.folder import Lock
from training.history import Log, length
from training.loop import train_epoch
from training.run import Run
from training.totals import Totals
from utils.errors import UserError
from utils.stop import Due, Stop

RUN = [*TINY, "--epoch", 2, "--val-iteration", 6]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# What comes instead of a signal: the end of the time limit of LIMITED.
MINUTE, LIMITED = "a minute", ["--time_limit", 1]


class Ended(BaseException):
    """A process would have ended here, at once; code: of exit."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code


@pytest.fixture
def clock(monkeypatch):
    """The time of signals and limits, in seconds; nothing ends this process."""

    def end(code: int, line: str = "") -> None:
        raise Ended(code, line)

    now = Namespace(seconds=100.0)
    monkeypatch.setattr(utils.stop, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(utils.stop, "end_at_once", end)
    return now


@pytest.fixture
def signals(clock):
    """(place, what), ... -> a context: runs of scripts get these there; what: a signal, or MINUTE."""

    def send(*wanted: tuple[str, int | str]):
        def at(place: str) -> None:
            for where, what in wanted:
                if where == place and what == MINUTE:
                    clock.seconds += 60
                elif where == place:
                    os.kill(os.getpid(), what)

        return watched(at)

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
    assert_same(*(load_checkpoint(folder / LATEST) for folder in (whole, out)))
    assert log_lines(whole) == log_lines(out)
    assert summary(whole) == summary(out)
    return shown


@pytest.mark.parametrize(
    ("place", "what", "epoch", "step", "said"),
    [
        ("step 2", signal.SIGINT, 0, 3, "step 3 of epoch 1"),
        ("step 8", signal.SIGTERM, 1, 3, "step 3 of epoch 2"),
        ("evaluation", signal.SIGTERM, 0, 6, "step 6 of epoch 1"),
        ("step 7", MINUTE, 1, 2, "step 2 of epoch 2"),
        ("evaluation", MINUTE, 0, 6, "step 6 of epoch 1"),
    ],
)
def test_signal_saves_the_step_and_the_run_goes_on_bit_for_bit(
    place, what, epoch, step, said, signals, whole, tmp_path
):
    with signals((place, what)):
        result = run_here(FIX, *RUN, *LIMITED, "--out", tmp_path)
    assert result.returncode == CODES.get(what, 124)
    (line,) = result.stderr.splitlines()
    assert "saved after " + said in line and "same command" in line
    state, left = load_checkpoint(tmp_path / LATEST), summary(tmp_path)
    assert (state["epoch"], state["step"], length(state["history"])) == (epoch, step, epoch)
    assert (left["status"], left["epochs"]) == ("stopped", epoch)
    assert line.startswith(left["reason"].split(",")[0]) and said in left["reason"]
    assert f"continuing after {said}" in assert_continues(tmp_path, whole)


def test_several_interruptions_within_an_epoch(signals, whole, tmp_path):
    for t in (1, 3, 6, 7):
        with signals((f"step {t}", signal.SIGTERM)):
            assert run_here(FIX, *RUN, "--out", tmp_path).returncode == 143
    assert_continues(tmp_path, whole)


def test_a_signal_ends_an_evaluation_between_two_batches(clock):
    stop, tested = Stop(None), []
    with stop.after_first_signal(), pytest.raises(Due):
        for batch in stop.checked(range(9), timed=False):
            tested.append(batch)
            if batch == 3:
                clock.seconds += 60  # alone, it ends nothing that isn't timed
                os.kill(os.getpid(), signal.SIGTERM)
    assert (tested, stop.code) == ([0, 1, 2, 3], 143)


SIGNALS = sorted(CODES)
PAIRS = list(zip(SIGNALS, SIGNALS[1:] + SIGNALS[:1], strict=True))  # each is a first and a second one


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda number: number.name)
def test_a_second_signal_ends_the_process_at_once_and_saves_nothing(first, second, tmp_path):
    """In its own process, which nothing raises in."""
    result = signalled("step 2", f"{first.name} 0.6 {second.name}", tmp_path)
    assert result.returncode == CODES[second]
    (line,) = result.stderr.splitlines()
    assert "once more" in line and "give the same command again" in line
    assert not list(tmp_path.glob("checkpoint*"))
    assert summary(tmp_path)["status"] == "running"  # which nobody is: for the report it is unfinished
    assert "unfinished" in run_here("report.py", tmp_path, "--out", tmp_path / "report").stderr


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda number: number.name)
def test_a_second_signal_within_half_a_second_is_none(first, second, whole, tmp_path):
    """GNU's timeout and Slurm's srun send one to the process, and to its group."""
    result = signalled("step 2", f"{first.name} 0.1 {second.name} {first.name}", tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (CODES[first], 1)
    assert load_checkpoint(tmp_path / LATEST)["step"] == 3
    assert_continues(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "place"),
    [
        ("SIGTERM SIGINT", "data"),
        ("SIGINT 0.6 SIGTERM", "data"),
        ("SIGINT SIGTERM", "evaluation"),
        ("SIGTERM 0.6 SIGINT", "evaluation"),
        ("SIGTERM 0.1 SIGINT", "save"),  # from the thread that writes: at one moment, they come in the order of numbers
        ("SIGINT 0.6 SIGTERM", "save"),
    ],
)
def test_two_signals_are_never_a_traceback(sent, place, whole, tmp_path):
    """Also where files are half written, and where there is nothing to save."""
    result = signalled(place, sent, tmp_path)
    names = [word for word in sent.split() if word.startswith("SIG")]
    second = "0.6" in sent and place != "data"
    assert result.returncode == CODES[signal.Signals[names[second]]]
    (line,) = result.stderr.splitlines()
    assert line.startswith("interrupted") and ("once more" in line) == second
    assert (tmp_path / LATEST).exists() == (place != "data" and not second)
    assert_continues(tmp_path, whole)


def signalled(place: str, sent: str, out: Path) -> subprocess.CompletedProcess:
    """A run as a process of its own, that gets signals at a place."""
    return run_forked("tests/helpers/signalled.py", place, sent, FIX, *RUN, "--out", out)


def test_a_time_limit_beside_a_signal_is_no_second_one(clock):
    stop = Stop(1)
    with stop.after_first_signal():
        clock.seconds += 60
        os.kill(os.getpid(), signal.SIGINT)
    assert (stop.code, stop.reason) == (130, "interrupted")


@pytest.mark.parametrize("seconds", [0, 0.4, 0.6])
@pytest.mark.parametrize("second", SIGNALS)
def test_a_later_signal_is_a_second_one(second, seconds, clock):
    stop = Stop(None)
    with stop.after_first_signal():
        os.kill(os.getpid(), signal.SIGINT)
        clock.seconds += seconds
        try:
            os.kill(os.getpid(), second)
            ended = None
        except Ended as end:
            ended = end.code
    assert (ended, stop.signal) == (CODES[second] if seconds > 0.5 else None, signal.SIGINT)


def test_the_command_that_goes_on_is_named(signals, whole, tmp_path):
    """`--overwrite` would delete what was saved, and `--resume` of a copy would go back to it."""
    with signals(("step 2", signal.SIGTERM)):
        result = run_here(FIX, *RUN, "--overwrite", "--out", tmp_path)
    assert "the same command without --overwrite goes on" in result.stderr
    assert_continues(tmp_path, whole)
    copy = tmp_path / "checkpoint_1.pth.tar"
    with signals(("step 7", signal.SIGTERM)):
        result = run_here(FIX, *RUN, "--resume", copy, "--out", tmp_path)
    assert "the same command without --resume goes on" in result.stderr
    assert_continues(tmp_path, whole)


@pytest.mark.slow
def test_a_second_signal_in_a_save_keeps_the_file_before(whole, tmp_path):
    """What is half written is no checkpoint, and in nobody's way."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoint_1.pth.tar").rename(tmp_path / LATEST)
    before = (tmp_path / LATEST).read_bytes()
    result = signalled("save", "SIGTERM 0.6 SIGINT", tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (130, 1)
    assert (tmp_path / LATEST).read_bytes() == before
    assert_continues(tmp_path, whole)
    assert not list(tmp_path.glob(".*.tmp"))


def test_killed_between_two_files_of_an_epoch(whole, tmp_path, monkeypatch):
    """TensorBoard, checkpoint, log: whichever is the last that was written, none lacks an epoch in the end."""
    import training.recorder
    from training.recorder import Recorder

    def ends(method):
        def ending(self, *rest):
            if not isinstance(self, Recorder) or self.done == 2:
                raise KeyboardInterrupt
            return method(self, *rest)

        return ending

    for place, name in ((training.recorder, "save_checkpoint"), (Recorder, "_write_history"), (Recorder, "summarise")):
        out = tmp_path / name
        shutil.copytree(whole, out)
        (out / "checkpoint_1.pth.tar").rename(out / LATEST)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(place, name, ends(getattr(place, name)))
            run_here(FIX, *RUN, "--out", out)
        assert_continues(out, whole)
        assert scalars(out) == scalars(whole)


def test_a_finished_co_learning_run_keeps_its_start(pretrained, tmp_path):
    """What it began with is read when it begins, and never again."""
    start = tmp_path / LATEST
    flags = [*RUN, "--epoch", 1, "--out", tmp_path / "run", "--resume", start]
    shutil.copy(pretrained / LATEST, start)
    assert_runs(FIX_COSSL, *flags)
    before = summary(tmp_path / "run")
    assert before["start_epoch"] == 2
    start.write_bytes(b"damaged")
    assert_runs(FIX_COSSL, *flags)
    start.unlink()
    assert_runs(FIX_COSSL, *flags[:-1], "elsewhere")
    assert summary(tmp_path / "run") == before


def test_a_signal_after_the_time_limit_lets_it_save(signals, tmp_path):
    with signals(("step 2", MINUTE), ("step 2", signal.SIGTERM)):
        assert run_here(FIX, *RUN, *LIMITED, "--out", tmp_path).returncode == 143
    assert load_checkpoint(tmp_path / LATEST)["step"] == 3


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_preparation_has_nothing_to_save(number, signals, pretrained, tmp_path):
    with signals(("preparation", number)), pytest.raises(Ended, match="nothing to save") as ended:
        run_here(FIX_COSSL, *RUN, "--resume", pretrained / LATEST, "--out", tmp_path)
    assert ended.value.code == CODES[number]
    assert not (tmp_path / LATEST).exists()


def test_a_signal_in_the_last_save_lets_the_run_finish(whole, tmp_path, monkeypatch):
    write = Log.write

    def interrupted(log, history, last):
        write(log, history, last)
        if last == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Log, "write", interrupted)
    assert_runs(FIX, *RUN, "--out", tmp_path)
    assert summary(whole) == summary(tmp_path)


def test_time_limit_ends_each_part_and_may_differ(whole, tmp_path):
    for step, minutes in enumerate((1e-6, 2e-6, 1e-6), 1):  # over before the first step; each part does one
        result = run_here(FIX, *RUN, "--time_limit", minutes, "--out", tmp_path)
        assert result.returncode == 124
        assert "--time_limit" in result.stderr
        assert load_checkpoint(tmp_path / LATEST)["step"] == step
    assert_continues(tmp_path, whole)


def test_a_time_limit_shorter_than_an_evaluation_gets_further(signals, whole, tmp_path):
    """It may break an evaluation off once, not again by the process that does nothing else."""
    with signals(("evaluation", MINUTE)):
        for epoch, step in ((0, 6), (1, 0), (1, 6)):
            assert run_here(FIX, *RUN, *LIMITED, "--out", tmp_path).returncode == 124
            state = load_checkpoint(tmp_path / LATEST)
            assert (state["epoch"], state["step"]) == (epoch, step)
        assert_runs(FIX, *RUN, *LIMITED, "--out", tmp_path)  # the last evaluation is not broken off
    assert_continues(tmp_path, whole)


def test_a_time_limit_shorter_than_the_preparation_gets_further(signals, pretrained, tmp_path):
    flags = [*RUN, "--epoch", 1, "--resume", pretrained / LATEST]
    with signals(("preparation", MINUTE)):
        result = run_here(FIX_COSSL, *flags, *LIMITED, "--out", tmp_path / "parts")
    assert result.returncode == 124
    assert "saved after step 1 of epoch 1" in result.stderr
    for out in (tmp_path / "parts", tmp_path / "whole"):
        assert_runs(FIX_COSSL, *flags, "--out", out)
    assert_same(*(load_checkpoint(tmp_path / name / LATEST) for name in ("whole", "parts")))


def test_a_run_that_another_process_has_begun_meanwhile_is_refused(whole, tmp_path):
    """While this one waited for its data, before it made the folder."""
    out = tmp_path / "run"

    def at(place: str) -> None:
        if place == "data" and not out.exists():
            out.mkdir()
            shutil.copy(whole / LATEST, out)

    with watched(at):
        assert_refused(run_here(FIX, *RUN, "--out", out), f"--out {out}", "meanwhile", "once more")
    assert (out / LATEST).read_bytes() == (whole / LATEST).read_bytes()
    assert not (out / "summary.json").exists()
    assert_runs(FIX, *RUN, "--overwrite", "--out", out)
    assert_continues(out, whole)


@pytest.mark.slow
def test_a_folder_that_is_there_is_locked_before_its_checkpoint_is_read(tmp_path):
    """So nobody trains in it while this process waits for its data."""
    assert run_here(FIX, *RUN, "--time_limit", 1e-6, "--out", tmp_path).returncode == 124
    before, refused = (tmp_path / LATEST).read_bytes(), []

    def at(place: str) -> None:
        if place == "data":
            refused.append(run_script(FIX, *RUN, "--out", tmp_path))

    with watched(at):
        assert run_here(FIX, *RUN, "--time_limit", 1e-6, "--out", tmp_path).returncode == 124
    assert_refused(refused[0], f"--out {tmp_path}", f"process {os.getpid()} on ", "training there")
    assert before != (tmp_path / LATEST).read_bytes()


def test_a_run_that_is_over_keeps_the_versions_it_was_trained_with(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("training.recorder.versions", lambda: {"torch": "99"})
    assert_continues(tmp_path, whole)


def test_what_other_programs_make_of_an_unfinished_first_epoch(signals, tmp_path):
    """It has no history and no whole epoch; it is reported, starts co-learning, and is evaluated."""
    out = tmp_path / "run"
    with signals(("step 2", signal.SIGTERM)):
        run_here(FIX, *RUN, "--out", out)
    assert_refused(run_here("report.py", out, "--out", tmp_path / "report"), "no run is whole", "after epoch 0")
    flags = [*RUN, "--epoch", 1, "--resume", out / LATEST, "--out", tmp_path / "cossl"]
    assert "in the middle of epoch 1" in assert_runs(FIX_COSSL, *flags).stderr
    evaluated = assert_runs("eval_shifted_test_distribution.py", out, "--gpu", "cpu", "--out", tmp_path / "shifted")
    assert "epoch 0" in evaluated.stdout


@pytest.mark.ranks
def test_two_ranks_take_up_an_epoch_and_end_after_it(signals, tmp_path):
    """Their time limit acts at the epoch's end; the counts of the steps that one process did are counted once."""
    with signals(("step 2", signal.SIGTERM)):
        run_here(FIX, *RUN, "--out", tmp_path)
    ended = [rank.wait() for rank in forked_ranks(2, FIX, *RUN, "--time_limit", 1e-6, "--out", tmp_path)]
    stderr = "".join(result.stderr for result in ended)
    assert "continuing after step 3 of epoch 1" in ended[0].stdout, stderr
    lines = [line for line in stderr.splitlines() if "--time_limit over" in line]
    assert lines and all("saved after epoch 1" in line for line in lines)
    state = load_checkpoint(tmp_path / LATEST)
    assert (state["epoch"], state["step"]) == (1, 0)
    assert state["history"]["counts"][0, 0].sum() == 6 * 16


def totals_of_steps(*steps: dict[str, float]) -> Totals:
    totals = Totals()
    for logs in steps:
        totals.add({name: torch.tensor(value) for name, value in logs.items()})
        totals.step += 1
    return totals


def test_the_first_bad_step_is_named_with_its_terms():
    totals = totals_of_steps(
        {"loss": 1.0, "loss_u": 2.0}, {"loss": 2.0, "loss_u": float("inf")}, {"loss": float("nan"), "loss_u": 0.0}
    )
    with pytest.raises(
        UserError, match=r"--lr 0.5, --lr_tfe 0.25: .*step 2 of epoch 7 \(loss 2, loss_u inf\); .*epoch 6"
    ):
        totals.check(7, "--lr 0.5, --lr_tfe 0.25")
    totals_of_steps({"loss": 1.0}, {"loss": 2.0}).check(7, "")


def test_bad_steps_are_kept_without_a_read():
    totals = Totals()
    for _ in range(2):
        totals.add({"loss": torch.zeros((), device="meta"), "pseudo": torch.zeros(2, 3, device="meta")})
    assert totals.finite[0].device.type == "meta"
    assert set(totals.totals()) == {"loss", "pseudo"}


def test_sums_stay_where_they_are():
    """So that a step which is one CUDA graph, and runs no Python, adds to them; also in the next epoch."""
    totals = Totals(2, {"mask": torch.tensor(3.0), "loss": torch.tensor(5.0), "pseudo": torch.tensor([[1, 2]])})
    logs = {"loss": torch.tensor(1.0), "mask": torch.tensor(0.5), "pseudo": torch.tensor([[0, 4]])}
    totals.add(logs)
    sums = totals.values, totals.counts, *totals.finite
    places = [tensor.data_ptr() for tensor in sums]
    assert [tensor.tolist() for tensor in sums] == [[6.0, 3.5], [[1, 6]], True, 3, [1.0, 0.5]]
    logs["loss"].fill_(torch.nan)
    totals.add(logs)
    assert [tensor.tolist() for tensor in sums[1:]][:3] == [[[1, 10]], False, 3]
    totals.restart()
    logs["loss"].fill_(2.0)
    totals.add(logs)
    assert [tensor.data_ptr() for tensor in (totals.values, totals.counts, *totals.finite)] == places
    assert [tensor.tolist() for tensor in sums] == [[2.0, 0.5], [[0, 4]], True, 1, [2.0, 0.5]]


def test_elsewhere_than_on_the_cpu_a_bad_step_is_found_at_the_end(monkeypatch):
    """Where reading waits, steps go on; the epoch's end still names the first bad one."""
    monkeypatch.setattr(Totals, "cheap", property(lambda self: False))
    recorder, trained, totals = Namespace(steps=4, rates="--lr 0.1", background=Background()), [], Totals()

    def step(t):
        trained.append(t)
        totals.add({"loss": torch.tensor(float("nan") if t >= 5 else 1.0)})

    with pytest.raises(UserError, match=r"--lr 0\.1: .*step 2 of epoch 2"):
        train_epoch(step, 2, recorder, Namespace(step=lambda *_: None), totals, Stop(None))
    assert trained == [4, 5, 6, 7]


@pytest.mark.parametrize("bad", ["loss", "weight"])
def test_nothing_bad_is_saved(bad, whole, tmp_path, monkeypatch):
    """In the second epoch a loss, or with the epoch's last step a weight, is no number: the first checkpoint stays."""
    original, numbers = Run.fit, itertools.count()

    def fit(self, step, predict, data, steps, student, *rest, **others):
        def training(batch):
            t, logs = next(numbers), step.train(batch)
            if t == 11 and bad == "weight":
                student.live.output.bias.data[0] = float("inf")
            return logs | ({"loss_x": torch.tensor(float("nan"))} if t == 8 and bad == "loss" else {})

        original(self, step._replace(train=training), predict, data, steps, student, *rest)

    monkeypatch.setattr(Run, "fit", fit)
    result = run_here(FIX, *RUN, "--out", tmp_path)
    words = ["step 3 of epoch 2", "loss_x nan"] if bad == "loss" else ["weight"]
    assert_refused(result, "--lr 0.002", "lower", "epoch 1", *words)
    assert load_checkpoint(tmp_path / LATEST)["epoch"] == 1
    left = summary(tmp_path)  # for the report
    assert (left["status"], left["epochs"], f"error: {left['reason']}\n") == ("failed", 1, result.stderr)
    monkeypatch.undo()
    assert_continues(tmp_path, whole)
    assert summary(tmp_path)["status"] == "finished" and "reason" not in summary(tmp_path)


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_until_the_first_one_is_dead(tmp_path):
    flags = [*TINY, "--epoch", 1, "--val-iteration", 10**6, "--out", tmp_path]
    process = subprocess.Popen(command(FIX, *flags), cwd=ROOT, stdout=subprocess.DEVNULL, env=environment())
    try:
        while not (tmp_path / "summary.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        before, report = sorted(tmp_path.iterdir()), ["report.py", tmp_path, "--out", tmp_path / "report"]
        assert_refused(run_here(*report), f"{tmp_path}: running, after epoch 0 of 1")
        for overwrite in ([], ["--overwrite"]):
            result = run_here(FIX, *flags, *overwrite)
            assert_refused(result, f"--out {tmp_path}", f"process {process.pid} on ", "take another folder")
        assert sorted(tmp_path.iterdir()) == before
    finally:
        process.kill()
        process.wait()
    assert_refused(run_here(*report), f"{tmp_path}: unfinished, stopped after epoch 0 of 1")
    with Lock(tmp_path):
        pass


@pytest.mark.slow
def test_killed_at_random_moments():
    """One kill of each kind."""
    result = run_script("benchmarks/torture.py", "--kills", 3, "--recipe", "train_cifar_fix")
    assert result.returncode == 0, result.stdout + result.stderr
    name, kills, _, _, again, runs, differing = result.stdout.splitlines()[-1].split()
    assert (name, kills, again, differing) == ("train_cifar_fix", "3", "0", "nothing")
    assert int(runs) >= 1

"""What TensorBoard's own readers find of a run: all of log.txt, whatever its parts, and the table of its arguments."""

import csv
import math
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.scripts import FIX, FIX_COSSL, TINY, assert_runs, summary
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from training.checkpoint import LATEST
from training.history import SCALARS, extended
from training.schema import History
from training.tensorboard import Board

RUN = [*TINY, "--val-iteration", 6, "--epoch", 2]
SHARES = {"mask", "acc_u", "acc_selected", "acc_head"}


def shown(out: Path) -> dict[str, dict[int, float]]:
    """Values by step, by tag."""
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def logged(out: Path, first: int = 0) -> dict[str, dict[int, float]]:
    """The same of log.txt: what it should be."""
    with (out / "log.txt").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = {}
    for name in rows[0].keys() - {"epoch"}:
        part = "test" if name in {*SCALARS[1:], "test_loss"} else "pseudo" if name.startswith("pl_") else "train"
        values = {first + int(row["epoch"]): float(row[name]) * (100 if name in SHARES else 1) for row in rows}
        found[f"{part}/{name.removeprefix('test_')}"] = {n: v for n, v in values.items() if math.isfinite(v)}
    return {tag: values for tag, values in found.items() if values}


def assert_shows_the_log(out: Path, first: int = 0) -> None:
    found = {tag: values for tag, values in shown(out).items() if not tag.startswith("final/")}
    expected = logged(out, first)
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        assert found[tag] == pytest.approx(values, rel=1e-5), tag


def table(folder: Path) -> tuple[set[str], dict[str, tuple[dict, dict, int]]]:
    """The names of the arguments in TensorBoard's table of runs below a folder; of each run its arguments, its figures,
    and its status."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    context, request = (
        Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder)))),
        RequestContext(),
    )
    tags = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, tags, None)
    wanted = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=99, include_metrics=True)
    wanted.allowed_statuses.extend(api_pb2.Status.values())
    for info in experiment.metric_infos:
        wanted.col_params.add().metric.CopyFrom(info.name)
    runs = {}
    for group in Handler(request, context, "", wanted).run().session_groups:
        (session,) = group.sessions
        arguments = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
        figures = {one.name.tag: one.value for one in session.metric_values}
        runs[session.name] = arguments, figures, session.status
    return {info.name for info in experiment.hparam_infos}, runs


def one_epoch() -> History:
    tested = dict.fromkeys(SCALARS, 50.0) | {"recall": [50.0]}
    return extended(None, {"train": {"loss": 1.0}, "test": tested, "confusion": torch.ones(1, 1)})


@pytest.mark.parametrize("script", ["train_cifar_fix.py", "train_cifar_remix.py", "train_cifar_supervised.py"])
def test_all_of_the_log_in_percent(script, pretrained_by):
    assert_shows_the_log(pretrained_by(script))


def test_a_run_that_was_resumed_elsewhere_shows_its_first_epochs(pretrained, tmp_path):
    assert_runs(FIX, *RUN, "--resume", pretrained / "checkpoint_1.pth.tar", "--out", tmp_path)
    assert set(shown(tmp_path)["train/loss"]) == {1, 2}
    assert_shows_the_log(tmp_path)
    assert shown(tmp_path) == shown(pretrained)


def test_a_clock_that_is_set_back_changes_nothing(pretrained, tmp_path, monkeypatch):
    """Nor does a part that a kill cut off after its epoch was written here, before its checkpoint was."""
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    for seconds in (1.2e9, 1.1e9):
        shutil.copy(pretrained / "checkpoint_1.pth.tar", out / LATEST)
        monkeypatch.setattr("training.tensorboard.time", SimpleNamespace(time=lambda now=seconds: now))
        assert_runs(FIX, *RUN, "--out", out)
    assert len(list((out / "tensorboard").iterdir())) == 3
    events = EventAccumulator(str(out / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.wall_time > 1.5e9) for event in events] == [(1, True), (2, False)]
    assert shown(out) == shown(pretrained)


def test_co_learning_goes_on_where_its_pre_training_ends(pretrained, tmp_path):
    flags = [*TINY, "--val-iteration", 2, "--epoch", 2, "--warm_tfe", 1, "--resume", pretrained / LATEST]
    assert_runs(FIX_COSSL, *flags, "--out", tmp_path / "cossl")
    assert set(shown(tmp_path / "cossl")["test/balanced"]) == {3, 4}
    assert_shows_the_log(tmp_path / "cossl", first=2)


def test_table_of_arguments_and_final_figures(pretrained, tmp_path):
    """Of runs with unlike arguments; what isn't over has no final figures."""
    shutil.copytree(pretrained, tmp_path / "first")
    (tmp_path / "going").mkdir()
    Board(tmp_path / "going" / "tensorboard", 0, {"lr": 0.5}).write(one_epoch(), 1, {}, {})
    flags = [*TINY, "--val-iteration", 2, "--epoch", 1, "--warm_tfe", 1, "--resume", pretrained / LATEST]
    assert_runs(FIX_COSSL, *flags, "--out", tmp_path / "cossl")
    names, runs = table(tmp_path)
    assert {"method", "start_epoch", "tau", "imb_ratio_l", "manualSeed", "max_lam"} <= names
    assert not names & {"out", "gpu", "time_limit", "overwrite"}
    first, cossl = runs["first/tensorboard"], runs["cossl/tensorboard"]
    for name, (arguments, figures, status) in (("first", first), ("cossl", cossl)):
        left = summary(tmp_path / name)
        assert (arguments["method"], arguments["start_epoch"]) == (left["method"], left["start_epoch"])
        assert status == api_pb2.STATUS_SUCCESS
        assert arguments["amp"] == "False" and arguments["lr"] == left["arguments"]["lr"]
        for figure in SCALARS:
            assert figures[f"final/{figure}"] == pytest.approx(left["last_20_mean"][figure], rel=1e-5)
    arguments, figures, status = runs["going/tensorboard"]
    assert (arguments["lr"], figures["test/balanced"]) == (0.5, 50)
    assert status != api_pb2.STATUS_SUCCESS and not any(tag.startswith("final/") for tag in figures)
    assert (first[0]["method"], cossl[0]["method"]) == ("FixMatch", "FixMatch+CoSSL")


def test_names_that_are_no_unicode_are_shown(tmp_path):
    Board(tmp_path, 0, {"weights": "caf\udce9.pth"}).write(one_epoch(), 1, {}, {"balanced": 50.0})
    assert b"caf\\udce9.pth" in next(tmp_path.iterdir()).read_bytes()


def test_full_disk_is_an_error_of_its_own(tmp_path, capfd):
    """There is no thread of TensorBoard's that would print a traceback."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(OSError, match="too large"):
            Board(tmp_path, 0, {}).write(one_epoch(), 1, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""
    assert not list(tmp_path.iterdir())

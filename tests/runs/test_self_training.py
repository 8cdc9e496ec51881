"""CReST's scripts as users run them: whole, killed within and between generations, and in the report."""

import importlib
import json
import re
import shutil
import signal

import pytest
import torch
from helpers.forked import assert_ranks_run, run_forked
from helpers.own_images import image_folder
from helpers.scripts import (
    TINY,
    assert_refused,
    assert_runs,
    assert_same,
    handed_to_fit,
    load_checkpoint,
    run_here,
    summary,
)

from methods.remixmatch import align
from methods.step import ssl_step
from training.checkpoint import LATEST

pytestmark = pytest.mark.slow

FIX, REMIX = SCRIPTS = ["train_cifar_fix_crest.py", "train_cifar_remix_crest.py"]
STEPS = 4
SHORT = [*TINY, "--num_generation", 3, "--epochs", 1, "--val-iteration", STEPS]


def folders(out):
    return [out / f"generation_{g}" for g in range(3)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Script -> the folder of a finished run of three generations."""
    made = {}

    def of(script):
        if script not in made:
            made[script] = tmp_path_factory.mktemp("crest") / "run"
            assert_runs(script, *SHORT, "--out", made[script])
        return made[script]

    return of


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_between_and_within_generations_it_goes_on_bit_for_bit(script, whole, two_threads, tmp_path):
    killed = run_forked("tests/helpers/dies_at.py", 0, f"{STEPS - 1}x2", script, *SHORT, "--out", tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "generation_1" / LATEST).exists()  # it is picked anew then
    part = run_here(script, *SHORT, "--out", tmp_path, "--time_limit", 1e-9)
    assert part.returncode == 124, part.stderr
    assert load_checkpoint(tmp_path / "generation_1" / LATEST)["step"] == 1
    (tmp_path / "generation_0" / LATEST).write_bytes(b"of no use any more")
    rest = assert_runs(script, *SHORT, "--out", tmp_path)
    assert "generation 0" not in rest.stdout
    for mine, expected in list(zip(folders(tmp_path), folders(whole(script)), strict=True))[1:]:
        assert_same(*(load_checkpoint(folder / LATEST) for folder in (mine, expected)))
        assert (mine / "log.txt").read_text() == (expected / "log.txt").read_text()
        assert summary(mine) == summary(expected)


@pytest.mark.parametrize("script", SCRIPTS)
def test_generations_begin_anew_and_train_on_what_was_picked(script, whole):
    states = [load_checkpoint(folder / LATEST) for folder in folders(whole(script))]
    assert [len(state["picked"]["images"]) > 0 for state in states] == [False, True, True]
    assert [state["epoch"] for state in states] == [1, 1, 1]
    assert [len(state["emp_distb_u"]) for state in states] == [STEPS] * 3
    counts = {tuple(state["facts"]["labelled_counts"]) for state in states}
    assert len(counts) == 1  # what runs are compared by
    name = "FixMatch" if script == FIX else "ReMixMatch"
    generations = [", generation 0", ", generation 1", ""]
    assert [state["facts"]["method"] for state in states] == [f"{name}+CReST+{words}" for words in generations]
    assert_runs(script, *SHORT, "--out", whole(script))  # a finished one says so again


def test_labelled_batches_hold_picked_images_by_their_guesses(whole, monkeypatch, tmp_path):
    picked = load_checkpoint(folders(whole(FIX))[1] / LATEST)["picked"]
    start = {"picked": picked}
    monkeypatch.setattr("training.resume.starting_point", lambda *_: start)
    found = handed_to_fit(FIX, *SHORT, "--num_generation", 1, "--out", tmp_path)
    labelled, unlabelled, images = found.data.labelled, found.data.unlabelled, found.data.labelled.images
    n, first = len(picked["images"]), int(found.data.counts.sum())
    joined = labelled.members[first:]
    assert len(joined) == n > 0
    assert torch.equal(images.pixels[joined], images.pixels[picked["images"]])
    assert images.labels[joined].tolist() == picked["labels"].tolist()
    assert set(picked["images"].tolist()) <= set(unlabelled.members.tolist()) - set(labelled.members[:first].tolist())
    assert set(labelled.members[:first].tolist()) <= set(unlabelled.members.tolist())
    assert (images.labels[picked["images"]] != picked["labels"].numpy()).any()  # the hidden labels are still there


def test_the_first_generation_is_fixmatch_with_aligned_guesses(monkeypatch, tmp_path):
    """Its guesses: the live network's, in train mode, aligned with the labelled distribution; selected by tau then."""
    module, labellers = importlib.import_module("train_cifar_fix_crest"), []

    def ssl_step_of_recipe(method, student, labeller):
        labellers.append(labeller)
        return ssl_step(method, student, labeller)

    monkeypatch.setattr(module, "ssl_step", ssl_step_of_recipe)
    found = handed_to_fit(FIX, *SHORT, "--num_generation", 1, "--out", tmp_path)
    images, live = torch.randn(8, 3, 16, 16), found.student.live.train()
    p = live(images).softmax(dim=1)
    counts = torch.from_numpy(found.data.counts)
    torch.testing.assert_close(labellers[0](images).softmax(dim=1), align(p, counts / counts.sum(), p.mean(dim=0)))
    assert found.predict is found.student.ema
    assert found.student.shrink == pytest.approx(0.02 * 0.002)


def test_generations_draw_other_batches_and_begin_with_other_networks(monkeypatch, tmp_path):
    seen = []

    def fit(run, step, predict, data, steps, student, teacher=None, before=None):
        order = data.unlabelled.order(0)[1]
        seen.append((student.live.init_conv.weight.tolist(), order.tolist(), data.counts.tolist()))

    monkeypatch.setattr("training.run.Run.fit", fit)
    assert_runs(FIX, *SHORT, "--out", tmp_path)
    weights, images, counts = zip(*seen, strict=True)
    assert weights[0] != weights[1] != weights[2] != weights[0]
    assert images[0] != images[1] != images[2] != images[0]
    assert counts[0] == counts[1] == counts[2]


def test_own_images_join_by_their_counts(tmp_path):
    images, out = image_folder(tmp_path / "images"), tmp_path / "out"
    flags = [
        "--dataset",
        "folder",
        "--data_root",
        images,
        "--img_size",
        16,
        "--gpu",
        "cpu",
        "--depth",
        10,
        "--width",
        1,
    ]
    flags += ["--batch-size", 2, "--num_generation", 2, "--epochs", 1, "--val-iteration", 2, "--out", out]
    result = assert_runs(FIX, *flags)
    assert "unlabelled images join the labelled ones" in result.stdout
    assert json.loads((out / "generation_1" / "summary.json").read_text())["status"] == "finished"
    latest = out / "generation_1" / LATEST
    state = load_checkpoint(latest)
    torch.save(state | {"picked": {"images": torch.tensor([3, 19]), "labels": torch.tensor([0, 1])}}, latest)
    shutil.rmtree(images / "unlabelled" / "cat", ignore_errors=True)
    for path in (images / "unlabelled").glob("c*"):
        path.unlink()
    assert_refused(run_here(FIX, *flags), "--data_root", "fewer images than the run began with")


def test_a_published_checkpoint_has_no_picked_images(pretrained, tmp_path):
    copy = tmp_path / "generation_0" / "checkpoint_1.pth.tar"
    copy.parent.mkdir()
    state = load_checkpoint(pretrained / LATEST)
    torch.save({key: state[key] for key in ("epoch", "state_dict", "ema_state_dict", "optimizer")}, copy)
    assert_refused(run_here(FIX, *SHORT, "--epochs", 4, "--resume", copy, "--out", tmp_path), "checkpoint_1", "picked")


def test_the_report_compares_the_last_generation(whole, pretrained, tmp_path):
    """The others stand beside it, and compete with nothing: neither in bold nor in the first line."""
    made = tmp_path / "crest"
    shutil.copytree(whole(FIX), made)
    first = json.loads((made / "generation_0" / "summary.json").read_text())
    for statistic in ("last_20_mean", "last_epoch", "best"):
        first[statistic] |= dict.fromkeys(("top1", "balanced", "gm", "many", "medium", "few"), 99.0)
    (made / "generation_0" / "summary.json").write_text(json.dumps(first))
    assert_runs("report.py", made, pretrained, "--out", tmp_path / "report")
    lines = (tmp_path / "report" / "tables.md").read_text().splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert {"FixMatch", "FixMatch+CReST+", "FixMatch+CReST+, generation 0"} <= rows.keys()
    assert "99.00" in rows["FixMatch+CReST+, generation 0"]
    assert "**" not in rows["FixMatch+CReST+, generation 0"]
    assert any("**" in rows[name] for name in ("FixMatch", "FixMatch+CReST+"))
    headline = re.search(r'class="headline">(.*?)<', (tmp_path / "report" / "report.html").read_text(), re.DOTALL)
    assert "reaches" in headline[1]
    assert "generation" not in headline[1]


@pytest.mark.ranks
def test_two_ranks_pick_the_same_and_train_alike(tmp_path):
    flags = [*TINY, "--num_generation", 2, "--epochs", 1, "--val-iteration", 2, "--out", tmp_path]
    assert_ranks_run(FIX, *flags)
    assert len(load_checkpoint(tmp_path / "generation_1" / LATEST)["picked"]["images"]) > 0
    assert_runs(FIX, *flags)  # one process reads it as finished

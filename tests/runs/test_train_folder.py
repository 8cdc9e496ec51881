"""train_folder.py: from a folder of images to predictions, in one command."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torchvision
from helpers.forked import FORKS
from helpers.own_images import image_folder, write_image
from helpers.scripts import (
    HANG,
    ROOT,
    assert_refused,
    assert_runs,
    assert_same,
    command,
    environment,
    load_checkpoint,
    run_here,
)

import train_folder
from dataset.layouts import list_images
from training import plan_folder
from training.plan_folder import discard
from training.scripts import run_script
from utils.stop import Stopped

SCRIPT = "train_folder.py"
SMALL = ["--gpu", "cpu", "--depth", 10, "--width", 1, "--img_size", 16, "--batch-size", 4, "--warm_tfe", 1]
FEW = [*SMALL, "--steps", 6, "--steps_cossl", 3, "--evaluations", 1]


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


def start_within(name, *arguments, quiet=False, limit=None):
    """A script that this one starts, within this process, which spares it the seconds of its start."""
    print(f"$ python {name}.py", *arguments)
    result = run_here(f"{name}.py", *arguments)
    print("" if quiet else result.stdout)
    if result.returncode:
        print(result.stderr, end="", file=sys.stderr)
        raise SystemExit(result.returncode)


def run_within(*arguments):
    """The script and all that it starts."""
    with patch.object(train_folder, "run_script", start_within):
        return assert_runs(SCRIPT, *arguments).stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Images, the folder of what came out, and what was printed."""
    place = tmp_path_factory.mktemp("finished")
    images, out = image_folder(place / "images"), place / "out"
    return images, out, run_within(images, *FEW, "--out", out)


@pytest.mark.slow
def test_all_that_it_leaves(finished):
    _, out, printed = finished
    assert "10 labelled, 9 unlabelled, 6 test images, of 2 classes" in printed and "6 cat, 4 dog" in printed
    methods = {json.loads(path.read_text())["method"] for path in out.glob("**/summary.json")}
    floors = {"logistic regression on pixels", "nearest class mean on pixels"}
    assert methods == {*floors, "supervised", "FixMatch", "FixMatch+CoSSL"}
    summaries = {part: json.loads((out / part / "summary.json").read_text()) for part in ("supervised", "fix", "cossl")}
    steps = {part: s["epochs"] * s["steps_per_epoch"] for part, s in summaries.items()}
    assert steps == {"supervised": 9, "fix": 6, "cossl": 3}
    with (out / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    assert (out / "gallery.html").stat().st_size > 1000
    report = (out / "report" / "tables.md").read_text()
    assert all(method in report for method in methods)
    last = printed.strip().splitlines()[-1]
    assert "floor" in last or "above" in last


@pytest.mark.slow
def test_the_printed_commands_are_those_that_run(finished, tmp_path):
    """Word for word, in another folder, they give the same bits."""
    _, out, printed = finished
    lines = [
        line.removeprefix("$ python ").split() for line in printed.splitlines() if line.startswith("$ python train_")
    ]
    trial, *lines = lines
    assert trial[0] == "train_cifar_fix.py"
    assert [line[0] for line in lines] == [f"{name}.py" for name in train_folder.SCRIPT_OF.values()]
    stage1 = next(line for line in lines if line[0] == "train_cifar_fix.py")
    assert_runs(*[word.replace(str(out), str(tmp_path)) for word in stage1])
    a, b = (load_checkpoint(place / "fix" / "checkpoint.pth.tar") for place in (out, tmp_path))
    assert a["arguments"]["ema_decay"] == 0.9
    assert_same(a["ema_state_dict"], b["ema_state_dict"])


@pytest.mark.slow
def test_the_same_command_once_more_trains_nothing(finished):
    images, out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint.pth.tar")}
    assert "$ python train_cifar" not in run_within(images, *FEW, "--out", out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint.pth.tar")} == before


@pytest.mark.slow
def test_another_command_is_refused(finished):
    images, out, _ = finished
    assert_refused(run_here(SCRIPT, images, *FEW, "--tau", 0.5, "--out", out), f"--out {out}", "tau", "--overwrite")
    (copy := out.parent / "broken").mkdir()
    (copy / "plan.json").write_text("[1]")
    assert_refused(run_here(SCRIPT, images, *FEW, "--out", copy), "plan.json", "--overwrite")


LONG = [*SMALL, "--steps", 40, "--steps_cossl", 8, "--evaluations", 8, "--no-baseline"]


def ended_by(number, out, *arguments):
    """What is printed by a process that gets a signal after an epoch, and the code of its exit."""
    started, file = command(SCRIPT, *arguments, "--out", out), out / "fix" / "checkpoint.pth.tar"
    before = file.stat().st_mtime_ns if file.exists() else 0
    with subprocess.Popen(started, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        begun = time.monotonic()
        while not file.exists() or file.stat().st_mtime_ns == before:
            assert process.poll() is None and time.monotonic() - begun < HANG
            time.sleep(0.02)
        process.send_signal(number)
        rest = process.stdout.read()  # until the script that it has started has ended, too
    return rest, process.returncode


@pytest.mark.slow
def test_killed_or_stopped_and_given_once_more_it_gives_the_same_bits(images, tmp_path):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    printed, code = ended_by(signal.SIGKILL, ended, images, *LONG)
    assert code == -signal.SIGKILL and "$ python train_cifar_fix.py" in printed
    assert 0 < load_checkpoint(ended / "fix" / "checkpoint.pth.tar")["epoch"] < 8
    _, code = ended_by(signal.SIGTERM, ended, images, *LONG)  # which goes on to the script that runs
    assert code == 128 + signal.SIGTERM
    assert json.loads((ended / "fix" / "summary.json").read_text())["status"] == "stopped"
    assert not (ended / "cossl").exists()
    assert "going on by" in run_within(images, *LONG, "--out", ended)
    run_within(images, *LONG, "--out", whole)
    for part in ("fix", "cossl"):
        a, b = (load_checkpoint(out / part / "checkpoint.pth.tar") for out in (whole, ended))
        assert_same(a["ema_state_dict"], b["ema_state_dict"])
        assert a["epoch"] == b["epoch"] == 8


@pytest.mark.slow
def test_without_unlabelled_and_test_images(images, tmp_path):
    shutil.rmtree(images / "unlabelled")
    shutil.rmtree(images / "test")
    printed = run_within(images, *FEW, "--out", tmp_path / "out")
    assert "labelled-only training: there are no unlabelled images" in printed
    assert "--holdout 0.2: there are no test images" in printed
    assert not (tmp_path / "out" / "fix").exists()
    assert "supervised" in printed.strip().splitlines()[-1]  # against the other floors
    assert "checkpoint_best.pth.tar" in printed.split("predict.py")[1].splitlines()[0]


@pytest.mark.slow
def test_a_csv(images, tmp_path):
    """In a folder with a name that is no Unicode, which Python writes otherwise."""
    images = images.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    rows = ["path,label,split"]
    for part in ("labelled", "unlabelled", "test"):
        for path in sorted((images / part).rglob("*.*g")):
            label = path.parent.name if part != "unlabelled" else ""
            rows.append(f"{path.relative_to(images)},{label},{'test' if part == 'test' else ''}")
    (images / "labels.csv").write_text("\n".join(rows))
    out = tmp_path / "out"
    run_within(images / "labels.csv", *FEW, "--no-baseline", "--out", out)
    with (out / "predictions.csv").open(errors="surrogateescape") as file:
        assert len(list(csv.DictReader(file))) == 9  # the unlabelled ones


@pytest.mark.slow
def test_a_trial_decides_what_is_not_given(images, tmp_path):
    out = tmp_path / "out"
    asked = images, *SMALL, "--steps", 20, "--no-baseline", "--out", out, "--plan"
    printed = run_within(*asked)
    assert "forecast: all is done at" in printed
    assert "--epochs 2 --val-iteration 10" in printed  # of which the second is measured, for a start is slow
    assert sorted(path.name for path in out.iterdir()) == [".lock", "plan.json"]
    plan = json.loads((out / "plan.json").read_text())
    assert (plan["steps"]["fix"], plan["steps"]["cossl"], plan["epochs"]) == (20, 10, 10)
    assert "plan" not in plan["asked"]  # so that the same command without it goes on
    again = run_within(*asked)
    assert "$ python" not in again and "--depth 10" in again and "train_cifar_fix 20 steps" in again


@pytest.mark.slow
def test_too_little_time_leaves_no_plan(images, tmp_path):
    with patch.object(train_folder, "run_script", start_within):
        result = run_here(SCRIPT, images, *SMALL, "--minutes", 0.01, "--out", tmp_path / "out")
    assert_refused(result, "--minutes", "give")
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.slow
def test_a_trial_ends_when_the_time_is_over(images, tmp_path):
    result = run_here(SCRIPT, images, *SMALL, "--minutes", 0.01, "--out", tmp_path / "out")
    assert_refused(result, "--minutes 0.01: the trial takes longer")
    assert not (tmp_path / "out").exists()


def test_it_takes_the_flags_of_the_script_that_it_ends_with(monkeypatch):
    monkeypatch.setattr("sys.argv", [SCRIPT, "images", "--classifier", "abc"])
    assert train_folder.command_line().chosen == {"classifier": "abc"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere"], ["nowhere"]), ([], ["IMAGES"]), (["--tune", "x"], ["--tune"]), (["--minutes", 0], ["--minutes"])],
)
def test_wrong_commands(arguments, words, tmp_path):
    assert_refused(run_here(SCRIPT, *arguments, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_one_class_is_refused(tmp_path):
    (tmp_path / "images" / "labelled").mkdir(parents=True)
    (image_folder(tmp_path / "all") / "labelled" / "cat").rename(tmp_path / "images" / "labelled" / "cat")
    assert_refused(run_here(SCRIPT, tmp_path / "images", "--out", tmp_path / "out"), "1 class folders", "two or more")


@pytest.mark.slow
def test_the_floor_of_a_pre_trained_network(images, tmp_path):
    torch.manual_seed(1)
    torch.save(torchvision.models.get_model("mobilenet_v3_small").state_dict(), tmp_path / "w.pth")
    network = ["--arch", "mobilenet_v3_small", "--weights", tmp_path / "w.pth", "--img_size", 32, "--gpu", "cpu"]
    lengths = ["--steps", 2, "--steps_cossl", 1, "--evaluations", 1, "--warm_tfe", 1, "--batch-size", 4]
    run_within(images, *network, *lengths, "--no-baseline", "--out", tmp_path / "out")
    methods = {json.loads(path.read_text())["method"] for path in (tmp_path / "out").glob("**/summary.json")}
    floors = {f"{name} on mobilenet_v3_small" for name in ("logistic regression", "nearest class mean")}
    assert methods >= {*floors, "TFE head on mobilenet_v3_small", "FixMatch+CoSSL"}
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    again = [images, *lengths, "--no-baseline", "--out", tmp_path / "out"]
    printed = run_within(*network, *again)  # the weights aren't needed any more
    assert "going on by" in printed and "cache_features" not in printed
    shutil.rmtree(tmp_path / "out" / "fix")
    moved = ["--weights", tmp_path / "moved.pth"]
    assert f"--weights {tmp_path / 'moved.pth'}" in run_within(*network, *moved, *again)
    torch.save({}, tmp_path / "moved.pth")
    assert_refused(run_here(SCRIPT, *network, *moved, *again), "weights differ")


@pytest.mark.slow
def test_overwrite_discards_all_at_once(images, tmp_path):
    """So that after a kill, the command without it trains anew."""
    out = tmp_path / "out"
    run_within(images, *FEW, "--no-baseline", "--out", out)
    other = [images, *FEW, "--no-baseline", "--manualSeed", 7, "--out", out]
    begun = []

    def killed(name, *arguments, **how):
        begun.append(name)
        if name != "train_cifar_fix":
            raise Stopped(143, "killed")
        start_within(name, *arguments, **how)

    with patch.object(train_folder, "run_script", killed):
        assert run_here(SCRIPT, *other, "--overwrite").returncode == 143
    assert begun == ["train_cifar_fix", "floor"]
    assert sorted(path.name for path in out.rglob("*.*") if path.is_file()) == [*[".lock"] * 5, "plan.json"]
    run_within(*other)
    assert json.loads((out / "cossl" / "summary.json").read_text())["arguments"]["manualSeed"] == 7


@pytest.mark.slow
def test_a_floor_that_lacks_a_part_and_a_damaged_summary_are_made_anew(images, tmp_path):
    out = tmp_path / "out"
    run_within(images, *FEW, "--no-baseline", "--out", out)
    shutil.rmtree(out / "floor" / "nearest_class_mean")
    damaged = out / "floor" / "logistic_regression" / "summary.json", out / "fix" / "summary.json"
    for file in damaged:
        file.write_bytes(b"")
    run_within(images, *FEW, "--no-baseline", "--out", out)
    for file in (out / "floor" / "nearest_class_mean" / "summary.json", *damaged):
        assert json.loads(file.read_text())["status"] == "finished"


@pytest.mark.slow
def test_images_that_were_moved_since_are_the_same(finished, tmp_path):
    images, out, _ = finished
    shutil.copytree(images, tmp_path / "moved")
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "cossl")
    printed = run_within(tmp_path / "moved", *FEW, "--out", tmp_path / "out")
    assert "going on by" in printed and "train_cifar_fix_cossl.py" in printed and "train_cifar_fix.py" not in printed
    assert (tmp_path / "out" / "predictions.csv").read_text().count(f"{tmp_path / 'moved'}") == 9
    a, b = (load_checkpoint(place / "cossl" / "checkpoint.pth.tar") for place in (out, tmp_path / "out"))
    assert_same(a["ema_state_dict"], b["ema_state_dict"])


@pytest.mark.slow
def test_images_that_were_labelled_since_are_told(finished):
    images, out, _ = finished
    write_image(images / "labelled" / "dog" / "new.png", 50)
    assert_refused(run_here(SCRIPT, images, *FEW, "--out", out), "other images", "files, labels differ")
    (images / "labelled" / "dog" / "new.png").unlink()


@pytest.mark.slow
def test_labels_that_were_corrected_since_are_told(images, tmp_path):
    """The paths and their order are the same."""
    rows = [f"{path.relative_to(images)},{path.parent.name}," for path in sorted((images / "labelled").rglob("*.png"))]
    rows.append("test/cat/0.png,cat,test")
    file, run = images / "labels.csv", [images / "labels.csv", *FEW, "--plan", "--out", tmp_path / "out"]
    file.write_text("\n".join(["path,label,split", *rows]))
    run_within(*run)
    file.write_text("\n".join(["path,label,split", rows[0].replace(",cat", ",dog"), *rows[1:]]))
    assert_refused(run_here(SCRIPT, *run), "other images (labels differ)", "--overwrite")


@pytest.mark.slow
def test_ended_before_each_of_its_scripts_it_goes_on(finished, tmp_path):
    """From planning to the report: each is stopped once, and all that comes out is the same."""
    images, whole, _ = finished
    begun, out = [], tmp_path / "out"

    def stopped(name, *arguments, **how):
        if (what := (name, str(arguments).partition("--out")[0])) in begun:
            return start_within(name, *arguments, **how)
        begun.append(what)
        raise Stopped(143, "stopped")

    codes = []
    with patch.object(train_folder, "run_script", stopped):
        while not codes or codes[-1]:
            codes.append(run_here(SCRIPT, images, *FEW, "--out", out).returncode)
            assert codes[-1] in (0, 143) and len(codes) < 9
    trained = ["train_cifar_supervised", "train_cifar_fix", "train_cifar_fix_cossl"]
    assert [name for name, _ in begun] == ["train_cifar_fix", "floor", *trained, "predict", "report"]
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert (out / "report" / "tables.md").read_text() == (whole / "report" / "tables.md").read_text()


@pytest.mark.slow
def test_a_second_one_in_its_folder_is_refused_and_takes_nothing_away(images, tmp_path):
    out = tmp_path / "out"
    process = FORKS.Process(target=run_within, args=(images, *LONG, "--out", out))
    process.start()
    begun = time.monotonic()
    while not (out / "fix" / "checkpoint.pth.tar").exists():
        assert process.exitcode is None and time.monotonic() - begun < HANG
        time.sleep(0.02)
    before = (out / "plan.json").read_bytes()
    for more in ([], ["--overwrite"]):
        assert_refused(run_here(SCRIPT, images, *LONG, *more, "--out", out), f"--out {out}", "is training there")
    assert (out / "plan.json").read_bytes() == before and (out / "fix" / "checkpoint.pth.tar").exists()
    process.join(HANG)
    assert process.exitcode == 0


@pytest.mark.slow
def test_runs_without_a_plan_are_not_taken_for_those_of_a_new_one(finished, tmp_path):
    """Of other images, perhaps, or by the scripts of the stages."""
    images, out, _ = finished
    for kept in ("fix/summary.json", "floor/nearest_class_mean/summary.json", "predictions.csv", "report/tables.md"):
        (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / kept, tmp_path / kept)
        assert_refused(run_here(SCRIPT, images, *FEW, "--out", tmp_path), f"holds {kept} and no plan.json")
        (tmp_path / kept).unlink()
    shutil.copytree(out / "fix", tmp_path / "fix", dirs_exist_ok=True)
    assert "$ python train_cifar_fix.py" in run_within(images, *FEW, "--plan", "--overwrite", "--out", tmp_path)
    assert not (tmp_path / "fix" / "summary.json").exists()


def test_a_list_of_images_is_no_result(images, tmp_path):
    """shown.csv, of a run of before, is one to write labels into."""
    rows = [f"{path},{path.parent.name}" for path in sorted((images / "labelled").rglob("*.png"))]
    (tmp_path / "shown.csv").write_text("\n".join(["path,label", *rows]))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "notes.csv").touch()
    for more in ([], ["--overwrite"]):
        run = run_here(SCRIPT, tmp_path / "shown.csv", *FEW, *more, "--out", tmp_path)
        assert_refused(run, f"IMAGES {tmp_path / 'shown.csv'}: results would replace it")
    discard(tmp_path)
    assert (tmp_path / "report" / "notes.csv").exists()


@pytest.mark.slow
def test_killed_while_it_discards_the_plan_is_the_last_to_go(finished, tmp_path, monkeypatch):
    images, whole, _ = finished
    shutil.copytree(whole, out := tmp_path / "out")

    def killed(folder):
        raise Stopped(137, "killed")

    monkeypatch.setattr(train_folder, "run_script", start_within)
    with patch.object(plan_folder, "discard_run", killed):
        assert run_here(SCRIPT, images, *FEW, "--plan", "--tau", 0.5, "--overwrite", "--out", out).returncode == 137
    assert_refused(run_here(SCRIPT, images, *FEW, "--tau", 0.5, "--out", out), "tau differ")


@pytest.mark.slow
def test_the_same_command_from_another_folder_and_with_the_default_given(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_within("images", *FEW, "--plan", "--out", "out")
    assert f"--data_root {images} " in printed  # as it stands in checkpoints, too
    monkeypatch.chdir(images)
    assert "going on by" in run_within("../images", *FEW, "--minutes", 30, "--plan", "--out", "../out")


def test_copies_of_labelled_images_are_told_where_some_are_held_out(images, capsys):
    """The pictures of cats and dogs of one number are the same."""
    shutil.copy(images / "labelled" / "cat" / "0.png", images / "unlabelled" / "again.png")
    for holds_out in (False, True):
        train_folder.tell(list_images(images, False), holds_out)
        printed = capsys.readouterr()
        assert ("held out are trained on" in printed.out) == holds_out == ("which does no harm" not in printed.out)
        copies = "8 of the labelled images are copies of each other: held-out figures will be too good"
        assert (copies in printed.err) == holds_out


@pytest.mark.slow
def test_what_is_not_there_is_left_out_as_planned(images, tmp_path):
    """A CSV's missing image stops no command that goes on, whether or not it says `--skip_corrupt` once more."""
    rows = [f"{path.relative_to(images)},{path.parent.name}" for path in sorted((images / "labelled").rglob("*.png"))]
    (images / "labels.csv").write_text("\n".join(["path,label", *rows, "gone.png,cat"]))
    run = [images / "labels.csv", *FEW, "--plan", "--out", tmp_path / "out"]
    assert_refused(run_here(SCRIPT, *run), "gone.png", "--skip_corrupt")
    run_within(*run, "--skip_corrupt")
    assert "going on by" in run_within(*run)
    assert_refused(run_here(SCRIPT, *run, "--overwrite"), "gone.png", "--skip_corrupt")


@pytest.mark.parametrize("name", ["floor", "fix", "report"])
def test_images_where_results_of_a_part_would_lie_are_refused(name, images, tmp_path):
    shutil.move(images / "labelled", tmp_path / name)
    result = run_here(SCRIPT, tmp_path / name, *FEW, "--out", tmp_path)
    assert_refused(result, f"--out {tmp_path / name}", "among the images")
    assert not (tmp_path / "plan.json").exists()


def test_a_folder_whose_name_begins_as_a_flag_is_no_flag_of_a_script(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"--out {tmp_path / '-x'}" in run_within(images, *FEW, "--no-baseline", "--out", "./-x")


def test_a_flag_of_the_value_0_is_handed_on():
    values = {"tau": 0.0, "workers": 0, "max_lam": 0.0, "channels_last": False, "weights": None, "graph": True}
    found = train_folder.as_flags(values, train_folder.PASSED["cossl"])
    assert found.count("0.0") == 2 and found.count("0") == 1
    assert {word for word in found if word.startswith("--")} == {"--tau", "--workers", "--max_lam", "--graph"}


def test_one_that_has_planned_meanwhile_keeps_its_plan(images, tmp_path):
    out = tmp_path / "out"

    def other_plans(*_):
        out.mkdir()
        (out / "plan.json").write_text("{}")
        return {"choices": {}, "parts": []}

    with patch.object(train_folder, "new_plan", other_plans):
        assert_refused(run_here(SCRIPT, images, *FEW, "--out", out), "has begun there meanwhile")
    assert (out / "plan.json").read_text() == "{}"


@pytest.mark.slow
def test_flags_that_change_no_result_count_after_the_plan(images, tmp_path):
    """As the one that the error over a damaged image asks for."""
    out, run = tmp_path / "out", [images, *FEW, "--no-baseline"]
    run_within(*run, "--plan", "--out", out)
    (images / "unlabelled" / "c1.jpg").write_bytes(bytes((images / "unlabelled" / "c1.jpg").stat().st_size))
    assert_refused(run_here(SCRIPT, *run, "--tau", 0.5, "--skip_corrupt", "--out", out), "tau differ")
    with patch.object(train_folder, "run_script", start_within):
        assert_refused(run_here(SCRIPT, *run, "--out", out), "c1.jpg", "--skip_corrupt")
    printed = run_within(*run, "--skip_corrupt", "--out", out)
    assert "going on by" in printed and (out / "gallery.html").exists()


def test_results_among_the_images_are_refused(images):
    for root, out in ((images / "labelled", images / "labelled" / "results"), (images, images / "test" / "results")):
        assert_refused(run_here(SCRIPT, root, *FEW, "--out", out), f"--out {out}", "among the images")
        assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--arch", "resnet18", "--weights", "{weights}"], "--weights"),
        (["--arch", "mobilenet_v3_small", "--weights", "{weights}", "--tune", "last:99"], "--tune last:99"),
        (["--arch", "vit_b_16", "--img_size", 24], "--img_size 24"),
        (["--depth", 10, "--width", 1, "--img_size", 16, "--batch-size", 1000], "--batch-size"),
        (["--depth", 10, "--width", 1, "--graph"], "--graph"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(flags, word, images, tmp_path):
    torch.save(torchvision.models.get_model("mobilenet_v3_small").state_dict(), tmp_path / "w.pth")
    given = [str(flag).format(weights=tmp_path / "w.pth") for flag in flags]
    with patch.object(train_folder, "run_script", start_within):
        result = run_here(SCRIPT, images, *given, "--gpu", "cpu", "--out", tmp_path / "out")
    assert_refused(result, word)
    assert not (tmp_path / "out").exists()


def test_what_is_said_of_a_script_that_has_ended_is_true(monkeypatch):
    """Of a trial nothing is kept; others go on, unless --overwrite discards what is done."""
    monkeypatch.setattr("training.scripts.subprocess.Popen", lambda *_, **__: SimpleNamespace(wait=lambda _: -15))
    said = []
    for name, quiet in (("train_cifar_fix", True), ("train_cifar_fix", False), ("floor", False)):
        with pytest.raises(Stopped) as ended:
            run_script(name, quiet=quiet)
        said.append(str(ended.value))
    assert "begins anew" in said[0] and all("without --overwrite" in words for words in said[1:])

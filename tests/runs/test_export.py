"""export.py: files that answer as predict.py does, without this code; bad input."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.examples import agrees, example, predicted, run_python
from helpers.own_images import write_image
from helpers.published_runs import published_state
from helpers.scripts import ROOT, assert_refused, assert_runs, run_here

from cossl import load

TEN = ",".join("abcdefghij")
# script of the published code -> its number of classes, and what a user tells besides
PUBLISHED = {
    "train_cifar_remix_cossl": (10, ["--classes", TEN]),
    "train_small_imagenet127_fix": (127, ["--img_size", 32]),
    "train_food_fix_cossl": (101, ["--classes", ",".join(f"c{i}" for i in range(101)), "--img_size", 64]),
}


def read_onnx(path):
    """(pixels -> probabilities, what stands beside the network), as another program reads the file."""
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    return lambda pixels: session.run(None, {"pixels": pixels.numpy()})[0], about


def read_torch(path):
    files = {"about.json": ""}
    module = torch.export.load(path, extra_files=files).module()
    about = json.loads(files["about.json"])
    return lambda pixels: module(pixels).numpy(), {
        k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()
    }


FORMATS = {"onnx": (".onnx", read_onnx), "torch": (".pt2", read_torch)}


def check_answers(to, checkpoint, images, told, folder):
    """The exported file's answers are those of `predict.py`, at two batch sizes; what the file says."""
    ending, read = FORMATS[to]
    out = folder / "new" / f"model{ending}"
    result = assert_runs("export.py", checkpoint, "--to", to, "--out", out, *told)
    assert not result.stderr
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert str(ROOT).encode() not in out.read_bytes()
    answer, about = read(out)
    classes, size = json.loads(about["classes"]), json.loads(about["img_size"])
    for name in ("input", "preparation", "normalisation", "output"):
        assert f"{name}: {about[name]}" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1] == f"results: {out}"

    rows = predicted(checkpoint, images, folder / "out.csv", *told)
    keywords = {"classes": classes, "img_size": size} if told else {}
    pixels, _ = load(checkpoint, **keywords)[0].read([row["file"] for row in rows])
    for batch_size in (1, 3):
        found = np.concatenate([answer(batch) for batch in pixels.split(batch_size)])
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        for row, probabilities in zip(rows, found, strict=True):
            for n in ("", "_2"):
                probability = probabilities[classes.index(row[f"class{n}"])]
                assert probability == pytest.approx(float(row[f"probability{n}"]), abs=1e-4)
    return about


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("stage", ["fix", "cossl"])
def test_own_images(stage, to, own_runs, tmp_path):
    checkpoint = own_runs / "results" / stage / "checkpoint.pth.tar"
    about = check_answers(to, checkpoint, own_runs / "images" / "unlabelled", [], tmp_path)
    assert (about["classes"], about["labelled_counts"]) == ('["cat", "dog"]', "[6, 4]")
    assert (about["method"], about["epoch"]) == ("FixMatch+CoSSL" if stage == "cossl" else "FixMatch", "1")
    assert about["input"].startswith("pixels: uint8 (N, 3, 24, 24), RGB, 0 to 255")
    assert "resized to 24 x 24" in about["preparation"]


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("script", PUBLISHED)
def test_published_checkpoints(script, to, tmp_path):
    classes, told = PUBLISHED[script]
    torch.save(published_state(script, classes), tmp_path / "checkpoint.pth.tar")
    for i in range(4):
        write_image(tmp_path / "images" / f"{i}.png", i, (100, 80 + i))
    about = check_answers(to, tmp_path / "checkpoint.pth.tar", tmp_path / "images", told, tmp_path)
    assert len(json.loads(about["classes"])) == classes
    if "food" in script:
        assert "the shorter side resized to 73, bilinear, then the 64 x 64 pixels at the centre" in about["preparation"]


@pytest.mark.slow
def test_the_example_in_the_documentation(own_runs, tmp_path, monkeypatch):
    """By the names that they have there; without this code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(own_runs / "images")
    result = assert_runs("export.py", own_runs / "results" / "cossl" / "checkpoint.pth.tar", "--to", "onnx")
    assert result.stdout.splitlines()[-1] == "results: model.onnx"
    agrees(run_python(example("onnxruntime"), tmp_path, path=""), own_runs, tmp_path / "out.csv")


def test_an_export_replaces_an_earlier_one(own_runs, tmp_path):
    out = tmp_path / "model.pt2"
    out.write_text("earlier")
    assert_runs("export.py", own_runs / "results" / "fix" / "checkpoint.pth.tar", "--to", "torch", "--out", out)
    assert out.stat().st_size > 1000


@pytest.mark.slow
def test_names_that_are_no_unicode(own_runs, tmp_path):
    """JSON has only ASCII, and leads back to them."""
    state = torch.load(own_runs / "results" / "fix" / "checkpoint.pth.tar", weights_only=True)
    state["facts"]["classes"] = names = ["h\udce9ron", 'été, "猫"']
    torch.save(state, tmp_path / "checkpoint.pth.tar")
    for to, (ending, read) in FORMATS.items():
        assert_runs("export.py", tmp_path / "checkpoint.pth.tar", "--to", to, "--out", tmp_path / f"model{ending}")
        assert json.loads(read(tmp_path / f"model{ending}")[1]["classes"]) == names


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """The working folder, which stays empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_onnx_is_not_installed(missing, own_runs, empty, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    checkpoint = own_runs / "results" / "fix" / "checkpoint.pth.tar"
    words = [f"--to onnx: {missing} not installed; pip install onnx onnxscript", "--to torch"]
    assert_refused(run_here("export.py", checkpoint), *words)
    assert_runs("export.py", checkpoint, "--to", "torch", "--out", empty / "model.pt2")


def test_pytorch_is_too_old(own_runs, empty, monkeypatch):
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.5.1"))
    checkpoint = own_runs / "results" / "fix" / "checkpoint.pth.tar"
    assert_refused(run_here("export.py", checkpoint, "--to", "torch"), "--to torch: needs PyTorch 2.6", "2.5.1")


BAD = {
    "no checkpoint": ([], ["CHECKPOINT"]),
    "missing": (["nowhere.tar"], ["CHECKPOINT nowhere.tar: no such file"]),
    "format": (["{run}", "--to", "tflite"], ["--to", "tflite", "onnx"]),
    "ending": (["{run}", "--out", "model.pt2"], ["--out model.pt2: --to onnx writes files that end in .onnx"]),
    "the checkpoint's name": (["{run}", "--to", "torch", "--out", "{run}"], ["--out", "end in .pt2"]),
    "a folder": (["{run}", "--out", "{folder}"], ["--out", "not a file; take another name"]),
    "below a file": (["{run}", "--out", "{run}/model.onnx"], ["--out", "take another --out"]),
    "told twice": (["{run}", "--classes", "a,b"], ["--classes: ", "tells it itself; leave --classes out"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind, own_runs, empty):
    flags, words = BAD[kind]
    (empty / "folder.onnx").mkdir()
    places = {"run": own_runs / "results" / "fix" / "checkpoint.pth.tar", "folder": empty / "folder.onnx"}
    assert_refused(run_here("export.py", *(flag.format(**places) for flag in flags)), *words)


def test_the_checkpoint_is_not_replaced(own_runs, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt2"
    checkpoint.write_bytes((own_runs / "results" / "fix" / "checkpoint.pth.tar").read_bytes())
    flags = ["--to", "torch", "--out", tmp_path / ".." / tmp_path.name / "checkpoint.pt2"]
    assert_refused(run_here("export.py", checkpoint, *flags), "--out", "would replace the checkpoint")


def test_what_published_checkpoints_do_not_tell(empty):
    torch.save(published_state("train_cifar_fix"), empty / "checkpoint.pth.tar")
    assert_refused(run_here("export.py", empty / "checkpoint.pth.tar"), "--classes: ", "doesn't name its classes")


def test_a_failure_leaves_the_earlier_file(own_runs, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    (tmp_path / "model.pt2").write_text("earlier")
    monkeypatch.setattr("torch.export.save", fails)
    flags = ["--to", "torch", "--out", tmp_path / "model.pt2"]
    assert_refused(run_here("export.py", own_runs / "results" / "fix" / "checkpoint.pth.tar", *flags), "No space left")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model.pt2", "earlier")]

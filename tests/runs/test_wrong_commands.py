"""Wrong commands: each ends with exit code 2 and one line that names the flag or file, and writes nothing."""

import argparse
import ctypes
import os
import subprocess
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers.scripts import FOOD, ROOT, TINY, assert_refused, environment, run_here, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.checkpoint import LATEST
from utils import flag_types
from utils.args import Parser
from utils.errors import UserError

TRAIN = sorted(path.name for path in ROOT.glob("train_*_*.py"))
COSSL = [script for script in TRAIN if "cossl" in script]
OTHERS = ["predict.py", "export.py", "report.py", "eval_shifted_test_distribution.py", "prepare_small_imagenet_127.py"]
OTHERS += ["floor.py", "cache_features.py", "train_folder.py"]
WHOLE = ["0", "-1", "1.5", "x", "", "nan", "inf", "1e3", "9999999999999999999999"]
AMOUNT = ["-1", "x", "", "nan", "inf", "-inf", "1e400"]
SHARE = ["-0.1", "1.1", "x", "", "nan", "inf"]
PLACE = ["''", "cuda", "-1", "0,1", "1.0", "100000"]
# Values that a flag refuses, wherever it exists.
BAD = {
    **dict.fromkeys(
        (
            "--epochs",
            "--val-iteration",
            "--batch-size",
            "--num_max",
            "--copy_every",
            "--width",
            "--mu",
            "--warm_tfe",
            "--decay_epochs",
            "--num_generation",
            "--label_next",
            "--steps",
            "--steps_cossl",
            "--evaluations",
        ),
        WHOLE,
    ),
    **{key: ["0", *AMOUNT] for key in ("--lr", "--lr_tfe", "--lr_body", "--ratio", "--gamma", "--crest_alpha")},
    **dict.fromkeys(
        ("--wd_tfe", "--wd", "--lambda-u", "--w_rot", "--w_ent", "--strength", "--kappa", "--lam_h"), AMOUNT
    ),
    **dict.fromkeys(("--ema-decay", "--tau", "--max_lam", "--dalign_t", "--debias_from"), SHARE),
    **{key: ["0", "1e4", *AMOUNT] for key in ("--T", "--mix_alpha")},
    **{key: ["0", "1.5", "x", "", "nan"] for key in ("--imb_ratio_l", "--imb_ratio_u")},
    **{key: ["0", "1e300", *AMOUNT] for key in ("--time_limit", "--rank_timeout", "--minutes")},
    "--order": ["", "x", "0", "1,2", "0,1,1", "0,1,3", "0;1", "0,1,", "-1,0", "0, 1", "Reversed"],
    "--unlabelled": ["", "yes", "Included"],
    "--labeled_percent": ["0", *SHARE],
    "--holdout": ["0", "1", *SHARE],
    "--depth": ["0", "12", "-10", "x", ""],
    "--img_size": ["0", "33", "-32", "100000", "x", ""],
    "--manualSeed": ["-1", "4294967296", "1.5", "x", ""],
    "--workers": ["-1", "1000", "x", ""],
    **{key: ["-1", "x", ""] for key in ("--warmup_epochs", "--warm_prior")},
    "--start-epoch": ["-1", "x", ""],
    "--gpu": PLACE,
    "--dataset": ["cifar", "", "CIFAR10"],
    "--classifier": ["svm", ""],
    "--schedule": ["long", ""],
    "--preset": ["fixmatch", ""],
    "--keep": ["all", ""],
    "--labels_by": ["head", ""],
    "--compile": ["fast", ""],
    "--out": [""],
    "--data_root": [""],
    "--checkpoint": [""],
    "--source": [""],
    "--features": [""],
    "--arch": [""],
    "--weights": [""],
    "--tune": ["", "last", "last:0", "last:-1", "last:x", "head"],
    "--method": ["", "mix"],
    "--gallery": [""],
    "--to": ["", "tflite", "ONNX"],
    "--classes": ["", "a", "a,a", "a,,b", "."],
    "--labelled_counts": ["", "9", "9,x", "9,0", "9,", "."],
}


@cache
def parser_of(script: str) -> argparse.ArgumentParser:
    """A script's parser, as it is when it meets the command line."""

    class Found(Exception):
        pass

    def found(self, *_):
        raise Found(self)

    with patch.object(Parser, "parse_args", found), pytest.raises(Found) as caught:
        run_here(script)
    return caught.value.args[0]


@pytest.mark.parametrize("script", [*TRAIN, *OTHERS])
def test_every_flag_refuses_what_it_cannot_mean(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {name: action for action in parser_of(script)._actions for name in action.option_strings}
    required = [flag for name, action in options.items() if action.required for flag in (name, "there")]
    given = 0
    for name, action in options.items():
        if action.nargs == 0:  # a switch
            assert_refused(run_here(script, *required, f"{name}=1"), name) if name not in ("-h", "--help") else None
            continue
        canonical = {"--epoch": "--epochs", "--learning-rate": "--lr"}.get(name, name)
        if canonical == "--resume":
            continue
        for value in BAD[canonical]:
            assert_refused(run_here(script, *required, f"{name}={value}"), name)
            given += 1
        if action.nargs != "?":
            assert_refused(run_here(script, *required, name), name, "expected one argument")
    assert given > 0 or script == "report.py"
    assert_refused(run_here(script, *required, "--nonsense", "1"), "--nonsense" if script in TRAIN else "")
    assert not list(tmp_path.iterdir())


CHECKPOINT = "{first}/checkpoint.pth.tar"
SHORT = "--epoch 1 --val-iteration 1"
FIX, MIX, FIX_COSSL = "train_cifar_fix.py", "train_cifar_mix.py", "train_cifar_fix_cossl.py"
SHIFTED, PREPARE = "eval_shifted_test_distribution.py", "prepare_small_imagenet_127.py"
SMALL, FOOD_FIX = "train_small_imagenet127_fix.py", "train_food_fix.py"
# (script, flags, words of the line): combinations, files and folders that are wrong, stages in the wrong order.
WRONG = [
    (FIX, "--num_max 100000", "--num_max"),
    (FIX, "--ratio 100000", "--ratio"),
    (FIX, "--imb_ratio_l 1000", "--imb_ratio_l"),
    (FIX, "--order 0,1,2", "--order: names 3 classes, the data set has 10"),
    (FIX, "--order reversed --imb_ratio_u -20", "give --imb_ratio_u 20"),
    (FIX, "--dataset folder --data_root {tmp}/empty --order reversed", "--order"),
    (FIX, "--dataset stl10 --data_root {tmp}/file", "file"),
    (FIX, f"--resume {CHECKPOINT} --epoch 3 --val-iteration 6 --unlabelled disjoint", "--unlabelled (included there"),
    (FIX, "--batch-size 100000", "--batch-size"),
    (FIX, "--width 100000000", "out of memory"),
    (FIX, "extra", "extra"),
    (FIX, "--dataset folder --data_root {tmp}/nowhere", "nowhere"),
    (FIX, "--dataset folder --data_root {tmp}/file", "file"),
    (FIX, "--dataset folder --data_root {tmp}/empty", "empty"),
    (FIX, "--dataset fashion_mnist --data_root {tmp}/file", "file"),
    (FIX, "--resume {tmp}/nowhere", "--resume"),
    (FIX, "--resume {tmp}/empty", "--resume"),
    (FIX, "--resume {tmp}/file", "--resume"),
    (FIX, "--resume /dev/zero", "--resume"),
    (FIX, f"--resume {CHECKPOINT} --epoch 2", "--val-iteration (6 there, 1 now)"),
    (FIX, f"--resume {CHECKPOINT} --lr 0.5", "--lr"),
    (FIX, "--resume {cossl}/checkpoint.pth.tar", "CoSSL"),
    (FIX, "--out {tmp}/file", "--out"),
    (FIX, "--out {tmp}/file/below", "--out"),
    (FIX, "--out /proc/nowhere", "--out"),
    (FIX, f"--out {{tmp}}/{'long' * 100}", "long"),
    (FIX, "--out {first} --overwrite --resume {first}/checkpoint.pth.tar", "--overwrite"),
    (FIX, "--out {first} --lr 0.3", "--lr (0.002 there, 0.3 now)"),
    (FIX, "--out {cossl}", "--out"),
    (MIX, f"--resume {CHECKPOINT}", "--resume"),
    (MIX, "--out {first}", "--out"),
    (FIX_COSSL, "", "--resume"),
    (FIX_COSSL, "--resume {tmp}/nowhere", "--resume"),
    (FIX_COSSL, "--resume {first}", "--resume"),
    (FIX_COSSL, "--resume {cossl}/checkpoint.pth.tar", "a CoSSL checkpoint"),
    (FIX_COSSL, f"--resume {CHECKPOINT} --width 3", "--width"),
    (FIX_COSSL, f"--resume {CHECKPOINT} --dataset cifar10", "--dataset"),
    (FIX_COSSL, f"--resume {CHECKPOINT} --out {{first}}", "--out"),
    (FIX_COSSL, f"--resume {CHECKPOINT} --out {{first}} --overwrite", "--overwrite"),
    (SMALL, "--data_root {tmp}/nowhere", "prepare_small_imagenet_127.py"),
    (SMALL, "--data_root {tmp}/file", "file"),
    (SMALL, "--data_root {tmp}/empty --img_size 48", "--img_size"),
    (SMALL, "--data_root {tmp}/empty --dataset small_imagenet1k", "--classes 1000"),
    (SMALL, "--data_root {tmp}/empty --dataset cifar10", "--dataset"),
    (SMALL.replace(".py", "_cossl.py"), f"--data_root {{tmp}}/empty --resume {CHECKPOINT}", "--dataset (digits there"),
    (FOOD_FIX, "--data_root {tmp}/file", "file"),
    (FOOD_FIX, "--data_root {food} --num_max 12 --imb_ratio_l 3 --imb_ratio_u 3 --batch-size 4000", "--batch-size"),
    ("predict.py", "", "--checkpoint"),
    ("predict.py", f"--checkpoint {CHECKPOINT}", "images"),
    ("predict.py", f"--checkpoint {CHECKPOINT} {{tmp}}/nowhere.png", "nowhere.png"),
    ("predict.py", f"--checkpoint {CHECKPOINT} {{tmp}}/empty", "empty"),
    ("predict.py", f"--checkpoint {CHECKPOINT} {{tmp}}/file", "file"),
    ("predict.py", "--checkpoint {first} {tmp}/file", "--checkpoint"),
    ("predict.py", "--checkpoint {tmp}/file {tmp}/file", "--checkpoint"),
    ("predict.py", f"--checkpoint {CHECKPOINT} {{tmp}}/file --out {{tmp}}/file/below.csv", "--out"),
    ("predict.py", f"--checkpoint {CHECKPOINT} {{tmp}}/image.png --out {CHECKPOINT}", "would replace the checkpoint"),
    (
        "predict.py",
        f"--checkpoint {CHECKPOINT} {{tmp}}/image.png --out {{tmp}}/empty/../link.png",
        "an image or a CSV given",
    ),
    ("export.py", "", "CHECKPOINT"),
    ("export.py", "{first}", "CHECKPOINT"),
    ("export.py", "{tmp}/file", "CHECKPOINT"),
    ("export.py", f"{CHECKPOINT} --out {{tmp}}/file/below.onnx", "--out"),
    ("export.py", f"{CHECKPOINT} --out {CHECKPOINT}", "--out"),
    ("report.py", "", "RESULTS_DIR"),
    ("report.py", "{tmp}/nowhere", "nowhere"),
    ("report.py", "{tmp}/file", "file"),
    ("report.py", "{tmp}/empty", "no runs"),
    ("report.py", "{first} --out {tmp}/file", "--out"),
    (SHIFTED, "", "RUN"),
    (SHIFTED, "{tmp}/nowhere", "nowhere"),
    (SHIFTED, "{tmp}/file", "file"),
    (SHIFTED, "{tmp}/empty", LATEST),
    (SHIFTED, f"{{first}} {CHECKPOINT}", "named twice"),
    (SHIFTED, "{first} --out {tmp}/file", "--out"),
    (SHIFTED, "{first} --out {first}", "--out"),
    (SHIFTED, "{first} --dataset folder --data_root {tmp}/nowhere", "nowhere"),
    (SHIFTED, "{first} --dataset small_imagenet127 --data_root {tmp}/empty", "empty"),
    (PREPARE, "", "--source"),
    (PREPARE, "--source {tmp}/nowhere --out {tmp}/out", "nowhere"),
    (PREPARE, "--source {tmp}/file --out {tmp}/out", "file"),
    (PREPARE, "--source {tmp}/empty --out {tmp}/out", "empty"),
    (PREPARE, "--source {tmp}/file --out {tmp}/file", "file"),
]


@pytest.fixture(scope="module")
def cossl(pretrained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cossl") / "run"
    start = ["--resume", pretrained / LATEST, "--out", out]
    assert run_here(FIX_COSSL, *TINY, *SHORT.split(), *start).returncode == 0
    return out


def everything(*folders: Path) -> dict[Path, tuple[int, int]]:
    found = (path for folder in folders for path in (folder, *folder.rglob("*")))
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found if path.name != ".lock"}


@pytest.mark.parametrize(("script", "flags", "word"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_command(script, flags, word, pretrained, cossl, food101, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("neither an image nor a checkpoint")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "image.png")
    given = [part.format(tmp=tmp_path, first=pretrained, cossl=cossl, food=food101) for part in flags.split()]
    usual = {FOOD_FIX: FOOD}.get(script, [*TINY, *SHORT.split()]) if "train" in script and "small" not in script else []
    before = everything(tmp_path, pretrained, cossl)
    assert_refused(run_here(script, *usual, *given), word)
    assert everything(tmp_path, pretrained, cossl) == before


@pytest.mark.slow
def test_a_reader_of_the_output_that_has_ended(pretrained, tmp_path):
    """As in `... | true`: what is to be written is written, and the line doesn't speak of disks."""
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    out = tmp_path / "out.csv"
    reading, writing = os.pipe()
    os.close(reading)
    flags = ["--checkpoint", pretrained / LATEST, tmp_path / "image.png", "--gpu", "cpu", "--out", out]
    result = run_script("predict.py", *flags, stdout=writing)
    os.close(writing)
    assert_refused(result, "what read the output has ended", "send it to a file")
    assert out.exists()


@pytest.mark.slow
def test_a_reader_of_errors_that_has_ended(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    assert run_script("report.py", tmp_path / "none", stderr=writing).returncode == 2
    os.close(writing)


@pytest.mark.slow
def test_names_that_are_no_unicode_on_a_strict_output(pretrained, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    odd, env = tmp_path / "bad\udcff", environment(PYTHONIOENCODING="utf-8:strict")
    training = [FIX, *TINY, *SHORT.split(), "--out", odd]
    predicting = ["predict.py", "--checkpoint", pretrained / LATEST, tmp_path / "image.png", "--out", odd / "p.csv"]
    for parts in (training, [*predicting, "--gpu", "cpu"]):
        result = run_script(*parts, env=env)
        assert (result.returncode, result.stderr) == (0, "")
        assert "bad\\udcff" in result.stdout.splitlines()[-1]


LIBC = ctypes.CDLL(None)


def bound() -> None:
    """Before a program starts: permissions hold for it even as root (without CAP_DAC_OVERRIDE and _READ_SEARCH)."""
    for capability in (1, 2):
        LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; fails for other users, who have none


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--out {tmp}/closed", ["--out", "not a folder that can be written to"]),
        ("--out {tmp}/closed/below", ["--out", "not a folder that can be written to"]),
        ("--out {tmp}/out --dataset folder --data_root {tmp}/secret", ["secret"]),
        ("--out {tmp}/out --dataset fashion_mnist --data_root {tmp}/secret", ["--data_root", "secret"]),
    ],
)
def test_permissions(flags, words, tmp_path):
    """Folders that can be looked into, but not written to, and some that can't be looked into."""
    for folder, mode in (("closed", 0o555), ("secret", 0o000)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(mode)
    if subprocess.run(["test", "-w", tmp_path / "closed"], preexec_fn=bound).returncode == 0:
        pytest.skip("root can't give up its rights here")
    given = [part.format(tmp=tmp_path) for part in flags.split()]
    assert_refused(run_script(FIX, *TINY, *SHORT.split(), *given, preexec_fn=bound), *words)
    (tmp_path / "secret").chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "closed", tmp_path / "secret"]


NUMBERS = [
    value for name, value in vars(flag_types).items() if getattr(value, "__qualname__", "").startswith("number.")
] + [flag_types.gpu]
TEXT = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["1_000", "٣", "1e5", " 5 ", "+5", "0x10", "-0", "\n3", "1.0", "NaN", "Infinity", "--out"]),
)


@given(TEXT)
def test_a_number_is_within_its_bounds_or_refused(text):
    for parse in NUMBERS:
        try:
            value = parse(text)
        except argparse.ArgumentTypeError:
            continue
        assert abs(float(value)) < 2**32 if value != "cpu" else text == "cpu"


@settings(max_examples=150)
@given(data=st.data())
def test_no_command_line_breaks_a_parser(data):
    """It is understood, refused in a line, or asks for help."""
    parser = parser_of(data.draw(st.sampled_from(sorted([*TRAIN, *OTHERS]))))
    known = [name for action in parser._actions for name in action.option_strings if name not in ("-h", "--help")]
    words = data.draw(
        st.lists(st.one_of(st.sampled_from(known), TEXT, st.sampled_from(["digits", "3", "0.5"])), max_size=8)
    )
    try:
        parser.parse_args(words)
    except UserError as error:
        assert str(error)
    except SystemExit as end:
        assert end.code == 0

"""Full disks, and checkpoints that are damaged: one line, and the last whole checkpoint stays."""

import io
import random
import resource
import shutil
import subprocess
import zipfile

import pytest
import torch
from helpers.scripts import FIX, TINY, assert_refused, assert_runs, assert_same, load_checkpoint, run_here, run_script

from training.checkpoint import DAMAGED, NAME, load, read
from training.log import Board
from training.sound import TESTED
from utils.errors import UserError


def run_limited(limit: int, *flags: object) -> subprocess.CompletedProcess:
    """A run that can't write files of more than `limit` bytes, as with a full disk or an exhausted quota."""
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return run_script(FIX, *flags, preexec_fn=limited)


@pytest.mark.slow
def test_full_disk_keeps_the_last_checkpoint(pretrained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    size = (out / NAME).stat().st_size
    (out / NAME).unlink()
    (out / "checkpoint_1.pth.tar").rename(out / NAME)
    flags = [*TINY, "--val-iteration", 6, "--epoch", 2, "--out", out]
    assert_refused(run_limited(size // 2, *flags), f"--out {out}", NAME, "File too large", "the file before it is kept")
    assert load_checkpoint(out / NAME)["epoch"] == 1
    assert not list(out.glob(".*.tmp"))
    assert_runs(FIX, *flags)
    assert_same(*(load_checkpoint(folder / NAME) for folder in (pretrained, out)))


def test_full_disk_under_tensorboard_is_an_error_of_its_own(tmp_path, capfd):
    """There is no thread of TensorBoard's that would print a traceback."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(OSError, match="too large"):
            Board(tmp_path, 0).write({"train": {"loss": 1.0}}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def whole(pretrained) -> bytes:
    return (pretrained / NAME).read_bytes()


def test_truncated_at_any_byte(whole, tmp_path):
    path = tmp_path / NAME
    places = [*range(0, 40), *random.Random(0).sample(range(len(whole)), 100), *range(len(whole) - 40, len(whole))]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(DAMAGED):
            load(path)


def test_flipped_bytes_are_found_or_don_t_matter(whole, tmp_path):
    path, chance, found = tmp_path / NAME, random.Random(1), 0
    original = torch.load(io.BytesIO(whole), weights_only=True)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            assert_same(original, load(path))
        except DAMAGED:
            found += 1
    assert found > 75  # the others lie between the entries of the archive


def old(whole: bytes) -> bytes:
    """The same checkpoint as PyTorch before 1.6 would have saved it."""
    file = io.BytesIO()
    torch.save(torch.load(io.BytesIO(whole), weights_only=True), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def test_the_format_before_pytorch_1_6_is_read_if_it_is_whole(whole, tmp_path):
    path, content = tmp_path / NAME, old(whole)
    path.write_bytes(content)
    assert_same(torch.load(io.BytesIO(whole), weights_only=True), read(path, "--resume", ("state_dict",)))
    places = [*range(0, 40), *random.Random(2).sample(range(len(content)), 60), *range(len(content) - 40, len(content))]
    for place in places:
        path.write_bytes(content[:place])
        with pytest.raises(DAMAGED):
            load(path)


def folder_of(path, whole):
    path.mkdir()


def foreign(path, whole):
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)


DAMAGES = {
    "empty": (lambda path, whole: path.write_bytes(b""), "truncated"),
    "folder": (folder_of, "a folder"),
    "half": (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), "truncated"),
    "flipped": (lambda path, whole: path.write_bytes(flipped(whole)), "checksum of its"),
    "another program's": (foreign, "lacks epoch"),
    "old format, half": (lambda path, whole: path.write_bytes(old(whole)[: len(whole) // 2]), "truncated"),
    "twice": (lambda path, whole: path.write_bytes(whole + whole[1000:]), "not a readable"),
}


def flipped(whole: bytes) -> bytes:
    """A bit of the weights, in the middle of the largest entry, is another one."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    place = largest.header_offset + 200 + largest.file_size // 2
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_named_in_one_line(damage, whole, tmp_path):
    harm, words = DAMAGES[damage]
    harm(tmp_path / NAME, whole)
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6]
    assert_refused(
        run_here(FIX, *flags, "--resume", tmp_path / NAME, "--out", tmp_path / "out"), "--resume", NAME, words
    )
    assert not (tmp_path / "out").exists()
    if damage != "folder":
        assert_refused(run_here(FIX, *flags, "--out", tmp_path), f"--out {tmp_path / NAME}", words)


def test_an_older_copy_goes_on_in_place_of_a_damaged_checkpoint(pretrained, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    (out / NAME).write_bytes(flipped(whole))
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6, "--out", out]
    assert_refused(run_here(FIX, *flags), "checksum", f"rename an earlier checkpoint_N.pth.tar beside it to {NAME}")
    (out / "checkpoint_1.pth.tar").rename(out / NAME)
    assert_runs(FIX, *flags)
    assert_same(*(load_checkpoint(folder / NAME) for folder in (pretrained, out)))


COUNTS, TEST = torch.zeros(5, 10, dtype=torch.int64), dict.fromkeys(sorted(TESTED), 1.0) | {"recall": [1.0] * 10}


def row(**others) -> dict:
    return {"train": {"loss": 1.0}, "test": TEST} | others


@pytest.mark.parametrize(
    "entries",
    [
        {"epoch": -1},
        {"epoch": True},
        {"step": -1},
        {"totals": {"loss": 1.0}},
        {"totals": {"loss": torch.zeros(2)}},
        {"totals": {"pseudo": torch.zeros(())}},
        {"seconds": float("nan")},
        {"arguments": {"lr": [1]}},
        {"history": [{}]},
        {"history": [{"train": {}, "test": {"loss": 1.0, "recall": 3}}]},
        {"facts": {"classes": [1, 2]}},
        {"facts": {"img_size": 10**9}},
        {"facts": {"mean": ["a", "b", "c"]}},
        {"facts": {"labelled_counts": None}},
        {"facts": {"labelled_counts": [0] * 10}},
        {"facts": {"classes": ["\ud800"] * 10}},
        {"arguments": {1: 2}},
        {"arguments": {"resume": 5}},
        {"arguments": {"lr": 10**300}},
        {"versions": {"torch": torch.zeros(1)}},
        {"versions": [1]},
        {"history": [row(test={"loss": 1.0, "recall": [1.0] * 10})]},
        {"history": [row(train={"a\tb": 1.0})]},
        {"history": [row(test=TEST | {"gm": float("nan")})]},
        {"history": [row(train={"loss": 10**400})]},
        # sound by themselves, but not together with the others
        {"epoch": 1, "history": [row()] * 2},
        {"history": [row(test=TEST | {"recall": [1.0] * 9})]},
        {"history": [row(counts=COUNTS[:1, :1])]},
        {"history": [row(counts=COUNTS[:2])]},
        {"history": [row(confusion=COUNTS)]},
        {"facts": {"labelled_counts": [1, 2, 3]}},
        {"totals": {"loss": torch.tensor(0.0)}},
        {"step": 7, "totals": {"loss": torch.tensor(0.0)}},
        {"totals": {}, "step": 3},
        {"totals": {"pseudo": COUNTS[:, :3]}, "step": 3},
        {"totals": {"pseudo": COUNTS[:2]}, "step": 3},
    ],
    ids=lambda entries: str(entries)[:60],
)
def test_unsound_entries_are_named(entries, pretrained, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(load_checkpoint(pretrained / NAME) | entries, path)
    with pytest.raises(UserError, match=f"--resume .*{NAME}: damaged or of another program, see its ") as caught:
        read(path, "--resume", ())
    assert any(name in str(caught.value).split("see its ")[1] for name in entries)
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6, "--out", tmp_path]
    assert_refused(run_here(FIX, *flags), f"--out {path}: damaged")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("goes_on", [True, False])
def test_rows_of_older_versions_are_sound(goes_on, pretrained, tmp_path):
    """They lack the calibration error, the counts of the pseudo-labels, and the checkpoint the facts of its data."""
    state = load_checkpoint(pretrained / ("checkpoint_1.pth.tar" if goes_on else NAME))
    state["history"] = [
        {"train": row["train"], "test": {k: v for k, v in row["test"].items() if k != "ece"}}
        for row in state["history"]
    ]
    older = ("state_dict", "ema_state_dict", "optimizer", "epoch", "history", "seconds", "arguments")
    torch.save({key: state[key] for key in older}, tmp_path / NAME)
    assert (
        "mean balanced accuracy"
        in assert_runs(FIX, *TINY, "--epoch", 2, "--val-iteration", 6, "--out", tmp_path).stdout
    )


def test_moments_of_other_shapes_are_refused(pretrained, tmp_path):
    state = load_checkpoint(pretrained / "checkpoint_1.pth.tar")
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, tmp_path / "other.pth.tar")
    flags = [
        *TINY,
        "--epoch",
        2,
        "--val-iteration",
        6,
        "--resume",
        tmp_path / "other.pth.tar",
        "--out",
        tmp_path / "out",
    ]
    assert_refused(run_here(FIX, *flags), "other.pth.tar", "its optimizer doesn't fit")

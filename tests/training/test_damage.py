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

from training.checkpoint import LATEST, UNREADABLE, load_archive, read_checkpoint
from utils.errors import UserError


def run_limited(limit: int, *flags: object) -> subprocess.CompletedProcess:
    """A run that can't write files of more than `limit` bytes, as with a full disk or an exhausted quota."""
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return run_script(FIX, *flags, preexec_fn=limited)


@pytest.mark.slow
def test_full_disk_keeps_the_last_checkpoint(pretrained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    size = (out / LATEST).stat().st_size
    (out / LATEST).unlink()
    (out / "checkpoint_1.pth.tar").rename(out / LATEST)
    flags = [*TINY, "--val-iteration", 6, "--epoch", 2, "--out", out]
    assert_refused(
        run_limited(size // 2, *flags), f"--out {out}", LATEST, "File too large", "the file before it is kept"
    )
    assert load_checkpoint(out / LATEST)["epoch"] == 1
    assert not list(out.glob(".*.tmp"))
    assert_runs(FIX, *flags)
    assert_same(*(load_checkpoint(folder / LATEST) for folder in (pretrained, out)))


@pytest.fixture(scope="module")
def whole(pretrained) -> bytes:
    return (pretrained / LATEST).read_bytes()


def test_truncated_at_any_byte(whole, tmp_path):
    path = tmp_path / LATEST
    places = [*range(0, 40), *random.Random(0).sample(range(len(whole)), 100), *range(len(whole) - 40, len(whole))]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(UNREADABLE):
            load_archive(path)


def test_flipped_bytes_are_found_or_don_t_matter(whole, tmp_path):
    path, chance, found = tmp_path / LATEST, random.Random(1), 0
    original = torch.load(io.BytesIO(whole), weights_only=True)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            assert_same(original, load_archive(path))
        except UNREADABLE:
            found += 1
    assert found > 75  # the others lie between the entries of the archive


def old(whole: bytes) -> bytes:
    """The same checkpoint as PyTorch before 1.6 would have saved it."""
    file = io.BytesIO()
    torch.save(torch.load(io.BytesIO(whole), weights_only=True), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def test_the_format_before_pytorch_1_6_is_read_if_it_is_whole(whole, tmp_path):
    path, content = tmp_path / LATEST, old(whole)
    path.write_bytes(content)
    found = read_checkpoint(path, "--resume")
    assert found.pop("file") == str(path)
    assert_same(torch.load(io.BytesIO(whole), weights_only=True), found)
    places = [*range(0, 40), *random.Random(2).sample(range(len(content)), 60), *range(len(content) - 40, len(content))]
    for place in places:
        path.write_bytes(content[:place])
        with pytest.raises(UNREADABLE):
            load_archive(path)


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
    harm(tmp_path / LATEST, whole)
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6]
    assert_refused(
        run_here(FIX, *flags, "--resume", tmp_path / LATEST, "--out", tmp_path / "out"), "--resume", LATEST, words
    )
    assert not (tmp_path / "out").exists()
    if damage != "folder":
        assert_refused(run_here(FIX, *flags, "--out", tmp_path), f"--out {tmp_path / LATEST}", words)


def test_an_older_copy_goes_on_in_place_of_a_damaged_checkpoint(pretrained, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    (out / LATEST).write_bytes(flipped(whole))
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6, "--out", out]
    assert_refused(run_here(FIX, *flags), "checksum", f"rename an earlier checkpoint_N.pth.tar beside it to {LATEST}")
    (out / "checkpoint_1.pth.tar").rename(out / LATEST)
    assert_runs(FIX, *flags)
    assert_same(*(load_checkpoint(folder / LATEST) for folder in (pretrained, out)))


HISTORY = {"train": {}, "test": {}, "confusion": torch.zeros(1, 1)}
ENTRIES = [
    ({"epoch": True}, "epoch"),
    ({"epoch": 1.0}, "epoch"),
    ({"epoch": None}, "epoch"),
    ({"step": "1"}, "step"),
    ({"state_dict": None}, "state_dict"),
    ({"optimizer": [1]}, "optimizer"),
    ({"totals": {"loss": 1.0}}, "totals"),
    ({"seconds": "1"}, "seconds"),
    ({"arguments": None}, "arguments"),
    ({"arguments": {"lr": [1]}}, "arguments"),
    ({"history": []}, "history"),
    ({"history": {}}, "lacks train, test, confusion"),
    ({"history": HISTORY | {"test": {"loss": 1.0}}}, "test"),
    ({"history": HISTORY | {"train": None}}, "train"),
    ({"history": HISTORY | {"confusion": 1}}, "confusion"),
    ({"history": HISTORY | {"counts": [[1]]}}, "counts"),
    ({"facts": {}}, "lacks method, start_epoch, classes"),
    ({"facts.classes": [1, 2]}, "classes"),
    ({"facts.classes": ()}, "classes"),
    ({"facts.img_size": "32"}, "img_size"),
    ({"facts.mean": ["a", "b", "c"]}, "mean"),
    ({"facts.labelled_counts": None}, "labelled_counts"),
    ({"facts.start_epoch": None}, "start_epoch"),
    ({"versions": {"torch": torch.zeros(1)}}, "versions"),
    ({"versions": [1]}, "versions"),
]


@pytest.mark.parametrize(("entries", "word"), ENTRIES, ids=[str(entries)[:60] for entries, _ in ENTRIES])
def test_entries_of_other_types_are_named(entries, word, pretrained, tmp_path):
    path, state = tmp_path / LATEST, load_checkpoint(pretrained / LATEST)
    for name, value in entries.items():
        *outer, key = name.split(".")
        (state[outer[0]] if outer else state)[key] = value
    torch.save(state, path)
    problem = f"--resume .*{LATEST}: not a checkpoint of this kind of run, or damaged: "
    with pytest.raises(UserError, match=problem) as caught:
        read_checkpoint(path, "--resume")
    assert word in str(caught.value).split("damaged: ")[1]
    flags = [*TINY, "--epoch", 2, "--val-iteration", 6, "--out", tmp_path]
    assert_refused(run_here(FIX, *flags), f"--out {path}: not a checkpoint", word)
    assert {file.name for file in tmp_path.iterdir()} == {LATEST, ".lock"}


@pytest.mark.parametrize("key", ["epoch", "state_dict", "history", "facts", "versions", "totals"])
def test_missing_entries_are_named(key, pretrained, tmp_path):
    state = load_checkpoint(pretrained / LATEST)
    del state[key]
    torch.save(state, tmp_path / "x.pth.tar")
    with pytest.raises(UserError, match=f"x.pth.tar: .*it lacks {key}$"):
        read_checkpoint(tmp_path / "x.pth.tar", "--resume")

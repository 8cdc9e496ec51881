"""Files that are whole at any moment, and what fits into them."""

import json
import math
import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import atomic_write_text, check_writable, read_json, to_json
from utils.text import printable


def test_atomic_write_leaves_nothing_beside_the_file(tmp_path: Path):
    path = tmp_path / "summary.json"
    atomic_write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        atomic_write_text(path, "\ud800")
    assert path.read_text() == "old\n"
    atomic_write_text(path, "new é\n")
    assert path.read_text(encoding="utf-8") == "new é\n"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_its_name_and_then_the_name(tmp_path: Path, monkeypatch):
    """Only then does a file survive a power cut: content to the disk, rename, folder to the disk."""
    done, fsync, replace = [], os.fsync, Path.replace
    name = lambda handle: Path(f"/proc/self/fd/{handle}").readlink().name
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(("to disk", name(handle))), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (done.append(("renamed", new.name)), replace(old, new)))
    atomic_write_text(tmp_path / "x", "text")
    assert done == [("to disk", ".x.tmp"), ("renamed", "x"), ("to disk", tmp_path.name)]


def test_json_has_null_for_what_is_no_number(tmp_path: Path):
    value = {"b": [math.nan, (1.5, -math.inf)], "a": True}
    (tmp_path / "x").write_text(to_json(value))
    assert read_json(tmp_path / "x") == {"b": [None, [1.5, None]], "a": True}
    assert list(json.loads(to_json(value))) == ["b", "a"]


BROKEN = {"empty": b"", "cut": b"{", "not a number": b'{"a": NaN}', "not text": b'"\xff"', "deep": b"[" * 10**5}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_unreadable_json_is_one_kind_of_error(content, tmp_path: Path):
    (tmp_path / "x").write_bytes(content)
    for path in (tmp_path / "x", tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=r"^is not readable JSON$"):
            read_json(path)


def test_printable():
    assert printable(Path("é 1/\udc80\n\x1b[2J")) == "é 1/\\udc80\\n\\x1b[2J"


def test_what_can_be_written_to_is_found_without_making_anything(tmp_path: Path):
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(UserError, match=f"--out {out}: {tmp_path}/file is not a folder"):
            check_writable(out)

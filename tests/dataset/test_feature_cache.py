"""Features in a file: order of the rows, kill and resume, keys, and files that are refused."""

import json
import re
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.own_images import image_folder, write_image

import dataset.feature_cache
from dataset.feature_cache import _write_rows, files_key, weights_key, write_features
from dataset.image_files import read_image
from dataset.layouts import list_images
from dataset.vectors import read_vectors
from models.wrn import WideResNet
from utils.errors import UserError

KEY = {"architecture": "means", "weights": "0", "img_size": 16, "resize": None}


def means(pixels):
    """Of each channel, and the first pixel: features (B, 4) that differ between images."""
    assert pixels.dtype == torch.uint8 and pixels.shape[1:] == (3, 16, 16)
    return torch.cat([pixels.float().mean(dim=(2, 3)), pixels[:, 0, 0, :1].float()], dim=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset.feature_cache, "PART", 4)  # of 25 images
    return image_folder(tmp_path / "data")


def paths_of(root):
    return [path for part in list_images(root, False)[1:] for path in part.paths]


def expected(paths):
    one_by_one = [means(torch.from_numpy(read_image(path, 16).copy())[None])[0] for path in paths]
    return torch.stack(one_by_one).numpy().astype(np.float16)


def test_rows_are_in_the_order_labelled_unlabelled_test(folder):
    out, paths = folder.parent / "f.npy", paths_of(folder)
    assert write_features(out, paths, means, KEY | {"files": files_key(folder, paths)}, False) == 0
    parts = ["labelled"] * 10 + ["unlabelled"] * 9 + ["test"] * 6
    assert [path.relative_to(folder).parts[0] for path in paths] == parts
    rows = read_vectors(out, 25, files_key(folder, paths))
    assert rows.dtype == np.float16 and isinstance(rows, np.memmap)
    np.testing.assert_array_equal(rows, expected(paths))
    assert json.loads(out.with_suffix(".json").read_text())["rows"] == 25


@pytest.mark.parametrize("calls", range(1, 8))
def test_a_call_that_was_cut_off_goes_on_with_the_same_bits(folder, calls, capsys):
    out, paths, left = folder.parent / "f.npy", paths_of(folder), calls
    write_features(folder.parent / "whole.npy", paths, means, KEY | {"files": ""}, False)

    def cut_off(pixels):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return means(pixels)

    with pytest.raises(KeyboardInterrupt):
        write_features(out, paths, cut_off, KEY | {"files": ""}, False)
    if calls > 1:
        with pytest.raises(UserError, match=f"has {4 * (calls - 1)} of 25 rows so far; give the command"):
            read_vectors(out, 25)
    assert write_features(out, paths, means, KEY | {"files": ""}, False) == 4 * (calls - 1)
    assert out.read_bytes() == (folder.parent / "whole.npy").read_bytes()
    assert write_features(out, paths, partial(pytest.fail, "nothing is left"), KEY | {"files": ""}, False) == 25


@pytest.mark.parametrize("name", [*KEY, "files", "images"])
def test_another_key_is_refused_and_overwritten_if_asked_for(folder, name):
    out, beside, paths = folder.parent / "f.npy", folder.parent / "f.json", paths_of(folder)
    key = KEY | {"files": ""}
    write_features(out, paths, means, key, False)
    whole, written = out.read_bytes(), beside.read_text()
    beside.write_text(json.dumps(json.loads(written) | {name: 7}))
    with pytest.raises(UserError, match=f"f.npy: of another key .{name} differ.*--overwrite"):
        write_features(out, paths, means, key, False)
    assert out.read_bytes() == whole
    assert write_features(out, paths, means, key, True) == 0
    assert (out.read_bytes(), beside.read_text()) == (whole, written)


def test_another_programs_vectors_are_kept_unless_they_are_to_be_overwritten(folder):
    out = folder.parent / "f.npy"
    np.save(out, np.ones((25, 2), np.float32))
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"not written by cache_features\.py; take another file, or --overwrite"):
        write_features(out, paths_of(folder), means, KEY, False)
    assert out.read_bytes() == before
    assert write_features(out, paths_of(folder), means, KEY, True) == 0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [b"{}", b"[1]", b'{"rows": 1', b'{"rows": 1}'])
def test_another_programs_settings_are_kept(content, overwrite, folder):
    out, beside = folder.parent / "f.npy", folder.parent / "f.json"
    np.save(out, np.ones((25, 2), np.float32))
    before = out.read_bytes()
    beside.write_bytes(content)
    with pytest.raises(UserError, match=r"f\.npy: f\.json beside it was not written by.*take another name"):
        write_features(out, paths_of(folder), means, KEY, overwrite)
    assert (out.read_bytes(), beside.read_bytes()) == (before, content)
    out.unlink()
    with pytest.raises(UserError, match=r"f\.json beside it"):
        write_features(out, paths_of(folder), means, KEY, overwrite)
    assert beside.read_bytes() == content and not out.exists()


def test_a_folder_is_no_file_to_overwrite(folder):
    with pytest.raises(UserError, match=r"not a file; take another name"):
        write_features(folder, paths_of(folder), means, KEY, True)


def test_a_full_disk_is_told_and_nothing_counts_as_done(folder, monkeypatch):
    out, paths, full = folder.parent / "f.npy", paths_of(folder), OSError(28, "No space left on device")
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"--out .*f\.npy: .*No space left.*same command"),
    ):
        patch.setattr("os.fsync", Mock(side_effect=full))
        _write_rows(out, np.ones((4, 3), np.float16), 0, 25)
    key = KEY | {"files": ""}
    write_features(folder.parent / "whole.npy", paths, means, key, False)
    assert write_features(out, paths, means, key, True) == 0
    assert out.read_bytes() == (folder.parent / "whole.npy").read_bytes()


def test_vectors_of_another_kind_in_its_place_are_written_anew(folder):
    out, paths, key = folder.parent / "f.npy", paths_of(folder), KEY | {"files": ""}
    write_features(out, paths, means, key, False)
    whole = out.read_bytes()
    np.save(out, np.ones((25, 3), np.float32))
    assert write_features(out, paths, means, key, False) == 0
    assert out.read_bytes() == whole


def test_damaged_images_have_rows_of_nan_if_asked_for(folder, capsys):
    out, paths, key = folder.parent / "f.npy", paths_of(folder), KEY | {"files": ""}
    write_features(out, paths, means, key, False)
    whole = np.load(out)
    for i in (5, 6, 24):
        paths[i].write_bytes(b"no image")
    write_features(out, paths, means, key, True, skip_corrupt=True)
    assert capsys.readouterr().err.count("skipped") == 3
    rows, fine = read_vectors(out, 25, "", skip_corrupt=True), np.delete(range(25), (5, 6, 24))
    assert np.isnan(rows).all(axis=1).nonzero()[0].tolist() == [5, 6, 24]
    np.testing.assert_array_equal(rows[fine], whole[fine])
    with pytest.raises(UserError, match=r"row 5 .*--skip_corrupt"):
        read_vectors(out, 25)
    rows = np.array(rows)
    rows[13, 1] = np.nan
    np.save(out, rows)
    with pytest.raises(UserError, match="row 13 "):  # in which not all is NaN
        read_vectors(out, 25, "", skip_corrupt=True)


def test_a_file_that_was_damaged_meanwhile_is_written_anew(folder):
    out, paths = folder.parent / "f.npy", paths_of(folder)
    write_features(out, paths, means, KEY, False)
    whole = out.read_bytes()
    out.write_bytes(whole[:-9])
    assert write_features(out, paths, means, KEY, False) == 0
    assert out.read_bytes() == whole


def test_damaged_images_and_features_that_are_no_numbers(folder):
    out, paths = folder.parent / "f.npy", paths_of(folder)
    with pytest.raises(UserError, match="rows 0 to 3 aren't numbers in float16"):
        write_features(out, paths, lambda pixels: means(pixels) * 1e6, KEY, False)
    paths[5].write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{re.escape(str(paths[5]))}: not a readable image .*give --skip_corrupt"):
        write_features(out, paths, means, KEY, False)
    write_image(paths[5], 3)
    assert write_features(out, paths, means, KEY, False) == 4


def test_the_key_of_images_elsewhere_is_the_same_when_the_list_of_them_moves(folder):
    paths = paths_of(folder)
    for name in ("here", "there"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "list.csv").touch()
    here, there = (folder.parent / name / "list.csv" for name in ("here", "there"))
    assert files_key(here, paths) == files_key(there, paths)
    above = [here.parent / ".." / path.relative_to(folder.parent) for path in paths]  # as relative ones are joined
    assert files_key(here, above) != files_key(here, paths)


def test_the_keys(folder):
    paths = paths_of(folder)
    key = files_key(folder, paths)
    assert key == files_key(folder, paths) != files_key(folder, paths[::-1])
    moved = folder.rename(folder.parent / "moved")
    assert files_key(moved, paths_of(moved)) == key
    paths_of(moved)[0].write_bytes(b"longer" * 999)
    assert files_key(moved, paths_of(moved)) != key
    network = WideResNet(3, 10, 1)
    before = weights_key(network)
    assert before == weights_key(network)
    network.unit4[0].running_mean[0] += 1
    assert weights_key(network) != before


def archive(file):
    np.savez(file.with_suffix(""), np.ones((25, 2)))
    file.with_suffix(".npz").rename(file)


WRONG = {
    "no such file": lambda file: None,
    "not a file": lambda file: file.mkdir(),
    "pickled": lambda file: np.save(file, np.array([{}] * 25), allow_pickle=True),
    "text": lambda file: file.write_text("1 2 3\n"),
    "empty": lambda file: file.touch(),
    "cut off": lambda file: (np.save(file, np.ones((25, 2))), file.write_bytes(file.read_bytes()[:-5])),
    "archive": archive,
    "one dimension": lambda file: np.save(file, np.ones(25)),
    "three dimensions": lambda file: np.save(file, np.ones((25, 2, 2))),
    "no column": lambda file: np.save(file, np.ones((25, 0))),
    "whole numbers": lambda file: np.save(file, np.ones((25, 2), int)),
    "24 rows": lambda file: np.save(file, np.ones((24, 2))),
    "NaN": lambda file: np.save(file, np.where(np.arange(50) == 33, np.nan, 1.0).reshape(25, 2)),
    "too large": lambda file: np.save(file, np.full((25, 2), 1e300)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", WRONG)
def test_vectors_that_are_refused(kind, tmp_path):
    WRONG[kind](tmp_path / "f.npy")
    with pytest.raises(UserError, match=r"--features .*f\.npy: .*; (give|mend)"):
        read_vectors(tmp_path / "f.npy", 25)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_vectors_of_any_origin(kind, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(25, 3)).astype(kind)
    np.save(tmp_path / "f.npy", np.asfortranarray(vectors))
    (tmp_path / "f.json").write_text('{"by": "another program"}')
    np.testing.assert_array_equal(read_vectors(tmp_path / "f.npy", 25, "any"), vectors)


def test_vectors_of_other_images(folder):
    out, paths = folder.parent / "f.npy", paths_of(folder)
    write_features(out, paths, means, KEY | {"files": files_key(folder, paths)}, False)
    write_image(paths[3], 99, (40, 40))
    with pytest.raises(UserError, match="of other images than --data_root holds now"):
        read_vectors(out, 25, files_key(folder, paths))

"""A CSV that lists a user's images."""

import csv
from os.path import normpath
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.files import is_file

NEEDED, OPTIONAL = ("path", "label"), ("split",)
SPLITS = ("", "train", "test")


class ListedImage(NamedTuple):
    """A line of the CSV. label: of its class, "" for an unlabelled image; test: whether it is in the test set."""

    path: Path
    label: str
    test: bool


def listed_images(file: Path, skip_corrupt: bool) -> list[ListedImage]:
    """The images that a CSV lists, in its order. Its first line names the columns: path (absolute, or relative to the
    CSV's folder), label (empty: unlabelled) and, where it is wanted, split (train or test; empty: train).

    Raises UserError, with the number of the line, for other columns, for what isn't CSV in UTF-8, for images that are
    listed twice or (without skip_corrupt) not there, and for test images without a label.
    """
    found, lines = [], dict[str, int]()
    for line, cells in _rows(file):
        image = ListedImage(file.parent / cells["path"], cells["label"], cells.get("split") == "test")
        first = lines.setdefault(normpath(image.path.absolute()), line)
        if wrong := _fault(image, cells, f"is on line {first}, too" if first != line else "", skip_corrupt):
            raise UserError(f"{file}, line {line}: {wrong}")
        found.append(image)
    return found


def _fault(image: ListedImage, cells: dict[str, str], twice: str, skip_corrupt: bool) -> str:
    """What is wrong with a line, in words; empty if nothing."""
    if not cells["path"]:
        return "has no path; give it one, or remove the line"
    if twice:
        return f"{cells['path']} {twice}; leave one out"
    if cells.get("split", "") not in SPLITS:
        return f"split is {cells['split']!r}, and can be train, test or empty"
    if image.test and not image.label:
        return f"{cells['path']} is a test image, and has no label; give it one, or leave it out"
    if not skip_corrupt and not is_file(image.path):
        return f"{image.path}: no such file; correct the path, or give --skip_corrupt"
    return ""


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines below the first one that aren't empty, each with its number and its cells by their columns."""
    rows = []
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            reader = csv.reader(text, strict=True)
            names = [_text(name).strip() for name in next(reader, [])]
            if sorted(names) not in (sorted(NEEDED), sorted(NEEDED + OPTIONAL)):
                raise UserError(
                    f"{file}: its first line is {','.join(names)!r}, and must be path,label or "
                    "path,label,split, with commas"
                )
            for cells in filter(any, reader):
                if len(cells) != len(names):
                    problem = f"has {len(cells)} cells, and needs {len(names)}; put what holds a comma into quotes"
                    raise UserError(f"{file}, line {reader.line_num}: {problem}")
                pairs = zip(names, cells, strict=True)
                row = {
                    name: _text(cell, file.parent) if name == "path" else _text(cell).strip() for name, cell in pairs
                }
                rows.append((reader.line_num, row))
    except UnicodeEncodeError:
        raise UserError(f"{file}: not text in UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: not CSV ({error}); correct that line") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); make it readable") from None
    return rows


def _text(cell: str, folder: Path | None = None) -> str:
    """The cell itself. Raises UnicodeEncodeError for bytes that are no UTF-8, unless they name a file of the folder."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        if folder is None or not is_file(folder / cell):
            raise
    return cell

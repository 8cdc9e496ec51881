"""What rows of the report's tables are called: by their method, and by what else tells them apart."""

from collections.abc import Sequence
from typing import Any, Protocol

from reporting.protocol import said
from utils.args import DATA
from utils.flags import with_role


class Named(Protocol):
    """What is read of a group here, see `reporting.groups.Group`."""

    dataset: str
    setting: str
    method: str
    protocol: dict[str, Any]
    finished: bool

    @property
    def seeds(self) -> list[int]: ...

    @property
    def labelled_only(self) -> bool: ...


def row_names(rows: Sequence[Named]) -> list[str]:
    """The method of each row, with those arguments, not of the data, in which its rows on a data set differ; and those
    of the data in which rows of one setting differ, whatever their method.
    """
    return [_name(row, [other for other in rows if other.dataset == row.dataset]) for row in rows]


def _name(row: Named, here: list[Named]) -> str:
    """here: the rows of its data set."""
    others = [other for other in here if other.method == row.method]
    keys = sorted({key for other in others for key in other.protocol} - set(with_role(DATA)))
    different = [key for key in keys if len({str(other.protocol.get(key)) for other in others}) > 1]
    words = [said(key, row.protocol.get(key, "off")) for key in different]
    if not row.labelled_only:
        words += [said(key, row.protocol[key]) for key in _of_data(here) if key in row.protocol]
    if not row.finished:
        words += ["unfinished", *(f"seed {seed}" for seed in row.seeds)]
    return f"{row.method} ({', '.join(words)})" if words else row.method


def _of_data(here: list[Named]) -> list[str]:
    """The arguments of the data in which rows of one setting differ. What a row doesn't tell is taken to agree, and
    what learns from labelled images alone has no unlabelled set.
    """
    different = set()
    for setting in {row.setting for row in here}:
        told = [row.protocol for row in here if row.setting == setting and not row.labelled_only]
        for key in with_role(DATA):
            different |= {key} if len({one[key] for one in told if key in one}) > 1 else set()
    return sorted(different)

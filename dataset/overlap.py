"""Files that stand in two parts of a user's images: a labelled one among the unlabelled is harmless, among the test
images it makes these easier.

Shape legend: N images.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dataset.layouts import Listing


def overlaps(listing: Listing) -> dict[str, int]:
    """Of the unlabelled and of the test images, how many have the bytes of a labelled one; by the part's name."""
    labelled = _by_size(listing.labelled.paths)
    digests: dict[int, set[bytes]] = {}
    found = {}
    for part in ("unlabelled", "test"):
        same = {size: paths for size, paths in _by_size(getattr(listing, part).paths).items() if size in labelled}
        for size in same.keys() - digests.keys():
            digests[size] = set(map(_digest, labelled[size]))
        found[part] = sum(_digest(path) in digests[size] for size, paths in same.items() for path in paths)
    return found


def _by_size(paths: Iterable[Path]) -> dict[int, list[Path]]:
    """Only files of one size can be the same."""
    found: dict[int, list[Path]] = {}
    for path in paths:
        if path.is_file():
            found.setdefault(path.stat().st_size, []).append(path)
    return found


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()

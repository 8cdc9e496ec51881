"""Files that stand in two parts of a user's images: a labelled one among the unlabelled is harmless, among the test
images, or the held-out ones, it makes these easier.

Shape legend: N images.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from dataset.layouts import Listing
from utils.files import is_file, sha256_of


def overlaps(listing: Listing, among_labelled: bool = True) -> dict[str, int]:
    """How many images have the same bytes as another: `unlabelled` and `test`: images of that part that are labelled
    ones, too; `both`: test images that are unlabelled ones, too; `labelled`: labelled images that are copies of each
    other, 0 unless `among_labelled`, which reads all labelled files of equal size.
    """
    labelled, unlabelled, test = (_by_size(part.paths) for part in listing[1:])
    pairs = {"unlabelled": (unlabelled, labelled), "test": (test, labelled), "both": (test, unlabelled)}
    digest = cache(_digest)  # for this call: each part is in two pairs
    alike = [paths for paths in labelled.values() if among_labelled and len(paths) > 1]
    same = Counter(digest(path) for paths in alike for path in paths)
    found = {name: _shared(*pair, digest) for name, pair in pairs.items()}
    return found | {"labelled": sum(n for n in same.values() if n > 1)}


def _digest(path: Path) -> str:
    """SHA-256 of a file; its path where it can't be read, so that it is like no other."""
    try:
        return sha256_of(path)
    except OSError:
        return str(path)


def _shared(some: dict[int, list[Path]], others: dict[int, list[Path]], digest: Callable[[Path], str]) -> int:
    found = 0
    for size in some.keys() & others.keys():
        digests = set(map(digest, others[size]))
        found += sum(digest(path) in digests for path in some[size])
    return found


def _by_size(paths: Iterable[Path]) -> dict[int, list[Path]]:
    """Only files of one size can be the same; empty ones are no images."""
    found: dict[int, list[Path]] = {}
    for path in filter(is_file, paths):
        if size := path.stat().st_size:
            found.setdefault(size, []).append(path)
    return found

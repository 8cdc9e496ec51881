"""Class counts and splits: the published numbers, a slow reference, properties, and flags that can't be served."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import imbalance

from dataset.class_table import describe
from dataset.images import Dataset, Images
from dataset.long_tail import class_counts, long_tailed, split
from dataset.orders import in_order
from utils.errors import UserError

GOLDEN = Path(__file__).parent.parent / "golden"
PROFILES = json.loads((GOLDEN / "imbalance_profiles.json").read_text())
SPLITS = json.loads((GOLDEN / "splits.json").read_text())


@pytest.fixture(scope="module")
def toy() -> Dataset:
    """Three classes of 40, 50, 60 images in mixed order; an image's first pixel is its index."""
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(3), (40, 50, 60)))
    pixels = np.arange(150, dtype=np.uint8)[:, None, None, None].repeat(3, axis=1)
    train = Images(pixels, labels)
    return Dataset(train, train, (0.5,) * 3, (0.5,) * 3, ("ant", "bee", "cat"))


def slow_split(labels, n_l, n_u, seed, include_labelled):
    """One image at a time, through NumPy's global generator as the published code does."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    labelled, unlabelled = [], []
    for c in range(len(n_l)):
        members = [i for i, label in enumerate(labels) if label == c]
        if seed != 0:
            np.random.shuffle(members)  # noqa: NPY002
        for rank, index in enumerate(members):
            if rank < n_l[c]:
                labelled.append(index)
            if (include_labelled or rank >= n_l[c]) and rank < n_l[c] + n_u[c]:
                unlabelled.append(index)
    np.random.set_state(state)  # noqa: NPY002
    return labelled, unlabelled


def check_golden(indices, expected):
    assert len(indices) == expected["n"]
    assert indices[:5].tolist() == expected["head"]
    assert indices[-5:].tolist() == expected["tail"]
    assert hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest() == expected["sha256_int64_le"]


@pytest.mark.parametrize("case", PROFILES, ids=lambda case: "{max_num}-{class_num}-{gamma}".format(**case))
def test_class_counts_match_the_published_profiles(case):
    counts = class_counts(case["max_num"], case["class_num"], case["gamma"])
    assert counts.dtype == np.int64
    assert counts.tolist() == case["counts"]


@pytest.mark.parametrize("gamma", [1, 2, 7, 50, 512])
def test_class_counts_fall_from_num_max_and_reverse(gamma):
    counts = class_counts(731.5, 13, gamma)
    assert (counts[0], counts[-1]) == (731, int(731.5 / gamma))
    assert (np.diff(counts) <= 0).all()
    assert class_counts(731.5, 13, -gamma).tolist() == counts[::-1].tolist()


@pytest.mark.parametrize("case", SPLITS, ids=lambda case: f"{case['protocol'][:20]}-seed{case['seed']}")
def test_split_matches_the_published_indices(case):
    protocol, seed = case["protocol"], case["seed"]
    if "cifar10" in protocol:
        labels = np.random.RandomState(5).permutation(np.repeat(np.arange(10), 5000))
        n_l = class_counts(1500, 10, 100)
        n_u = class_counts(3000.0, 10, -100 if "gamma_u=-100" in protocol else 100)
    else:
        labels = np.random.RandomState(6).permutation(np.repeat(np.arange(101), 750))
        n_l, n_u = class_counts(250, 101, 50), class_counts(500.0, 101, 50)
    if "small_imagenet" in protocol:
        n_l, n_u = np.rint(0.1 * np.bincount(labels)).astype(int), np.zeros(101, dtype=int)

    labelled, unlabelled = split(labels, n_l, n_u, seed, protocol.startswith("fixmatch"))
    check_golden(labelled, case["labeled"])
    if protocol.startswith("food"):  # published: the whole labelled list, then the others; ours: class by class
        unlabelled = np.concatenate([labelled, unlabelled])
        assert set(split(labels, n_l, n_u, seed, True)[1]) == set(unlabelled)
    if case["unlabeled"]:
        check_golden(unlabelled, case["unlabeled"])


@pytest.mark.parametrize("include_labelled", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_equals_the_slow_loop(toy, seed, include_labelled):
    arguments = toy.train.labels, np.array([20, 5, 1]), np.array([3, 45, 0]), seed, include_labelled
    labelled, unlabelled = split(*arguments)
    assert labelled.dtype == unlabelled.dtype == np.int64
    assert (labelled.tolist(), unlabelled.tolist()) == slow_split(*arguments)


def test_split_leaves_the_global_generator_alone(toy):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    split(toy.train.labels, np.array([5, 5, 5]), np.array([5, 5, 5]), 3, False)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("seed", [0, 1])
def test_long_tailed_sets_are_disjoint_or_nested(toy, seed):
    for include_labelled in (False, True):
        data = long_tailed(toy, imbalance(20, 1.45, 4, -3, seed), include_labelled)
        assert data.counts.tolist() == [20, 10, 5]
        # 1.45 x 20 = 29 is the largest unlabelled class, here the last one.
        n_u = np.array([9, 16, 29])
        assert data.unlabelled_counts.tolist() == (n_u + data.counts if include_labelled else n_u).tolist()
        for part, counts in ((data.labelled, data.counts), (data.unlabelled, data.unlabelled_counts)):
            assert len(set(part)) == len(part)
            assert np.bincount(toy.train.labels[part]).tolist() == counts.tolist()
        common = set(data.labelled) & set(data.unlabelled)
        assert len(common) == (len(data.labelled) if include_labelled else 0)


def of_labels(labels: np.ndarray, classes: int) -> Dataset:
    """A data set of which only the labels are looked at."""
    images = Images(np.zeros((len(labels), 1), dtype=np.uint8), labels)
    return Dataset(images, images, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(classes))))


CIFAR10 = dict(num_max=1500, ratio=2.0, imb_ratio_l=100)
LABELLED = [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
FALLING = [3000, 1798, 1078, 646, 387, 232, 139, 83, 50, 30]
# (flags of the unlabelled set, its counts without the labelled images), at CIFAR-10's published size.
SETTINGS = [
    (dict(imb_ratio_u=100), FALLING),
    (dict(imb_ratio_u=100, order="consistent"), FALLING),
    (dict(imb_ratio_u=-100), FALLING[::-1]),
    (dict(imb_ratio_u=100, order="reversed"), FALLING[::-1]),
    (dict(imb_ratio_u=1), [3000] * 10),
    (dict(imb_ratio_u=1, order="reversed"), [3000] * 10),
    (dict(imb_ratio_u=100, order="4,5,3,6,2,7,1,8,0,9"), [50, 139, 387, 1078, 3000, 1798, 646, 232, 83, 30]),
    (dict(imb_ratio_u=100, order="0,9,1,8,2,7,3,6,4,5"), [3000, 1078, 387, 139, 50, 30, 83, 232, 646, 1798]),
]


@pytest.mark.parametrize(("flags", "expected"), SETTINGS, ids=str)
@pytest.mark.parametrize("include_labelled", [False, True])
def test_the_unlabelled_set_has_the_counts_of_its_setting(flags, expected, include_labelled):
    data = of_labels(np.random.RandomState(5).permutation(np.repeat(np.arange(10), 5000)), 10)
    found = long_tailed(data, imbalance(**CIFAR10 | flags), include_labelled)
    assert found.counts.tolist() == LABELLED
    expected = np.add(expected, LABELLED) if include_labelled else np.array(expected)
    assert found.unlabelled_counts.tolist() == expected.tolist()
    for part, counts in ((found.labelled, LABELLED), (found.unlabelled, expected.tolist())):
        assert np.bincount(data.train.labels[part]).tolist() == counts
        assert len(set(part.tolist())) == len(part)
    assert len(set(found.labelled.tolist()) & set(found.unlabelled.tolist())) == include_labelled * sum(LABELLED)


def test_reversed_is_another_task_where_the_labelled_images_are_included():
    """The largest class has 100 times the smallest, or 7."""
    data = of_labels(np.repeat(np.arange(10), 5000), 10)
    flags = imbalance(**CIFAR10, imb_ratio_u=-100)
    disjoint, included = (long_tailed(data, flags, kind).unlabelled_counts for kind in (False, True))
    assert (disjoint[0], disjoint[-1]) == (30, 3000)
    assert (included[0], included[-1]) == (1530, 3015)
    assert [round(counts.max() / counts.min(), 1) for counts in (disjoint, included)] == [100, 7.1]


@pytest.mark.parametrize("seed", range(5))
def test_an_order_names_the_classes_from_the_most_frequent_on(seed):
    random = np.random.RandomState(seed)
    order, counts = random.permutation(20), class_counts(300, 20, 50)
    found = in_order(counts, ",".join(map(str, order)), 50).tolist()
    slow = [0] * 20
    for rank in range(20):
        for c in range(20):
            if c == order[rank]:
                slow[c] = int(counts[rank])
    assert found == slow
    assert in_order(counts, "reversed", 50).tolist() == class_counts(300, 20, -50).tolist()


@pytest.mark.parametrize("include_labelled", [False, True])
def test_images_of_unknown_class_are_the_unlabelled_set(include_labelled, capsys):
    """Labelled images are drawn as where all have a class."""
    known = np.random.RandomState(2).permutation(np.repeat(np.arange(3), (40, 50, 60)))
    data, flags = of_labels(np.concatenate([known, [-1] * 70]), 3), imbalance(20, 2.0, 4, 100, seed=7)
    found = long_tailed(data, flags, include_labelled)
    alone = long_tailed(of_labels(known, 3), imbalance(20, 1.0, 4, 4, seed=7), False)
    assert found.labelled.tolist() == alone.labelled.tolist()
    assert found.counts.tolist() == [20, 10, 5]
    own = list(range(150, 220))
    assert found.unlabelled.tolist() == (found.labelled.tolist() + own if include_labelled else own)
    assert found.unlabelled_counts is None
    assert capsys.readouterr().err == ""
    long_tailed(data, imbalance(20, 3.0, 4, -100), include_labelled)
    assert capsys.readouterr().err.startswith("warning: --ratio and --imb_ratio_u: without effect")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(order="2,0,1", imb_ratio_u=-2), ["--order", "--imb_ratio_u -2", "give --imb_ratio_u 2"]),
        (dict(order="consistent", imb_ratio_u=-2), ["--order", "--imb_ratio_u -2"]),
        (dict(order="1,0"), ["--order: names 2 classes", "has 3"]),
        (dict(ratio=0.01), ["--ratio 0.01", "no unlabelled"]),
        (dict(imb_ratio_l=100), ["--num_max 20 --imb_ratio_l 100", "class 2 (cat)", "no labelled"]),
        (dict(num_max=30), ["--num_max", "--ratio", "class 0 (ant)", "60 images", "only 40", "lower"]),
    ],
)
def test_bad_flags_are_user_errors(toy, changed, words):
    flags = dict(num_max=20, ratio=1.0, imb_ratio_l=2, imb_ratio_u=2)
    with pytest.raises(UserError) as caught:
        long_tailed(toy, imbalance(**flags | changed), include_labelled=False)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("num_classes", "lines"), [(10, 3), (100, 15), (127, 18)])
def test_describe_shows_every_count_in_aligned_blocks(num_classes, lines):
    counts, unlabelled = class_counts(150, num_classes, 20), class_counts(300, num_classes, -20)
    table = describe(counts, unlabelled, unlabelled.sum()).split("\n")
    assert len(table) == lines
    assert max(map(len, table)) <= 100
    rows = [" ".join(table[kind::3]) for kind in range(3)]
    for row, title, values in zip(
        rows,
        ("class", f"{counts.sum()} labelled", f"{unlabelled.sum()} unlabelled"),
        (range(num_classes), counts, unlabelled),
        strict=True,
    ):
        assert row.replace(title, "").split() == [str(value) for value in values]


@pytest.mark.parametrize("num_classes", [2, 100])
def test_describe_without_counts_of_the_unlabelled_images(num_classes):
    counts = class_counts(150, num_classes, 20)
    *table, last = describe(counts, None, counts.sum()).split("\n")
    *both, unlabelled = describe(counts, counts, counts.sum()).split("\n")
    assert last == f"{counts.sum()} unlabelled"
    assert [line.split() for line in table] == [line.split() for line in both if "unlabelled" not in line]
    assert "unlabelled" in unlabelled


@pytest.mark.parametrize("num_classes", [2, 10, 127])
def test_describe_names_the_classes(num_classes):
    """Each name stands right above its count; control characters of folders' names don't reach the terminal."""
    names = [f"{'very ' * (c % 3)}odd{c}" for c in range(num_classes - 1)] + ["red\x1b[31m"]
    counts = class_counts(150, num_classes, 20)
    *table, again = describe(counts, counts, counts.sum(), names, 7).split("\n")
    assert again == "7 of the unlabelled are the labelled ones again"
    assert max(map(len, table)) <= 100 and "\x1b" not in "".join(table)
    shown = iter(zip([*names[:-1], "red\\x1b[31m"], counts.tolist(), strict=True))
    for heads, labelled, unlabelled in zip(table[::3], table[1::3], table[2::3], strict=True):
        assert labelled.split()[2:] == unlabelled.split()[2:]
        for end in [place.end() for place in re.finditer(r"\d+", labelled)][1:]:
            name, count = next(shown)
            assert heads[:end].endswith(f" {name}") and labelled[:end].endswith(f" {count}")
    assert not list(shown)
    assert describe(counts, None, 5, ["n" * 90, *names[1:]]) == describe(counts, None, 5)

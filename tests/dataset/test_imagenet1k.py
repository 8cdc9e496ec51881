"""ImageNet-1k-LT: its exact profile, the prepared files, and a run on them."""

import numpy as np
import pytest
from helpers.data_files import write_archives
from helpers.scripts import assert_refused, assert_runs, handed_to_fit, run_here, summary

from dataset.images import Dataset, Images
from dataset.long_tail import class_counts
from dataset.shares import labelled_share, profiled_share
from dataset.small_imagenet127 import GAMMA, NUM_MAX, load_small_imagenet
from utils.errors import UserError

PREPARE, FIX, COSSL = (
    "prepare_small_imagenet_127.py",
    "train_small_imagenet127_fix.py",
    "train_small_imagenet127_fix_cossl.py",
)


def of_labels(labels: np.ndarray, classes: int) -> Dataset:
    images = Images(np.zeros((len(labels), 1), dtype=np.uint8), labels)
    return Dataset(images, images, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(classes))))


@pytest.fixture(scope="module")
def full() -> Dataset:
    """1300 images of each of 1000 classes, in mixed order."""
    return of_labels(np.random.RandomState(0).permutation(np.repeat(np.arange(1000), 1300)), 1000)


def test_the_published_profile():
    counts = class_counts(NUM_MAX, 1000, GAMMA)
    assert (counts[0], counts[-1], counts.sum()) == (1280, 5, 229_853)
    labelled = [int(0.2 * n) for n in counts]
    assert (labelled[0], labelled[-1], sum(labelled)) == (256, 1, 45_589)


@pytest.mark.parametrize("include_labelled", [False, True])
def test_the_split_has_the_published_counts(include_labelled, full, capsys):
    found = profiled_share(full, NUM_MAX, GAMMA, 0.2, include_labelled)
    counts = class_counts(NUM_MAX, 1000, GAMMA)
    labelled = np.array([int(0.2 * n) for n in counts])
    assert found.counts.tolist() == labelled.tolist() and len(found.labelled) == 45_589
    unlabelled = counts if include_labelled else counts - labelled
    assert found.unlabelled_counts.tolist() == unlabelled.tolist()
    assert len(found.unlabelled) == 184_264 + 45_589 * include_labelled
    assert (found.unlabelled_counts[0], found.unlabelled_counts[-1]) == ((1280, 5) if include_labelled else (1024, 4))
    assert np.bincount(full.train.labels[found.unlabelled], minlength=1000).tolist() == unlabelled.tolist()
    assert len(np.intersect1d(found.labelled, found.unlabelled)) == include_labelled * 45_589
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("include_labelled", [False, True])
def test_the_first_images_of_a_class_are_labelled_as_a_slow_loop_finds_them(include_labelled, capsys):
    """Class 1 has fewer images than the profile asks for: 8, not 9."""
    labels = np.random.RandomState(3).permutation(np.repeat(np.arange(4), (30, 8, 4, 9)))
    found = profiled_share(of_labels(labels, 4), 20, 10, 0.5, include_labelled)
    assert class_counts(20, 4, 10).tolist() == [20, 9, 4, 2]
    labelled, rest = [[] for _ in range(4)], []
    for i, c in enumerate(labels.tolist()):
        taken = [20, 9, 4, 2][c]
        if (rank := labels[:i].tolist().count(c)) < int(0.5 * taken):
            labelled[c].append(i)
        elif rank < taken:
            rest.append(i)
    labelled = [i for members in labelled for i in members]
    assert found.labelled.tolist() == labelled
    assert found.unlabelled.tolist() == sorted(rest + labelled if include_labelled else rest)
    told = "warning: --data_root: too few images of 1 of the 4 classes; 34 are taken in all, not 35"
    assert capsys.readouterr().err.strip() == told


def test_a_class_without_a_label_and_a_set_without_the_others_are_refused():
    data = of_labels(np.repeat(np.arange(3), 10), 3)
    with pytest.raises(UserError, match=r"--labeled_percent 0.1: class 1 \(1\) has 7 images, so none"):
        profiled_share(data, 10, 2, 0.1, False)
    for found in (lambda kind: profiled_share(data, 10, 2, 1.0, kind), lambda kind: labelled_share(data, 1.0, 1, kind)):
        with pytest.raises(UserError, match=r"--labeled_percent 1\.0: leaves no unlabelled image"):
            found(False)
        assert len(found(True).unlabelled) == len(found(True).labelled)


def test_small_imagenet127_without_its_labelled_images():
    data = of_labels(np.random.RandomState(0).permutation(np.repeat(np.arange(3), (50, 30, 20))), 3)
    disjoint, included = (labelled_share(data, 0.1, 7, kind) for kind in (False, True))
    assert disjoint.labelled.tolist() == included.labelled.tolist()
    assert disjoint.unlabelled.tolist() == [i for i in range(100) if i not in disjoint.labelled]
    assert disjoint.unlabelled_counts.tolist() == [45, 27, 18]
    assert included.unlabelled_counts.tolist() == [50, 30, 20]


@pytest.mark.parametrize("size", [32, 64])
def test_both_data_sets_are_prepared_in_one_folder(size, tmp_path):
    batches = write_archives(tmp_path / "archives", size)
    for classes in (127, 1000):
        assert_runs(PREPARE, "--source", tmp_path / "archives", "--out", tmp_path / "out", "--classes", classes)
    joined, single = (load_small_imagenet(tmp_path / "out", size, classes) for classes in (127, 1000))
    assert single.train.pixels.shape[1:] == (3, size, size)
    *train, test = batches.values()
    assert single.train.labels.tolist() == [label - 1 for batch in train for label in batch["labels"]]
    assert single.test.labels.tolist() == [label - 1 for label in test["labels"]]
    assert np.array_equal(single.train.pixels, joined.train.pixels)
    assert joined.train.labels.max() == 126 and len(single.classes) == 1000
    assert len(list((tmp_path / "out").iterdir())) == 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three training images and one test image of each of 1000 classes."""
    folder, random = tmp_path_factory.mktemp("imagenet1k"), np.random.RandomState(0)
    for part, each in (("train", 3), ("val", 1)):
        labels = random.permutation(np.repeat(np.arange(1000), each))
        np.save(folder / f"{part}_32_labels_1000.npy", labels)
        np.save(folder / f"{part}_32_images.npy", random.randint(0, 256, (len(labels), 3, 32, 32)).astype(np.uint8))
    return folder


@pytest.fixture
def flags(prepared, monkeypatch):
    """Of a run on a profile that these images can serve."""
    monkeypatch.setattr("dataset.small_imagenet127.NUM_MAX", 3)
    monkeypatch.setattr("dataset.small_imagenet127.GAMMA", 1)
    return ["--data_root", prepared, "--labeled_percent", 0.4, "--gpu", "cpu", "--width", 1, "--batch-size", 4]


def test_both_stages_train_on_it(flags, tmp_path):
    """And co-learning takes data set, share and split from its pre-training."""
    short = ["--epoch", 1, "--val-iteration", 1]
    data = ["--dataset", "small_imagenet1k", *flags]
    assert_runs(FIX, *data, *short, "--out", tmp_path / "fix")
    start = ["--resume", tmp_path / "fix" / "checkpoint.pth.tar", "--out", tmp_path / "cossl", "--warm_tfe", 1]
    assert_runs(COSSL, *short, "--gpu", "cpu", *start, "--width", 1)
    for name in ("fix", "cossl"):
        found = summary(tmp_path / name)
        assert found["labelled_counts"] == [1] * 1000 and found["unlabelled_counts"] == [2] * 1000
        assert (found["unlabelled"], found["labelled_again"]) == (2000, 0)
        chosen = {name: found["arguments"][name] for name in ("dataset", "unlabelled", "labeled_percent")}
        assert chosen == {"dataset": "small_imagenet1k", "unlabelled": "disjoint", "labeled_percent": 0.4}
    shifted = ["--gpu", "cpu", "--out", tmp_path / "shifted"]
    assert_runs("eval_shifted_test_distribution.py", tmp_path / "fix", *shifted)
    assert (tmp_path / "fix" / "shifted.json").exists()


def test_defaults_are_those_that_it_was_published_with(prepared, tmp_path, monkeypatch):
    """A fifth of 5 images is 1, though there are only 3; the labelled ones are left out of the others."""
    monkeypatch.setattr("dataset.small_imagenet127.NUM_MAX", 5)
    monkeypatch.setattr("dataset.small_imagenet127.GAMMA", 1)
    flags = ["--data_root", prepared, "--gpu", "cpu", "--width", 1, "--out", tmp_path / "out"]
    found = handed_to_fit(FIX, "--dataset", "small_imagenet1k", *flags)
    arguments, facts = found.run.arguments, found.data.facts()
    assert (arguments["labeled_percent"], arguments["unlabelled"]) == (0.2, "disjoint")
    assert (facts["labelled_counts"], facts["unlabelled_counts"]) == ([1] * 1000, [2] * 1000)
    assert facts["labelled_again"] == 0


def test_labels_of_another_number_of_classes_are_refused(prepared, tmp_path):
    for file in prepared.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "val_32_labels_1000.npy").unlink()
    np.save(tmp_path / "val_32_labels_1000.npy", np.full(1000, 1000))
    wanted = ["--data_root", tmp_path, "--gpu", "cpu", "--out", tmp_path / "out"]
    result = run_here(FIX, "--dataset", "small_imagenet1k", *wanted)
    assert_refused(result, "val_32_labels_1000.npy: not labels from 0 to 999", "--classes 1000")

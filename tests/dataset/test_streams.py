"""Batches on demand: the same for the same step, whole passes, balanced classes, a test sweep in file order."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.batches import Batches
from dataset.image_loader import ImageLoader
from dataset.images import Images
from dataset.pixels import Pixels
from dataset.stream import Stream
from dataset.streams import open_data
from utils.errors import UserError

LABELS = np.repeat([0, 1, 3], [12, 6, 2])


def stream(wanted=("plain",), batch=4, seed=0, name="toy", members=None, balanced=False):
    """A stream of 20 images, the i-th of which has all pixels equal to i."""
    pixels = np.repeat(np.arange(20, dtype=np.uint8), 3 * 16 * 16).reshape(20, 3, 16, 16)
    images = Pixels(Images(pixels, LABELS.astype(np.int64)), (0.0,) * 3, (1.0,) * 3, torch.device("cpu"))
    members = np.arange(20) if members is None else members
    return Stream(name, images, members, wanted, batch, seed, balanced)


def at(s: Stream, t: int):
    """Batch t of one stream."""
    return Batches({"labelled": s}, (), 0).at(t).labelled


def which(batch) -> list[int]:
    return (batch.views[0][:, 0, 0, 0] * 255).round().int().tolist()


def together(batches) -> list[int]:
    return [image for batch in batches for image in which(batch)]


def test_a_pass_has_every_member_once_and_drops_the_rest():
    members = np.array([19, 3, 5, 7, 11, 13, 2, 17, 1, 0])
    s = stream(members=members, batch=3)
    passes = [together(at(s, 3 * k + i) for i in range(3)) for k in range(4)]
    for images in passes:
        assert len(set(images)) == 9
        assert set(images) < set(members.tolist())
    assert len({tuple(images) for images in passes}) == 4
    assert {i for images in passes for i in images} == set(members.tolist())  # another one is dropped each time


@pytest.mark.parametrize("ranks, sizes", [(1, [4, 7, 20]), (3, [3, 6, 18])])
def test_batches_of_another_size_fit_the_set_and_the_ranks(ranks, sizes, as_rank):
    as_rank(0, of=ranks)
    s = stream(batch=12, balanced=True)
    renamed = [s.renamed("other", size) for size in (4, 7, 256)]
    assert [r.batch_size for r in renamed] == sizes
    assert [r.rows * ranks for r in renamed] == sizes
    assert s.renamed("other").batch_size == 12


def test_labels_belong_to_the_images():
    for s in (stream(), stream(balanced=True)):
        for t in range(5):
            batch = at(s, t)
            assert batch.labels.tolist() == LABELS[which(batch)].tolist()


def test_a_batch_is_a_function_of_seed_name_and_step():
    wanted = ("weak", "strong")

    def pixels(s, t):
        return torch.stack(at(s, t).views)

    s = stream(wanted)
    late = pixels(s, 7)
    pixels(s, 0)
    assert torch.equal(late, pixels(s, 7))
    assert torch.equal(late, pixels(stream(wanted), 7))
    for other in (pixels(s, 8), pixels(stream(wanted, seed=1), 7), pixels(stream(wanted, name="other"), 7)):
        assert not torch.equal(late, other)


def test_balanced_draws_every_present_class_equally_often():
    s = stream(balanced=True, batch=10)
    batches = [at(s, t) for t in range(300)]
    labels = torch.cat([batch.labels for batch in batches])
    shares = labels.bincount(minlength=4) / len(labels)
    assert shares[2] == 0
    assert shares[[0, 1, 3]].tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    images = np.bincount(together(batches), minlength=20) / len(labels)
    assert images[:12] == pytest.approx(1 / 36, abs=0.012)
    assert images[18:] == pytest.approx(1 / 6, abs=0.03)


def test_sweep_goes_through_all_in_order():
    batches = list(stream(members=np.arange(19, -1, -1)).sweep(batch_size=8))
    assert [len(batch.labels) for batch in batches] == [8, 8, 4]
    assert together(batches) == list(range(19, -1, -1))


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match="--batch-size 21: the toy set has only 20 images"):
        stream(batch=21)


def test_data_of_a_recipe(capsys):
    args = Namespace(
        dataset="digits",
        data_root=Path("none"),
        num_max=40,
        ratio=2.0,
        imb_ratio_l=20,
        imb_ratio_u=-20,
        order=None,
        unlabelled="included",
        manualSeed=1,
        batch_size=16,
        holdout=None,
        weights=None,
    )
    views = {"labelled": ("weak",), "unlabelled": ("weak", "strong", "strong")}
    loader = ImageLoader(16, 1, 0, False, torch.device("cpu"))
    data = open_data(args, views, loader=loader)
    assert len(at(data.labelled, 0).views) == 1
    assert len(at(data.unlabelled, 0).views) == 3
    assert data.balanced.wanted == data.partners.wanted == ("strong",)
    drawn = torch.cat([at(data.balanced, t).labels for t in range(60)]).bincount(minlength=10)
    assert drawn.min() > 60 * 16 / 10 / 2  # were it not balanced, the rarest class would come 12 times
    assert len(data.partners.members) == len(data.labelled.members) + len(data.unlabelled.members)
    assert data.unlabelled_counts[-1] > data.unlabelled_counts[1]  # reversed
    printed = capsys.readouterr().out
    assert all(f" {n}" in printed for n in [*data.counts, *data.unlabelled_counts])
    images, labels = zip(*data.test(), strict=True)
    assert torch.cat(images).shape == (len(torch.cat(labels)), 3, 16, 16)
    assert torch.cat(labels).bincount().unique().numel() == 1  # a balanced test set
    assert data.facts()["labelled_counts"] == data.counts.tolist()

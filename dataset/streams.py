"""The streams of a data set: everything that a recipe trains and tests on."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from dataset import load
from dataset.data import Data
from dataset.folder import load_folder
from dataset.held_out import held_out_words
from dataset.images import Dataset, Views
from dataset.long_tail import ImbalanceFlags, LongTailed, long_tailed
from dataset.pixels import Pixels
from dataset.self_training import Joined, with_joined
from dataset.stream import Stream
from models.library import look_of
from utils.errors import UserError
from utils.ranks import my_rows


class Sampling(NamedTuple):
    """What all streams of a data set share. batch_size: labelled images per step; mu: unlabelled images per labelled
    one; learner_view: what classifier learning sees (published code: strong, on Small-ImageNet-127 weak).
    """

    batch_size: int
    seed: int
    mu: int = 1
    learner_view: str = "strong"


class DataFlags(ImbalanceFlags, Protocol):
    """The flags of the CIFAR recipes that say what is trained on; img_size, skip_corrupt and holdout: of a folder;
    arch, weights: a pre-trained network wants images normalised as its own were.
    """

    dataset: str
    data_root: Path
    img_size: int
    skip_corrupt: bool
    holdout: float | None
    batch_size: int
    arch: str | None
    weights: str | None


def open_data(
    args: DataFlags, wanted: Views, include_labelled: bool, device: torch.device, joined: Joined | None = None
) -> Data:
    """The streams of the data set that flags name, long-tailed or the user's own folder; prints the class counts.

    wanted: the views of the SSL method; include_labelled: whether the unlabelled set holds the labelled images, too;
    joined: what a generation of self-training adds to the labelled ones.
    Raises UserError where files or flags are wrong.
    """
    if args.dataset == "folder":
        chosen = include_labelled, args.skip_corrupt, args.holdout, args.manualSeed
        dataset, split = load_folder(args.data_root, args.img_size, *chosen)
    elif args.holdout is not None:
        raise UserError(f"--holdout: only of --dataset folder; {args.dataset} has a test set, leave it out")
    else:
        dataset = load(args.dataset, args.data_root)
        split = long_tailed(dataset, args, include_labelled)
    if args.weights:
        mean, std = look_of(str(args.arch))
        dataset = dataset._replace(mean=mean, std=std)
    dataset, split = (dataset, split) if joined is None else with_joined(dataset, split, joined)
    sampling = Sampling(args.batch_size, args.manualSeed if joined is None else joined.seed)
    data = streams(dataset, split, wanted, sampling, device)
    print(data.table())
    if args.holdout is not None:
        print(held_out_words(args.holdout, data.facts()))
    return data


def streams(dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, device: torch.device) -> Data:
    """The streams of a data set whose pixels lie in memory, or are mapped. wanted: the views of the SSL method.

    Raises UserError if a set is smaller than a batch, or the ranks can't share a batch equally.
    """
    look = dataset.mean, dataset.std, device, dataset.flip, dataset.pixel_scale
    train, test = (Pixels(images, *look) for images in (dataset.train, dataset.test))
    data = assembled(dataset, split, wanted, sampling, train, test)
    if dataset.held_out is None:
        return data
    apart = dataset.held_out is not dataset.test
    return data._replace(held_out=all_of("held-out", Pixels(dataset.held_out, *look)) if apart else data.tested)


def assembled(dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, train: Any, test: Any) -> Data:
    """The same out of the sets of images that make the views: `Pixels`, or `dataset.files.ImageFiles`. Nothing is held
    out.
    """
    (batch_size, seed, mu, view), everything = sampling, np.concatenate([split.labelled, split.unlabelled])
    my_rows(batch_size)
    return Data(
        Stream("labelled", train, split.labelled, wanted["labelled"], batch_size, seed),
        Stream("unlabelled", train, split.unlabelled, wanted["unlabelled"], mu * batch_size, seed),
        Stream("balanced", train, split.labelled, (view,), batch_size, seed, balanced=True),
        Stream("partners", train, everything, (view,), batch_size, seed),
        all_of("test", test),
        None,
        split.counts,
        split.unlabelled_counts,
        dataset.classes,
        dataset.mean,
        dataset.std,
    )


def all_of(name: str, images: Any) -> Stream:
    """All of a set of images, to be swept."""
    return Stream(name, images, np.arange(len(images.labels)), ("plain",), 1, 0)

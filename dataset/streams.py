"""The streams of a data set: everything that a recipe trains and tests on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from dataset import load
from dataset.data import Data
from dataset.files import ImageFiles
from dataset.folder import load_folder
from dataset.held_out import held_out_words
from dataset.image_loader import ImageLoader
from dataset.images import Dataset, Files, Views
from dataset.long_tail import ImbalanceFlags, LongTailed, long_tailed
from dataset.orders import refuse_order
from dataset.parts import refuse_among_images
from dataset.pixels import Pixels
from dataset.self_training import Joined, with_joined
from dataset.stream import Stream
from models.weights import look_of
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
    """The flags of the CIFAR recipes that say what is trained on; unlabelled: `included` where the unlabelled set
    holds the labelled images, too, else `disjoint`; img_size, skip_corrupt and holdout: of a folder;
    arch, weights: a pre-trained network wants images normalised as its own were.
    """

    dataset: str
    data_root: Path
    out: Path
    img_size: int
    skip_corrupt: bool
    holdout: float | None
    unlabelled: str
    batch_size: int
    arch: str | None
    weights: str | None


def open_data(args: DataFlags, wanted: Views, loader: ImageLoader, joined: Joined | None = None) -> Data:
    """The streams of the data set that flags name, long-tailed or the user's own folder; prints the class counts.

    wanted: the views of the SSL method; loader: of images that are decoded when a batch asks for them; its device is
    that of all; joined: what a generation of self-training adds to the labelled ones.
    Raises UserError where files or flags are wrong.
    """
    dataset, split = _chosen(args, include_labelled=args.unlabelled == "included")
    if args.weights:
        mean, std = look_of(args.arch)
        dataset = dataset._replace(mean=mean, std=std)
    dataset, split = (dataset, split) if joined is None else with_joined(dataset, split, joined)
    sampling = Sampling(args.batch_size, args.manualSeed if joined is None else joined.seed)
    if isinstance(dataset.train, Files):
        if joined is not None and args.skip_corrupt:  # what joins is found by its place in a sweep
            problem = "CReST+ can't leave out images above 64 pixels"
            raise UserError(f"--skip_corrupt: {problem}; remove unreadable ones, and leave the flag out")
        data = file_streams(dataset, split, wanted, sampling, loader)
    else:
        data = streams(dataset, split, wanted, sampling, loader.device)
    print(data.table())
    if args.holdout is not None:
        print(held_out_words(args.holdout, data.facts()))
    return data


def _chosen(args: DataFlags, include_labelled: bool) -> tuple[Dataset, LongTailed]:
    """The data set, and which of its images are labelled and which unlabelled."""
    if args.dataset == "folder":
        refuse_order(args.order, "--dataset folder")
        refuse_among_images(args.data_root, args.out)
        chosen = include_labelled, args.skip_corrupt, args.holdout, args.manualSeed
        return load_folder(args.data_root, args.img_size, *chosen)
    if args.holdout is not None:
        raise UserError(f"--holdout: only of --dataset folder; {args.dataset} has a test set, leave it out")
    dataset = load(args.dataset, args.data_root)
    return dataset, long_tailed(dataset, args, include_labelled)


def streams(dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, device: torch.device) -> Data:
    """The streams of a data set whose pixels lie in memory, or are mapped. wanted: the views of the SSL method.

    Raises UserError if a set is smaller than a batch, or the ranks can't share a batch equally.
    """
    look = dataset.mean, dataset.std, device, dataset.flip, dataset.pixel_scale
    return _assembled(dataset, split, wanted, sampling, lambda images: Pixels(images, *look))


def file_streams(dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, loader: ImageLoader) -> Data:
    """The same of a data set of files."""
    look = dataset.mean, dataset.std, loader
    return _assembled(dataset, split, wanted, sampling, lambda files: ImageFiles(files, *look))


def _assembled(
    dataset: Dataset, split: LongTailed, wanted: Views, sampling: Sampling, made: Callable[[Any], Any]
) -> Data:
    """made: a set of images -> what makes their views."""
    (batch_size, seed, mu, view), everything = sampling, np.concatenate([split.labelled, split.unlabelled])
    my_rows(batch_size)
    train, tested = made(dataset.train), _all_of("test", made(dataset.test))
    held_out = dataset.held_out
    if held_out is not None:
        held_out = tested if held_out is dataset.test else _all_of("held-out", made(held_out))
    return Data(
        Stream("labelled", train, split.labelled, wanted["labelled"], batch_size, seed),
        Stream("unlabelled", train, split.unlabelled, wanted["unlabelled"], mu * batch_size, seed),
        Stream("balanced", train, split.labelled, (view,), batch_size, seed, balanced=True),
        Stream("partners", train, everything, (view,), batch_size, seed),
        tested,
        held_out,
        split.counts,
        split.unlabelled_counts,
        dataset.classes,
        dataset.mean,
        dataset.std,
        dataset.files or {},
    )


def _all_of(name: str, images: Any) -> Stream:
    """All of a set of images, to be swept."""
    return Stream(name, images, np.arange(len(images.labels)), ("plain",), 1, 0)

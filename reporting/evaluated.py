"""Runs to evaluate: what each is of, and the network in its checkpoint, ready to answer.

Shape legend: N images (N, 3, S, S), C classes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.images import Dataset
from reporting.origin import dataset_of, method_of
from reporting.trained import class_count, predictor
from training.checkpoint import NAME, read
from utils.errors import UserError


class Run(NamedTuple):
    """A checkpoint, ready to answer. given: as on the command line; folder: of the run, None for a file with another
    name than the last checkpoint's; told: the flags of its data, as far as it tells them; facts: of its data, or empty.
    """

    given: Path
    checkpoint: Path
    folder: Path | None
    method: str
    epoch: int
    cossl: bool
    classes: int
    told: dict[str, Any]
    facts: dict[str, Any]
    predict: Callable[[Tensor], Tensor]


def read_runs(paths: list[Path], out: Path, device: torch.device) -> list[Run]:
    """All runs. Raises UserError where one can't be read, is named twice, or its folder can't be written to."""
    runs = [read_run(given, device) for given in paths]
    seen = set()
    for run in runs:
        if (resolved := run.checkpoint.resolve()) in seen:
            raise UserError(f"{run.given}: named twice; leave one out")
        seen.add(resolved)
        if run.folder is None:
            continue
        if run.folder.resolve() == out.resolve():
            raise UserError(f"--out {out}: the folder of a run; take another --out")
        if not os.access(run.folder, os.W_OK | os.X_OK):
            raise UserError(f"{run.folder}: cannot be written to; make it writable, or copy the checkpoint elsewhere")
    return runs


def read_run(given: Path, device: torch.device) -> Run:
    checkpoint = given / NAME if given.is_dir() else given
    if given.is_dir() and not checkpoint.is_file():
        raise UserError(f"{given}: holds no {NAME}; give the folder of a run, or a checkpoint")
    state = read(checkpoint, "RUN", ("ema_state_dict",))
    source = f"RUN {checkpoint}"
    classes, arguments, facts = class_count(state, source), state.get("arguments", {}), state.get("facts", {})
    predict = predictor(state, classes, device, source)
    weights = [*state["ema_state_dict"].values(), *state.get("ema_teacher", {}).values()]
    if not all(value.isfinite().all() for value in weights):
        raise UserError(f"{source}: its weights aren't all numbers (the training diverged); leave it out")
    told = {name: arguments[name] for name in ("data_root", "skip_corrupt") if name in arguments}
    if (dataset := dataset_of(arguments)) is not None:
        told["dataset"] = dataset
    if "img_size" in facts:
        told["img_size"] = facts["img_size"]
    folder = checkpoint.parent if checkpoint.name == NAME else None
    cossl = "ema_teacher" in state
    return Run(given, checkpoint, folder, method_of(state), state["epoch"], cossl, classes, told, facts, predict)


def agreed(runs: list[Run], name: str, default: Any) -> Any:
    """What the runs that tell it have for a flag of their data."""
    telling = [run for run in runs if name in run.told]
    for run in telling:
        if run.told[name] != telling[0].told[name]:
            values = f"{run.told[name]}, and that of {telling[0].given} {telling[0].told[name]}"
            raise UserError(f"{run.given}: its --{name} is {values}; evaluate them apart, or give --{name}")
    return telling[0].told[name] if telling else default


def check_classes(run: Run, data: Dataset) -> None:
    """Raise UserError if the run tells other classes apart than the data set has."""
    if run.classes != len(data.classes):
        problem = f"tells {run.classes} classes apart, and the data set has {len(data.classes)}"
        raise UserError(f"{run.given}: {problem}; give the --dataset and --data_root it was trained on")
    if run.facts.get("classes", list(data.classes)) != list(data.classes):
        raise UserError(f"{run.given}: trained on other classes than those of --dataset/--data_root; give its own")


def prior(run: Run) -> np.ndarray:
    """The class distribution that the run's classifier learned from, (C,): that of the labelled images, or in CoSSL,
    whose head is trained on class-balanced batches, the uniform one. Raises UserError if the checkpoint lacks it.
    """
    if run.cossl:
        return np.full(run.classes, 1 / run.classes)
    if "labelled_counts" not in run.facts:
        problem = "doesn't tell its labelled images per class (of the published code, or an older version)"
        raise UserError(f"--known_prior: {run.given} {problem}; leave --known_prior or this run out")
    counts = np.array(run.facts["labelled_counts"], dtype=float)
    return counts / counts.sum()

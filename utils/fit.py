"""The training loop: epochs, progress, log, checkpoints. It knows no method.

Shape legend: logs are 0-d tensors on the device, and counts (rows, C) of pseudo-labels; K steps per epoch, C classes.
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils import checkpoint, diagnostics
from utils.args import plain
from utils.distributed import agree, mean_over_ranks, rank, start_alike, world_size
from utils.errors import UserError
from utils.log import Board, Progress, Row, write_log
from utils.seeding import fold_in
from utils.summary import atomic_write_text, summarise, to_json, versions


def fit(
    step: Callable[[int], dict[str, Tensor]],
    evaluate: Callable[[], dict[str, Any]],
    objects: dict[str, Any],
    args: Namespace,
    facts: dict[str, Any],
    start: dict[str, Any] | None,
    prepare: Callable[[], None] | None = None,
    first_copy: int = 1,
    watch: Callable[[], dict[str, float]] = dict,
) -> None:
    """Train until `args.epochs`, from the start or from where the checkpoint `start` left off, then summarise.

    step: t -> logs, trains once; evaluate: -> figures of the test set, after every epoch; objects: what is saved and
    loaded, by checkpoint key; facts: what the summary says of the run besides its arguments; prepare: called once,
    before step 0; first_copy: the first epoch whose checkpoint is kept as a copy. With N = args.copy_every, copies are
    those of epochs 1, N + 1, 2 N + 1, ... from there on. watch: -> figures of how the epoch went on this machine, which
    are shown, and not part of the log.
    Before step t the generators are seeded from (seed, t), so that a killed and resumed run repeats the bits of one
    that wasn't. Under torchrun rank 0 alone evaluates and writes, and the others wait for it in their next step.
    Raises UserError if the loss stops being a number or the folder can't be written to.
    """
    out, done, history, began = args.out, 0, [], time.monotonic()
    if start is not None:
        checkpoint.same_data(start, facts)
        checkpoint.restore(objects, start, args.resume or out / checkpoint.NAME)
        done, history, began = start["epoch"], start.get("history", []), began - start.get("seconds", 0.0)
        if done > args.epochs or not (history or done < args.epochs):
            raise UserError(f"--epochs {args.epochs}: the checkpoint has {done} epochs already; raise --epochs")
        print(f"continuing after epoch {done}")
    agree(done, "--out: not all processes see the same checkpoint; it must be a folder that all machines share")
    if start is None and prepare is not None:
        print("preparing the first epoch", flush=True)
        if rank():
            torch.manual_seed(fold_in(args.manualSeed, own("prepare")))
        prepare()
    start_alike([thing for thing in objects.values() if isinstance(thing, torch.nn.Module)])
    if rank():
        follow(step, done, args)
        return
    checkpoint.make_folder(out, args.overwrite)
    board = Board(out / "tensorboard", done)
    if history:
        record(out, history, done)
    with closing(Progress(args.epochs, args.val_iteration, done)) as progress:
        for n in range(done + 1, args.epochs + 1):
            history.append(train_epoch(step, n, args, progress) | test_row(evaluate()))
            if "counts" in history[-1]:
                history[-1]["pseudo"] = diagnostics.columns(history[-1]["counts"], facts)
            for row in history[:-1]:  # the latest is enough
                row.pop("confusion", None)
            state = {key: thing.state_dict() for key, thing in objects.items()}
            state |= {"epoch": n, "history": history, "seconds": time.monotonic() - began, "arguments": plain(args)}
            state["facts"] = facts
            copied = n >= first_copy and n % args.copy_every == 1 % args.copy_every
            checkpoint.save(state, [out / f"checkpoint_{n}.pth.tar"] * copied + [out / checkpoint.NAME])
            record(out, history, n)
            row = history[-1] | {"machine": watch()}
            board.write(row, n)
            progress.epoch(n, row)
    facts = facts | {"steps_per_epoch": args.val_iteration, "arguments": plain(args)}
    conclude(out, history, args.epochs - len(history) + 1, facts, time.monotonic() - began)


def follow(step: Callable[[int], dict[str, Tensor]], done: int, args: Namespace) -> None:
    """Train as `fit` does, on a rank other than 0."""
    with closing(Progress(args.epochs, args.val_iteration, done)) as progress:
        for n in range(done + 1, args.epochs + 1):
            train_epoch(step, n, args, progress)


def own(name: str) -> str:
    """The name of a stream of random numbers that is this rank's own; rank 0 has that of a run without torchrun."""
    return f"{name}, rank {rank()}" if rank() else name


def record(out: Path, history: list[Row], last: int) -> None:
    """Write the files that hold a row per epoch, up to the epoch `last`."""
    write_log(out / "log.txt", history, last)
    diagnostics.write(out / diagnostics.NAME, history, last)


def test_row(figures: dict[str, Any]) -> Row:
    """The figures of `metrics.evaluate` as parts of an epoch's row."""
    return {"test": figures, "confusion": figures.pop("confusion")}


def train_epoch(step: Callable[[int], dict[str, Tensor]], n: int, args: Namespace, progress: Progress) -> Row:
    """Epoch n (from 1), K steps on all ranks: the means of their logs, `train`, and the sums of the counts of their
    pseudo-labels, `counts` (absent for a method without any). The device is read when the bar asks, and at the end.
    """
    totals: dict[str, Tensor] = {}
    for i in range(args.val_iteration):
        t = (n - 1) * args.val_iteration + i
        torch.manual_seed(fold_in(args.manualSeed, own("step"), t))
        for name, value in step(t).items():
            totals[name] = totals.get(name, 0) + value.detach()
        progress.step(t + 1, partial(means, totals, i + 1))
    mean_over_ranks([total for total in totals.values() if total.ndim == 0])
    figures, counts = means(totals, args.val_iteration), {}
    if "pseudo" in totals:
        share = totals["pseudo"].double()
        mean_over_ranks([share])
        counts["counts"] = (share * world_size()).round().long().cpu()
    for name, value in figures.items():
        if not math.isfinite(value):
            raise UserError(f"--lr {args.lr}: {name} is {value} in epoch {n}; lower the learning rate")
    return {"train": figures} | counts


def means(totals: dict[str, Tensor], n: int) -> dict[str, float]:
    """Sums over n steps -> means as numbers of those that are 0-d, in one read of the device."""
    scalars = {name: total for name, total in totals.items() if total.ndim == 0}
    return dict(zip(scalars, (torch.stack(list(scalars.values())) / n).tolist(), strict=True))


def conclude(out: Path, history: list[Row], first: int, facts: dict[str, Any], seconds: float) -> None:
    """Write `summary.json`; the last printed lines say what came out, and where it is.

    history: a row per epoch, from epoch `first` on; seconds: wall time of the run.
    """
    figures = summarise([row["test"] for row in history])
    figures["best"]["epoch"] += first - 1
    machine = {"versions": versions(), "processes": world_size(), "wall_seconds": round(seconds, 1)}
    summary = facts | figures | machine
    atomic_write_text(out / "summary.json", to_json(summary))
    mean, best = figures["last_20_mean"], figures["best"]
    print(
        f"mean balanced accuracy of the last {figures['epochs_averaged']} epochs: {mean['balanced']:.2f} % "
        f"(best {best['balanced']:.2f} % in epoch {best['epoch']}), geometric mean {mean['gm']:.2f} %, "
        f"top-1 {mean['top1']:.2f} %\nresults: {out}"
    )

"""The training loop: epochs, evaluation, interruptions. It knows no method.

Shape legend: K steps per epoch; of logs and figures see training.epoch and utils.metrics.
"""

import signal
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from dataset.render import has_kernel
from training import checkpoint, resume
from training.epoch import Sums, so_far, train_epoch
from training.failure import told
from training.graphs import replayed
from training.lock import locked
from training.log import Progress
from training.recorder import Recorder
from utils.errors import Interrupted, UserError
from utils.interrupts import Halt, Interrupts
from utils.ranks import agree, any_rank, rank, start_alike


def fit(
    step: Callable[[Any], dict[str, Tensor]],
    batches: Any,
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

    step: batch -> logs, trains once; batches: `at(t)` gives the batch of step t; evaluate: -> figures of the test set,
    after every epoch; objects: what is saved and loaded, by checkpoint key; facts: what the summary says of the run
    besides its arguments; prepare: called once, before step 0; first_copy: the first epoch whose checkpoint is kept as
    a copy. With N = args.copy_every, copies are those of epochs 1, N + 1, 2 N + 1, ... from there on. watch: -> figures
    of how the epoch went on this machine, which are shown, and not part of the log.
    A batch is a function of (seed, t), so that a killed and resumed run repeats the bits of one that wasn't. With
    `args.graph` a step is one CUDA graph. Under torchrun rank 0 alone evaluates and writes, and the others wait for it
    at the epoch's end.
    A signal or the time limit ends the run after the step that is running, or in the middle of an evaluation, and the
    checkpoint is of that step; under torchrun a signal ends it at once, and the time limit after an epoch. The time
    limit never ends `prepare`, nor an evaluation that is all a process has done: so every part of a run gets further.
    Raises Interrupted; UserError if a loss or a weight stops being a number, if another process trains in the folder,
    or has since `start` was read, or if it can't be written to.
    """
    recorder, sums = Recorder(objects, args, facts, start, first_copy), Sums()
    if start is not None:
        resume.same_data(start, facts)
        resume.restore(objects, start, args.resume or args.out / checkpoint.NAME)
        sums = so_far(start)
        if recorder.done > args.epochs or not (recorder.history or recorder.done < args.epochs):
            problem = f"the checkpoint has {recorder.done} epochs already"
            raise UserError(f"--epochs {args.epochs}: {problem}; raise --epochs")
        print(f"continuing after {recorder.place(sums)}")
    place = recorder.done * args.val_iteration + sums.step
    agree(place, "--out: not all processes see the same checkpoint; it must be a folder that all machines share")
    with Interrupts(args.time_limit) as interrupts, locked(args.out):
        if rank() == 0:
            resume.refuse_outdated(start, args)
        with told(args.out):
            if start is None and prepare is not None:
                make_ready(prepare, args, interrupts)
            start_alike([thing for thing in objects.values() if isinstance(thing, torch.nn.Module)])
            if rank() == 0:
                recorder.open()
            train(_of_number(step, batches, objects, args.graph), evaluate, args, recorder, sums, interrupts, watch)
            if rank() == 0:
                recorder.conclude()


def train(
    step: Callable[[int], dict[str, Tensor]],
    evaluate: Callable[[], dict[str, Any]],
    args: Namespace,
    recorder: Recorder,
    sums: Sums,
    interrupts: Interrupts,
    watch: Callable[[], dict[str, float]],
) -> None:
    """The epochs that `recorder` lacks; of the first one, `sums` has what is done of it. Else as for `fit`."""
    with closing(Progress(args.epochs, args.val_iteration, recorder.done)) as progress:
        for n in range(recorder.done + 1, args.epochs + 1):
            test, trains = None, sums.step < args.val_iteration
            try:
                train_epoch(step, n, args, progress, sums, interrupts.check)
                if rank() == 0:
                    with interrupts.between(alarm=trains):
                        test = evaluate()
            except Halt:
                sums.check(n, args)
                with interrupts.held():
                    recorder.save(sums)
                stop(interrupts, recorder.place(sums), args)
            row, sums, machine = sums.row(), Sums(), watch()
            if rank() == 0:
                with interrupts.held():
                    row = recorder.epoch(row, test, machine)
                progress.epoch(n, row)
            else:
                recorder.done = n  # which rank 0 has written
            if any_rank(interrupts.came is not None) and n < args.epochs:
                stop(interrupts, recorder.place(sums), args)


def _of_number(
    step: Callable[[Any], dict[str, Tensor]], batches: Any, objects: dict[str, Any], graph: bool
) -> Callable[[int], dict[str, Tensor]]:
    """t -> logs of step t."""
    if not graph:
        return lambda t: step(batches.at(t))
    if not has_kernel(batches.device, batches.images.size):
        raise UserError("--graph: needs the kernel that makes the views, and images that fit it; leave --graph out")
    return replayed(step, batches, [thing for thing in objects.values() if isinstance(thing, torch.optim.Optimizer)])


def make_ready(prepare: Callable[[], None], args: Namespace, interrupts: Interrupts) -> None:
    print("preparing the first epoch", flush=True)
    try:
        with interrupts.between(alarm=False):
            prepare()
    except Halt:
        left = "before its first step a run has nothing to save; the same command starts anew"
        raise Interrupted(interrupts.came, left) from None


def stop(interrupts: Interrupts, saved: str, args: Namespace) -> None:
    """End the run here; saved: what it has done, in words."""
    left = f"saved after {saved}; {resume.again(args)} goes on"
    raise Interrupted(interrupts.came or signal.SIGALRM, left) from None

"""The training loop: epochs, evaluation, and where it may end. It knows no method.

Shape legend: K steps per epoch; of logs and figures see training.totals and utils.metrics.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, cast

from torch import Tensor

from training.forecast import Forecast, evaluation_seconds
from training.progress import Progress
from training.recorder import Recorder
from training.schema import Row, Tested
from training.totals import Totals
from utils.metrics import evaluate
from utils.ranks import any_rank, rank, world_size
from utils.stop import Due, Stop, Stopped


def train(
    step: Callable[[int], None],
    predict: Callable[[Tensor], Tensor],
    data: Any,
    recorder: Recorder,
    totals: Totals,
    stop: Stop,
    goes_on: str,
) -> None:
    """The epochs that `recorder` lacks, on all ranks; of the first one, `totals` has what is done of it.

    step: does step t, and adds its logs to `totals`; predict, data: see `Run.fit`; goes_on: the command that continues
    the run, in words.
    Rank 0 alone evaluates and writes; the others wait for it at the epoch's end. Raises Stopped, and UserError if a
    loss or a weight stops being a number, or if the folder can't be written to.
    """
    with closing(_progress(predict, data, recorder)) as progress, recorder.background:
        for n in range(recorder.done + 1, recorder.epochs + 1):
            trains, tested = totals.step < recorder.steps, dict[str, dict[str, Any]]()
            began, steps = time.monotonic(), recorder.steps - totals.step
            try:
                train_epoch(step, n, recorder, progress, totals, stop)
                trained = time.monotonic()
                if rank() == 0:  # the time limit doesn't end an evaluation that is all that a process has done
                    for part, images in data.evaluated().items():
                        tested[part] = evaluate(predict, stop.checked(images, timed=trains), data.counts)
            except Due:
                totals.check(n, recorder.rates)
                recorder.save(totals)
                raise _stopped(stop, recorder, totals, goes_on) from None
            if steps:
                recorder.step_seconds = (trained - began) / steps
            recorder.evaluation_seconds = time.monotonic() - trained
            record(n, recorder, progress, totals, tested, data.machine())
            totals.restart()
            if any_rank(stop.signal is not None or stop.time_is_up) and n < recorder.epochs:
                raise _stopped(stop, recorder, totals, goes_on)


def train_epoch(
    step: Callable[[int], None], n: int, recorder: Recorder, progress: Progress, totals: Totals, stop: Stop
) -> None:
    """The steps of epoch n (from 1) that `totals` lacks, K in all, on all ranks.

    Raises Due between two steps; UserError if a log isn't a number: on the CPU after that step, elsewhere when the bar
    is read, and at the epoch's end.
    """
    for i in range(totals.step, recorder.steps):
        t = (n - 1) * recorder.steps + i
        step(t)
        totals.step += 1
        recorder.background.check()
        if totals.cheap:
            totals.check(n, recorder.rates)
        progress.step(t + 1, partial(_read, totals, n, recorder.rates))
        stop.check()
    totals.check(n, recorder.rates)


def record(
    n: int,
    recorder: Recorder,
    progress: Progress,
    totals: Totals,
    tested: dict[str, dict[str, Any]],
    machine: dict[str, float],
) -> None:
    """Epoch n is over: its row, on rank 0. tested: figures of `Data.evaluated`."""
    means, counts = totals.over_ranks()
    if rank():
        recorder.done += 1  # which rank 0 writes
        return
    confusion, *_ = [figures.pop("confusion") for figures in tested.values()]
    row: Row = {"train": means, "test": cast(Tested, tested["test"]), "confusion": confusion}
    if "held_out" in tested:
        row["held_out"] = cast(Tested, tested["held_out"])
    if counts is not None:
        row["counts"] = counts
    recorder.epoch(row, machine, partial(progress.epoch, n, row, machine))
    if world_size() > 1:  # torchrun ends all when one has ended, which may be after this epoch
        recorder.background.wait()


def _progress(predict: Callable[[Tensor], Tensor], data: Any, recorder: Recorder) -> Progress:
    forecast = Forecast(recorder.arguments, recorder.steps, partial(evaluation_seconds, predict, data))
    return Progress(recorder.epochs, recorder.steps, recorder.done, forecast)


def _stopped(stop: Stop, recorder: Recorder, totals: Totals, goes_on: str) -> Stopped:
    saved = f"saved after {recorder.progress(totals)}"
    if rank() == 0:
        recorder.summarise("stopped", f"{stop.reason}, {saved}")
    return Stopped(stop.code, f"{stop.reason}: {saved}; {goes_on} goes on")


def _read(totals: Totals, n: int, rates: str) -> dict[str, float]:
    totals.check(n, rates)
    return totals.means()

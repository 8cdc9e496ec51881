"""What TensorBoard shows of a run: curves over its epochs, and its arguments beside its final figures.

Written directly: PyTorch's SummaryWriter writes in a thread, whose errors are tracebacks.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, scalar

from training.history import length
from training.schema import History
from utils.files import replacing
from utils.text import printable

NAME = "events.out.tfevents."


class Board:
    """Scalars `train/NAME`, `test/NAME`, `held_out/NAME`, `pseudo/NAME` and `machine/NAME` over epochs, shares in
    percent; of a run that is over `final/NAME`. What a killed run wrote too much is purged.

    start_epoch: the step of epoch 0, so that co-learning goes on where its pre-training ends. arguments: plain values,
    shown as hyper-parameters.
    """

    def __init__(self, folder: Path, start_epoch: int, arguments: Mapping[str, Any]) -> None:
        self.folder, self.start_epoch = folder, start_epoch
        words = {name: str(value) for name, value in arguments.items() if isinstance(value, bool)}  # else numbers
        words |= {name: printable(value) for name, value in arguments.items() if isinstance(value, str)}  # paths, too
        _, self.arguments, self.end = hparams({**arguments, **words}, {})
        self.path: Path | None = None

    def write(self, history: History, epoch: int, machine: Mapping[str, float], final: Mapping[str, Any]) -> None:
        """Append the last epoch of the history, number `epoch`. machine: figures of how it went here; final: those of a
        run that ends with it, else empty.
        """
        if self.path is None:
            self.path = self._begin(history, epoch)
        figures = [*_figures(history, -1), *_tagged("machine", machine), *_tagged("final", final)]
        with self.path.open("ab") as file:
            _write(file, [*self._scalars(figures, epoch), *([Event(summary=self.end)] if final else [])])

    def _begin(self, history: History, epoch: int) -> Path:
        """The file of this part of the run, which begins with `epoch`, or with all before it if there are no others.

        TensorBoard reads files in the order of their names, so these are numbers: a clock may be set back.
        """
        self.folder.mkdir(exist_ok=True)
        numbers = [path.name.removeprefix(NAME).split(".")[0] for path in self.folder.glob(f"{NAME}*")]
        latest = max((int(number) for number in numbers if number.isdecimal()), default=0)
        first = epoch if numbers else epoch - length(history) + 1
        purge = SessionLog(status=SessionLog.START)
        path = self.folder / f"{NAME}{latest + 1:010}"
        with replacing(path) as temporary, temporary.open("wb") as file:
            step = self.start_epoch + first
            version = Event(step=step, file_version="brain.Event:2")
            _write(file, [version, Event(step=step, session_log=purge), Event(summary=self.arguments)])
            for n in range(first, epoch):
                _write(file, self._scalars(_figures(history, n - epoch - 1), n))
        return path

    def _scalars(self, figures: Iterable[tuple[str, float]], epoch: int) -> Iterator[Event]:
        """TensorBoard has no point for a figure without meaning."""
        for tag, value in figures:
            if math.isfinite(value):
                yield Event(step=self.start_epoch + epoch, summary=scalar(tag, value))


def _figures(history: History, i: int) -> Iterator[tuple[str, float]]:
    """Tags and values of epoch i of the history."""
    parts = {"train": history["train"], "test": history["test"]}
    parts |= {"held_out": history.get("held_out", {}), "pseudo": history.get("pseudo", {})}
    for part, columns in parts.items():
        yield from _tagged(part, {name: column[i].item() for name, column in columns.items() if column.ndim == 1})


def _tagged(part: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if name != "recall" and value is not None:
            share = part == "train" and (name == "mask" or name.startswith("acc_"))
            yield f"{part}/{name}", 100 * value if share else value


def _write(file: Any, events: Iterable[Event]) -> None:
    for event in events:
        event.wall_time = time.time()
        RecordWriter(file).write(event.SerializeToString())

"""TensorBoard's scalars of a run."""

import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from training.schema import Row


class Board:
    """TensorBoard scalars `train/NAME`, `test/NAME` and `machine/NAME` over epochs; what a killed run wrote too
    much is purged.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.folder, self.done = folder, done
        self.path: Path | None = None

    def write(self, row: Row, machine: dict[str, float], epoch: int) -> None:
        """Append to the run's file. (PyTorch's SummaryWriter does so in a thread, whose errors are tracebacks.)"""
        parts: dict[str, Mapping[str, Any]] = {"train": row["train"], "test": row["test"]}
        parts |= {"pseudo": row.get("pseudo", {}), "machine": machine}
        figures = [
            Event(step=epoch, summary=scalar(f"{part}/{name}", value))
            for part, values in parts.items()
            for name, value in values.items()
            if name != "recall" and math.isfinite(value)
        ]
        if self.path is None:
            self.folder.mkdir(exist_ok=True)
            self.path = self.folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
            purge = SessionLog(status=SessionLog.START)
            version = Event(step=self.done + 1, file_version="brain.Event:2")
            figures = [version, Event(step=self.done + 1, session_log=purge), *figures]
        with self.path.open("ab") as file:
            for event in figures:
                event.wall_time = time.time()
                RecordWriter(file).write(event.SerializeToString())

"""Crops of image files, made ahead of time by the worker processes of one `DataLoader` for all streams."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, tee
from typing import Any

import torch
from torch.utils.data import DataLoader

from dataset.crops import Cropper, Done, Job
from utils.errors import UserError
from utils.ranks import mean_over_ranks, rank, world_size

LAST_SECONDS = 20  # that a worker lives on after SIGTERM
AHEAD = 4  # jobs per worker that are begun before they are asked for
# Where a worker dies after it has announced a result, fetching it fails by one of these, before its end is noticed.
LOST = (ConnectionResetError, ConnectionRefusedError, EOFError)


class Feeder:
    """Makes the crops of the batches that streams ask for. Workers start with the first job, and end with `running`.

    workers: processes; 0 makes the crops in this one, when they are asked for. skip_corrupt: files that can't be read
    are counted, and each is named once; otherwise the first one raises UserError.
    """

    def __init__(self, size: int, seed: int, workers: int, skip_corrupt: bool, device: torch.device) -> None:
        self.cropper, self.workers, self.skip_corrupt = Cropper(size, seed, skip_corrupt), workers, skip_corrupt
        self.pinned = device.type == "cuda"
        self.loader = self.results = self.upcoming = None
        self.jobs, self.turns = iter(()), iter(())
        self.waited, self.skipped, self.named = 0.0, 0, set()

    def add(self, files: list[str]) -> int:
        """A key for a set of files, by which jobs name it."""
        self.close()  # workers that run already know the earlier sets only
        self.cropper.members.append(files)
        return len(self.cropper.members) - 1

    def batch(self, stream: Any, t: int) -> list[Done]:
        """The crops of batch t of a stream, part by part; those that `stream.ahead` says come next are begun.

        Streams asked in another order than that get the same crops, but have to wait for them.
        """
        began = time.monotonic()
        if self.upcoming != (stream, t):
            self.turns, ahead = tee(_turns(stream, t))
            self.start(job for coming, at in ahead for job in coming.jobs(at))
            next(self.turns)
        parts = [self.next() for _ in stream.jobs(t)]
        self.upcoming = next(self.turns)
        self.waited += time.monotonic() - began
        return parts

    def start(self, jobs: Iterable[Job]) -> None:
        """Go on with these jobs instead; of those begun before, nothing is delivered."""
        self.jobs, self.upcoming = iter(jobs), None
        self.loader = self._open() if self.loader is None else self.loader
        self.results = iter(self.loader)

    def next(self) -> Done:
        """The outcome of the next job. Raises UserError for a file that can't be read."""
        done = next(self.results)
        self._report(done.damaged)
        return done

    def figures(self) -> dict[str, float]:
        """Of the epoch that ends here: seconds that steps waited for images, in the mean over the ranks, and images
        skipped, if there were any, by all of them. Waits until all ranks are here.
        """
        totals = torch.tensor([self.waited, self.skipped], dtype=torch.float64)
        mean_over_ranks([totals])
        waited, skipped = totals.tolist()
        self.waited, self.skipped = 0.0, 0
        return {"waited_s": waited} | ({"skipped": round(skipped * world_size())} if skipped else {})

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around all that asks for batches: ends the workers afterwards. Raises UserError if one of them was killed."""
        try:
            yield
        except (RuntimeError, *LOST) as error:  # torch raises it from a signal's handler, in the middle of anything
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            for _ in range(self.workers + 1):  # that handler may raise once more for each worker, also in here
                with suppress(RuntimeError):
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            remedy = "lower --workers, or free memory, also in /dev/shm"
            raise UserError(f"--workers {self.workers}: a worker process died; {remedy}") from None
        finally:
            self.close()

    def close(self) -> None:
        """End the workers."""
        self.jobs, self.turns = iter(()), iter(())
        self.loader = self.results = self.upcoming = None  # a DataLoader ends them when nothing refers to it

    def _open(self) -> DataLoader:
        several = {"prefetch_factor": AHEAD, "persistent_workers": True} if self.workers else {}
        return DataLoader(
            self.cropper,
            batch_size=None,
            sampler=_Jobs(self),
            num_workers=self.workers,
            pin_memory=self.pinned,
            generator=torch.Generator(),
            worker_init_fn=_begin,
            **several,
        )

    def _report(self, damaged: list[tuple[str, str]]) -> None:
        for path, problem in damaged:
            if not self.skip_corrupt:
                raise UserError(f"{path}: not a readable image ({problem}); replace it, or give --skip_corrupt")
            if path not in self.named:
                stderr = sys.__stderr__ if rank() else sys.stderr  # which the others hold back
                print(f"skipped, not a readable image: {path} ({problem})", file=stderr)
            self.named.add(path)
        self.skipped += len(damaged)


class _Jobs:
    """The sampler of the loader: whatever jobs the feeder has to do."""

    def __init__(self, feeder: Feeder) -> None:
        self.feeder = feeder

    def __iter__(self) -> Iterator[Job]:
        return self.feeder.jobs


def _turns(stream: Any, t: int) -> Iterator[tuple[Any, int]]:
    """(stream, step) from this one on, in the order in which steps ask."""
    number = len(stream.ahead)
    for i in count(t * number + stream.ahead.index(stream)):
        yield stream.ahead[i % number], i // number


def _begin(worker: int) -> None:
    """Ctrl-C and SIGTERM may reach the workers, too; ending them is the main process's business, and needs no trace.

    After SIGTERM, by which Python ends what is left of them, they live on for the step that a run still finishes. On
    Linux they end with that process even if it is killed: by their copies of its connections other ranks would not
    notice.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))

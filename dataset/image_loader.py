"""Crops of image files, made by the worker processes of one `DataLoader` for all batches, and for sweeps."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain, count, takewhile
from multiprocessing import Lock, queues
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from dataset.crops import Chunk, Cropper, Decoded
from utils.errors import UserError
from utils.ranks import mean_over_ranks, rank, world_size
from utils.stop import end_with_parent

LAST_SECONDS = 20  # that a worker lives on after SIGTERM
AHEAD = 4  # chunks per worker that are begun before they are asked for
_REMEDY = "lower --workers, or free memory, also in /dev/shm (in a container, start it with a larger --shm-size)"
# Where a worker dies after it has announced a result, fetching it fails by one of these, before its end is noticed.
LOST = (ConnectionResetError, ConnectionRefusedError, EOFError)


class ChunkSampler(Sampler):
    """Whatever chunks come next; they are set anew before each pass of the loader."""

    chunks: Iterator[Chunk] = iter(())

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks


class ImageLoader:
    """Makes the crops of batches, chunk by chunk. Workers start with the first batch, and end with `running`.

    workers: processes; 0 makes the crops in this one, when they are asked for. skip_corrupt: files that can't be read
    are counted, and each is named once; otherwise the first one raises UserError.
    """

    def __init__(self, size: int, seed: int, workers: int, skip_corrupt: bool, device: torch.device) -> None:
        self.cropper, self.workers, self.skip_corrupt, self.device = Cropper(size, seed), workers, skip_corrupt, device
        self.sampler = ChunkSampler()
        self.loader = self.results = self.expected = None
        self.waited, self.skipped, self.named = 0.0, 0, set()

    def read(self, chunks: Callable[[int], list[Chunk]], t: int) -> list[Decoded]:
        """The chunks of batch t; chunks(i) lists those of batch i, none after the last one.

        Workers go on with batches t + 1, ... Whoever asks for others gets the same crops, but has to wait for them.
        """
        if self.expected != (chunks, t):
            self.sampler.chunks = chain.from_iterable(takewhile(bool, map(chunks, count(t))))
            try:
                self.loader = self._open() if self.loader is None else self.loader
                self.results = iter(self.loader)
            except OSError as error:  # /dev/shm has no room for a lock, or the machine none for a process
                raise UserError(f"--workers {self.workers}: no worker can start ({error}); {_REMEDY}") from None
        self.expected = chunks, t + 1
        return [self._checked(next(self.results)) for _ in chunks(t)]

    def decode(self, chunk: Chunk) -> Decoded:
        """One chunk, made in this process."""
        return self._checked(self.cropper[chunk])

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
    def running(self) -> Iterator["ImageLoader"]:
        """Around all that asks for batches: ends the workers afterwards. Raises UserError if one of them was killed."""
        try:
            yield self
        except (RuntimeError, *LOST) as error:  # torch raises it from a signal's handler, in the middle of anything
            if self.loader is None or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                raise
            for _ in range(self.workers + 1):  # that handler may raise once more for each worker, also in here
                with suppress(RuntimeError):
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise UserError(f"--workers {self.workers}: a worker process died; {_REMEDY}") from None
        finally:
            self.close()

    def close(self) -> None:
        """End the workers."""
        self.loader = self.results = self.expected = None  # a DataLoader ends them when nothing refers to it

    def _open(self) -> DataLoader:
        # More than the queues need: where there is no room, torch's own half-made ones leave a traceback.
        [Lock() for _ in range(16 + 4 * self.workers if self.workers else 0)]
        several = {"prefetch_factor": AHEAD, "persistent_workers": True} if self.workers else {}
        return DataLoader(
            self.cropper,
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
            worker_init_fn=_begin,
            **several,
        )

    def _checked(self, decoded: Decoded) -> Decoded:
        for path, problem in decoded.damaged:
            if not self.skip_corrupt:
                raise UserError(f"{path}: not a readable image ({problem}); replace it, or give --skip_corrupt")
            if path not in self.named:
                stderr = sys.__stderr__ if rank() else sys.stderr  # which the others hold back
                print(f"skipped, not a readable image: {path} ({problem})", file=stderr)
            self.named.add(path)
        self.skipped += len(decoded.damaged)
        return decoded


class LoaderFlags(Protocol):
    """The flags of a recipe that are read here."""

    img_size: int
    manualSeed: int
    workers: int
    skip_corrupt: bool


def open_loader(args: LoaderFlags, device: torch.device) -> AbstractContextManager[ImageLoader]:
    """The loader of a recipe, see `ImageLoader.running`."""
    return ImageLoader(args.img_size, args.manualSeed, args.workers, args.skip_corrupt, device).running()


def _begin(worker: int) -> None:
    """Ctrl-C and SIGTERM may reach the workers, too; ending them is the main process's business, and needs no trace.

    After SIGTERM, by which Python ends what is left of them, they live on for the step that a run still finishes. On
    Linux they end with that process even if it is killed: by their copies of its connections other ranks would not
    notice. A worker that can't pass its crops on, as /dev/shm is full, ends: they would be awaited for ever.
    """
    queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))

"""Ctrl-C, SIGTERM and the time limit: a training run ends between two steps, everything else at once."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType
from typing import NoReturn, TypeVar

from utils.ranks import rank, world_size
from utils.signs import SIGNS

T = TypeVar("T")
REASONS = {  # SIGHUP: the terminal was closed; SIGUSR1: Slurm's --signal
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "interrupted (SIGTERM)",
    signal.SIGHUP: "interrupted (SIGHUP)",
    signal.SIGUSR1: "interrupted (SIGUSR1)",
}
TIME_IS_UP = 124  # exit code of `timeout`; after a signal it is that of shells, 128 + its number
REPEATED = 0.5  # seconds within which a signal is no second one: GNU's timeout and Slurm's srun send it twice
# --overwrite would delete the checkpoint, and --resume of a copy go back to that.
GOES_ON = "give the same command again, without --overwrite or --resume of a copy; what is saved stays"
RANKS_GO_ON = "the same command, without --overwrite, continues from the last whole epoch"


class Stopped(Exception):
    """A run ends early, and its state is saved; code: of exit; the message: one line that says how it goes on."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Due(Exception):
    """The run is to end here, between two steps or two batches of an evaluation, where its state is whole."""


def end_at_once(code: int, line: str = "") -> NoReturn:
    """Print `line` on stderr, and end the process without taking Python down first.

    Nothing is raised, wherever a signal comes; files are whole at any moment (see `files.replacing`). And a thread of
    gloo that let go of its last tensor while Python ends would abort it.
    """
    with suppress(ValueError):  # in a thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, to the processes that are left
    with suppress(OSError, ValueError, RuntimeError):  # what can't be written any more, or is being written to
        sys.stdout.flush()
    if line:
        who = f"rank {rank()}: " if rank() else ""
        with suppress(OSError):
            os.write(2, f"{who}{line}\n".encode(errors="backslashreplace"))
    os._exit(code)


def end_with_parent(number: int) -> None:
    """On Linux this process gets a signal when the one that has started it ends, even if that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def end_on_signals(goes_on: str = GOES_ON) -> None:
    """From here on a signal ends the program at once. goes_on: what to do then, in words."""

    def handle(number: int, _: FrameType | None) -> NoReturn:
        reason = REASONS[signal.Signals(number)]
        if number == signal.SIGTERM and world_size() > 1:
            reason += ", which torchrun sends where another process of the run has ended"
        end_at_once(128 + number, f"{reason}: {goes_on}")

    handle_signals(handle)


def handle_signals(handle: Callable[[int, FrameType | None], object]) -> None:
    """Have signals handled; SIGHUP not where nohup has it ignored."""
    for number in REASONS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REASONS)


def block_signals() -> None:
    """They wait until `handle_signals`, also in a program that replaces this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, REASONS)


class Stop:
    """When a run is to end: after the first signal, or after `minutes` (None: never).

    signal: the number of the first one, None for none yet. Under torchrun only the time counts; a signal ends the
    process at once, for the ranks are not at the same step, and torchrun gives them little time.
    """

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else monotonic() + 60 * minutes
        self.signal: int | None = None

    @property
    def time_is_up(self) -> bool:
        return self.end is not None and monotonic() >= self.end

    @property
    def code(self) -> int:
        """Of exit."""
        return TIME_IS_UP if self.signal is None else 128 + self.signal

    @property
    def reason(self) -> str:
        return "--time_limit over" if self.signal is None else REASONS[signal.Signals(self.signal)]

    @contextmanager
    def after_first_signal(self) -> Iterator[None]:
        """Within, the first signal is noted; a second one, later than REPEATED, ends the process at once."""
        first = 0.0

        def handle(number: int, _: FrameType | None) -> None:
            nonlocal first
            if self.signal is None:
                self.signal, first = number, monotonic()
            elif monotonic() - first >= REPEATED:
                end_at_once(128 + number, f"{REASONS[signal.Signals(number)]}, once more: {GOES_ON}")

        if world_size() == 1:
            handle_signals(handle)
        try:
            yield
        finally:
            end_on_signals()

    def check(self, timed: bool = True) -> None:
        """Raise Due if the run is to end; with timed False after a signal only. Under torchrun nothing is raised, and
        the other ranks learn that this one gets on.
        """
        SIGNS.worked += 1
        if world_size() == 1 and (self.signal is not None or (timed and self.time_is_up)):
            raise Due

    def checked(self, batches: Iterable[T], timed: bool = True) -> Iterator[T]:
        """The batches, with a check before each."""
        for batch in batches:
            self.check(timed)
            yield batch

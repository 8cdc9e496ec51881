"""Ctrl-C, SIGTERM and the time limit of a training run: it ends between two steps, when its state can be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from utils.errors import EXIT_CODES, Interrupted
from utils.ranks import world_size

REPEATED = 0.5  # seconds within which the same signal is no second one: GNU's timeout and Slurm's srun send it twice


class Halt(KeyboardInterrupt):
    """The run is to end here, between two steps, where its state is whole."""


class Interrupts:
    """Within, the first signal is noted, for `check` between two steps to raise Halt; a second one (the same one again
    only after REPEATED) raises Interrupted at once, or after a write, see `held`. minutes: after which the run gets one
    by itself (SIGALRM), None for never; a signal may follow on that.

    Under torchrun signals raise Interrupted at once, for the ranks are not at the same step, and torchrun gives them
    little time; the time limit is noted, and nothing here raises for it (see `fit`).
    came: the number of the latest signal, None for none yet.
    """

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.came, self.at, self.alone = minutes, None, 0.0, world_size() == 1
        self.breaking: tuple[int, ...] = ()  # signals that raise Halt wherever they come
        self.holding, self.late = False, None  # whether nothing may be raised; the signal that would have been

    def __enter__(self) -> "Interrupts":
        self.before = {number: signal.signal(number, self._handle) for number in EXIT_CODES}
        signal.setitimer(signal.ITIMER_REAL, 60 * (self.minutes or 0))
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Halt if a signal has come."""
        if self.came and self.alone:
            raise Halt

    @contextmanager
    def between(self, alarm: bool) -> Iterator[None]:
        """Around what takes long and changes nothing that is saved: a signal raises Halt right there, and with `alarm`
        so does the time limit. (It must not where a process would end without having done anything.)
        """
        self.breaking = tuple(number for number in EXIT_CODES if alarm or number != signal.SIGALRM)
        try:
            if self.came in self.breaking:
                self.check()
            yield
        finally:
            self.breaking = ()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around a write: what a signal would raise at once is raised after it. (In the middle of torch.save it would
        end in an error of the writer's.)"""
        self.breaking, self.holding, self.late = (), True, None
        try:
            yield
        finally:
            self.holding = False
        if self.late is not None:
            raise Interrupted(self.late)

    def _handle(self, number: int, _: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # where a signal has come, no time limit is needed
        now = monotonic()
        if (number == self.came and now - self.at < REPEATED) or (number == signal.SIGALRM and self.came):
            return
        second = self.came in (signal.SIGINT, signal.SIGTERM)
        self.came, self.at = number, now
        if second or not (self.alone or number == signal.SIGALRM):
            if not self.holding:
                raise Interrupted(number)
            self.late = number
        if number in self.breaking:
            self.check()

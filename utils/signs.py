"""What this process tells the others of a run under torchrun: that it gets on, or that it waits for them."""

from collections.abc import Iterator
from contextlib import contextmanager


class Signs:
    """waits: whether the process waits for others now; entered: how often it has begun to; worked: a number that grows
    while it works; watched: whether a thread tells the others; looks: how often it has looked at
    their signs.
    """

    def __init__(self) -> None:
        self.waits, self.entered, self.worked, self.watched = False, 0, 0, False
        self.looks = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, the process waits for others."""
        self.waits, self.entered = True, self.entered + 1
        try:
            yield
        finally:
            self.waits = False


SIGNS = Signs()

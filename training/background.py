"""Work on a thread beside the training: what an epoch leaves in its folder."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """One job at a time, on a thread. What follows it runs on the thread that waits for the job or checks it."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "saving")
        self.job: tuple[Future[None], Callable[[], None]] | None = None

    def start(self, job: Callable[[], None], then: Callable[[], None]) -> None:
        """Not before the one before it has been waited for."""
        assert self.job is None
        self.job = self.pool.submit(job), then

    def check(self) -> None:
        """If the job is over: do what follows it, or raise what it has raised."""
        if self.job is not None and self.job[0].done():
            self.wait()

    def wait(self) -> None:
        """Until the job is over; as `check` then."""
        if self.job is not None:
            (job, then), self.job = self.job, None
            job.result()
            then()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, *_: object) -> None:
        """Wait. Where an error ends the run, that of the job is raised in its place: it says what is saved."""
        self.pool.shutdown()
        self.wait()

"""Mistakes a user can make end in one line on stderr and exit code 2, never in a traceback."""

import signal


class UserError(Exception):
    """A mistake of the user's; the message names the flag or file and the remedy, in one line."""


# --overwrite would delete the checkpoint, and --resume of a copy go back to that.
LEFT = "a training run goes on from its last checkpoint by the same command, without --overwrite or --resume of a copy"


class Interrupted(KeyboardInterrupt):
    """A signal ends the program: its number, and what that leaves, in words."""

    def __init__(self, number: int, left: str = LEFT):
        super().__init__(number)
        self.number, self.left = number, left


# Exit codes after a signal: those that shells give; after the alarm of --time_limit that of `timeout`.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGALRM: 124}
REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "interrupted (SIGTERM)", signal.SIGALRM: "--time_limit over"}

"""Mistakes a user can make end in one line on stderr and exit code 2, never in a traceback."""


class UserError(Exception):
    """A mistake of the user's; the message names the flag or file and the remedy, in one line."""

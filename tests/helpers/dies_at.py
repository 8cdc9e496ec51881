"""A training script whose process kills itself before step T, or stops for ever; under torchrun that of one rank does.

python tests/helpers/dies_at.py RANK T SCRIPT FLAG...            by SIGKILL
python tests/helpers/dies_at.py RANK T:SIGSTOP SCRIPT FLAG...
With Tx2 in place of T where it comes there for the second time.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])  # for a process of its own

from helpers.places import saved_at_once, watched
from utils.ranks import rank

ROOT = Path(__file__).parents[2]


def main() -> None:
    dying, when, script, *flags = sys.argv[1:]
    last, _, name = when.partition(":")
    step, _, times = last.partition("x")
    left = int(times or 1)

    def at(place: str) -> None:
        nonlocal left
        left -= (rank(), place) == (int(dying), f"step {step}")
        if left == 0:
            os.kill(os.getpid(), signal.Signals[name or "SIGKILL"])

    sys.argv = [script, *flags]
    with watched(at), saved_at_once():
        runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main()

"""A training script that gets signals where it is told: "step 2" "SIGINT 0.6 SIGTERM", names of signals and seconds
between them. Each place counts once; places: see helpers.places.

python tests/helpers/signalled.py PLACE SIGNALS SCRIPT FLAG...
"""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])  # for a process of its own

from helpers.places import saved_at_once, watched

ROOT = Path(__file__).parents[2]


def main() -> None:
    wanted, signals, script, *flags = sys.argv[1:]
    left = {wanted: signals.split()}

    def at(place: str) -> None:
        for word in left.pop(place, []):
            if word.startswith("SIG"):
                os.kill(os.getpid(), signal.Signals[word])
            else:
                time.sleep(float(word))

    sys.argv = [script, *flags]
    with watched(at), saved_at_once():
        runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main()

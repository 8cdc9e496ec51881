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
from unittest.mock import patch

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])  # for a process of its own

from helpers.places import watched
from training.background import Background

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
    # So that it is known when a signal from the thread that saves comes: before the second step of the next epoch.
    with watched(at), patch.object(Background, "check", Background.wait):
        runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main()

"""A training script whose process kills itself, by SIGKILL, before step T; under torchrun that of one rank does.

python tests/helpers/dies_at.py RANK T SCRIPT FLAG...
"""

import os
import runpy
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # for a process of its own

import training.loop
from utils.ranks import rank

ROOT, FIT = Path(__file__).parent.parent.parent, training.loop.fit


def main() -> None:
    dying, last, script, *flags = sys.argv[1:]

    def fit(step, batches, *rest, **others):
        original = batches.draw

        def draw(t):
            if (rank(), t) == (int(dying), int(last)):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(t)

        batches.draw = draw
        FIT(step, batches, *rest, **others)

    training.loop.fit = fit
    sys.argv = [script, *flags]
    runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main()

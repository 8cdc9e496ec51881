"""How long the stages of a training within given minutes are: from the time that a step takes here.

Shape legend: N images.
"""

import math
from typing import NamedTuple

from utils.errors import UserError

# Costs of a step, those of FixMatch's being 1: labelled-only goes through a third of the images; co-learning has the
# features of two more batches.
COSTS = {"supervised": 0.37, "fix": 1.0, "cossl": 1.2}
EVALUATIONS = 0.1  # share of the time, at most
FEWEST = 20  # steps of co-learning


class Lengths(NamedTuple):
    """Steps of stage 1 and of stage 2, and epochs of each."""

    steps: int
    steps_cossl: int
    epochs: int

    def by_part(self, parts: list[str]) -> dict[str, int]:
        """Steps of each part, in whole epochs; labelled-only training is as long as the others together."""
        both = self.steps + (self.steps_cossl if "fix" not in parts or "cossl" in parts else 0)
        found = {"supervised": both, "fix": self.steps, "cossl": self.steps_cossl}
        return {part: self.epochs * (found[part] // self.epochs) for part in parts}


class Speed(NamedTuple):
    """Measured here, in seconds: step: of FixMatch; evaluation: of the tested part; start: of a script; image: of one
    forward pass, decoding included.
    """

    step: float
    evaluation: float
    start: float
    image: float


def fixed_seconds(speed: Speed, labelled: int, unlabelled: int, tested: int) -> float:
    """What doesn't depend on the number of steps: starts, features for the floor, co-learning's warm-up, and the
    gallery; of numbers of images.
    """
    passes = (labelled + unlabelled + tested) + 2 * (labelled + unlabelled) + unlabelled
    return 6 * speed.start + passes * speed.image


def lengths(
    seconds: float, speed: Speed, fixed: float, parts: list[str], given: tuple[int | None, int | None, int | None]
) -> tuple[Lengths, float]:
    """As many steps as the time allows, two thirds of them in stage 1; and seconds until all is done.

    fixed: see `fixed_seconds`, and what was spent before; parts: of `supervised`, `fix` and `cossl` those that are
    trained; given: steps of both stages and epochs, where they don't depend on the time. Where only labelled-only
    training runs, steps of stage 1 that are given alone are all of it. An epoch has one step or more. Raises UserError
    if the time leaves hardly any step.
    """
    rest = seconds - fixed
    epochs = given[2] or max(1, min(10, int(EVALUATIONS * rest / (len(parts) * speed.evaluation))))
    whole = 2 if "fix" in parts and "cossl" not in parts else 3  # of 3 steps, 2 in stage 1
    thirds = {"supervised": whole, "fix": 2, "cossl": 1}
    cost = speed.step * sum(thirds[part] * COSTS[part] for part in parts)
    third = (rest - epochs * len(parts) * speed.evaluation) / cost
    if third < FEWEST and not given[0]:
        least = math.ceil((fixed + (given[2] or 1) * len(parts) * speed.evaluation + FEWEST * cost) / 60 * 1.1)
        fewer = ", fewer --evaluations" if given[2] else ""
        problem = "leaves hardly any step on this machine"
        raise UserError(f"--minutes: {problem}; give {least} or more{fewer}, or a smaller --img_size")
    first = given[0] or int(2 * third)
    second = given[1] or (0 if given[0] and parts == ["supervised"] else max(1, first // 2))
    epochs = min(epochs, first, second if "cossl" in parts else first)
    found = Lengths(first, second, epochs)
    trained = speed.step * sum(n * COSTS[part] for part, n in found.by_part(parts).items())
    return found, fixed + trained + epochs * len(parts) * speed.evaluation


def decay(steps: int) -> float:
    """Of the moving average: it looks back over a tenth of stage 1, at most over the published 1,000 steps."""
    return round(min(0.999, max(0.9, 1 - 10 / steps)), 4)

"""Figures of several runs: mean, standard deviation and number; and how two of them differ."""

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple


class Figure(NamedTuple):
    """mean, sd: percent; sd: None where not known; n: runs."""

    mean: float
    sd: float | None
    n: int


def figure_of(values: Iterable[float | None]) -> Figure | None:
    """Mean, sample standard deviation (n - 1; None for one value) and n; None if a run has no such figure."""
    values = list(values)
    if any(value is None for value in values):
        return None
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def standard_error(a: Figure, b: Figure) -> float | None:
    """Of the difference of two means: sqrt(s_a^2 / n_a + s_b^2 / n_b). Where one standard deviation isn't known, the
    other stands for both; None if neither is.
    """
    a_sd, b_sd = a.sd if a.sd is not None else b.sd, b.sd if b.sd is not None else a.sd
    if a_sd is None or b_sd is None:
        return None
    return math.sqrt(a_sd**2 / a.n + b_sd**2 / b.n)


def difference(measured: Figure, paper: Figure, budget: str) -> str:
    """Measured minus published in points, and whether it is within two standard errors of the difference.

    Two decimals, or as many as it takes to see which of the two is larger.
    """
    points, error, digits = measured.mean - paper.mean, standard_error(measured, paper), 2
    if error is None:
        mark = "spread not known"
    else:
        within = abs(points) <= 2 * error
        while (round(abs(points), digits) <= round(2 * error, digits)) != within:
            digits += 1
        mark = f"{'within' if within else 'outside'} ±{2 * error:.{digits}f}"
    if budget:
        mark += f"; other budget: {budget}"
    return f"{round(points, digits) + 0.0:+.{digits}f} ({mark})"

"""Lengths of the stages out of the time that is there."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.plan import COSTS, FEWEST, Speed, decay, fixed_seconds, lengths
from utils.errors import UserError

NONE = (None, None, None)
ALL = ["supervised", "fix", "cossl"]


def cost(found, speed, parts):
    """Seconds, added up step by step."""
    seconds = len(parts) * found.epochs * speed.evaluation
    for part, n in found.by_part(parts).items():
        seconds += n * speed.step * COSTS[part]
    return seconds


@settings(deadline=None, derandomize=True)
@given(
    st.floats(100, 1e5),
    st.floats(1e-3, 1),
    st.floats(0.1, 60),
    st.sampled_from([ALL, ALL[1:], ALL[:1]]),
    st.floats(0, 50),
)
def test_the_time_is_used_and_not_more(seconds, step, evaluation, parts, fixed):
    speed = Speed(step, evaluation, 5, 0.01)
    try:
        found, told = lengths(seconds, speed, fixed, parts, NONE)
    except UserError as error:
        least = fixed + len(parts) * evaluation + FEWEST * step
        assert seconds < 10 * least
        told = int(re.search(r"give (\d+) or more", str(error))[1])
        assert told >= 1 and lengths(60 * told, speed, fixed, parts, NONE)
        return
    assert told == pytest.approx(fixed + cost(found, speed, parts))
    assert seconds - (5 + 3 * found.epochs) * step <= told <= seconds + 5 * step
    assert abs(found.steps - 2 * found.steps_cossl) <= 1 and 1 <= found.epochs <= 10


def test_evaluations_take_a_tenth_of_the_time_at_most():
    speed = Speed(step=0.1, evaluation=20, start=1, image=0.01)
    for minutes in (30, 60, 200):
        found, _ = lengths(60 * minutes, speed, 0, ALL, NONE)
        assert found.epochs == 1 or 3 * found.epochs * 20 <= 6 * minutes


def test_labelled_only_training_is_as_long_as_the_rest():
    found, _ = lengths(600, Speed(0.1, 1, 1, 0.01), 7, ALL, (100, 30, 2))
    assert found.by_part(ALL) == {"supervised": 130, "fix": 100, "cossl": 30}
    assert found.by_part(ALL[:2]) == {"supervised": 100, "fix": 100}
    assert found.by_part(ALL[:1]) == {"supervised": 130}
    assert found._replace(epochs=4).by_part(ALL)["cossl"] == 28  # whole epochs


def test_what_is_given_counts():
    speed = Speed(0.1, 1, 1, 0.01)
    found, seconds = lengths(1, speed, 7, ALL, (100, 30, 2))  # whatever the time
    assert found[:3] == (100, 30, 2) and seconds == pytest.approx(7 + cost(found, speed, ALL))
    assert lengths(600, speed, 7, ALL, (100, None, None))[0].steps_cossl == 50


def test_steps_that_are_given_are_all_where_no_stage_is_trained():
    speed = Speed(0.1, 1, 1, 0.01)
    assert lengths(600, speed, 7, ALL[:1], (100, None, 1))[0].by_part(ALL[:1]) == {"supervised": 100}
    assert lengths(600, speed, 7, ALL[:1], (100, 30, 1))[0].by_part(ALL[:1]) == {"supervised": 130}


@pytest.mark.parametrize("epochs", [None, 10])
def test_an_epoch_has_a_step_in_both_stages(epochs):
    found, _ = lengths(600, Speed(0.1, 1, 1, 0.01), 7, ALL, (100, 5, epochs))
    assert found.epochs == 5 and found.by_part(ALL) == {"supervised": 105, "fix": 100, "cossl": 5}
    found, _ = lengths(600, Speed(0.1, 1, 1, 0.01), 7, ALL[:2], (6, None, epochs))
    assert found.epochs == 6
    found, _ = lengths(600, Speed(0.1, 1, 1, 0.01), 7, ALL[1:], (1, None, epochs))
    assert found[:3] == (1, 1, 1)


def test_too_little_time_is_refused_with_what_is_enough():
    speed = Speed(1, 10, 10, 0.01)
    with pytest.raises(UserError, match=r"--minutes: .*give (\d+)") as found:
        lengths(60, speed, 60, ALL, NONE)
    enough = int(str(found.value).split("give ")[1].split()[0])
    assert lengths(60 * enough, speed, 60, ALL, NONE)[0].steps_cossl >= FEWEST


def test_the_average_looks_back_over_a_tenth():
    assert [decay(n) for n in (10, 100, 1000, 10_000, 10**6)] == [0.9, 0.9, 0.99, 0.999, 0.999]


def test_what_does_not_depend_on_steps_grows_with_the_images():
    speed = Speed(1, 1, start=2, image=0.5)
    assert fixed_seconds(speed, 0, 0, 0) == 12
    assert fixed_seconds(speed, 10, 100, 7) == 12 + 0.5 * ((10 + 100 + 7) + 2 * (10 + 100) + 100)

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.statistics.steps import key_steps, phases


def test_fifty_steps_have_the_documented_key_steps_and_phases():
    documented = (0, 5, 10, 12, 15, 16, 19, 22, 25, 28, 31, 34, 37, 39, 44, 49, 50)
    assert key_steps(50) == documented
    assert phases(50) == {"early": range(16), "mid": range(16, 34), "late": range(34, 51)}


@given(st.integers(1, 2000))
def test_any_number_of_steps(num_steps):
    steps = key_steps(num_steps)
    assert list(steps) == sorted(set(steps))
    assert {0, num_steps // 4, num_steps // 2, 3 * num_steps // 4, num_steps} <= set(steps)
    assert max(b - a for a, b in pairwise(steps)) <= 5
    covered = [step for phase in phases(num_steps).values() for step in phase]
    assert covered == list(range(num_steps + 1))


def test_no_steps_is_an_error():
    with pytest.raises(ValueError, match="got 0"):
        key_steps(0)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.advice.methods.range import (
    clips_at_tails,
    range_rule,
    reasons_of_range,
)


@given(st.floats(-100, 100), st.floats(0, 30), st.floats(0, 30))
def test_range_rule_is_the_old_scripts(p01, width, std):
    p99 = p01 + width
    central = p99 - p01
    bits = 8 if central > 10 else 6 if central > 5 else 4
    if central > 0 and std / central > 0.5:
        bits = min(bits + 2, 8)
    if central > 0:
        assert range_rule(np.array(std), np.array(p01), np.array(p99)) == bits


@pytest.mark.parametrize(
    ("width", "std", "bits"),
    [
        (5.0, 1, 4),
        (5.001, 1, 6),
        (10.0, 1, 6),
        (10.001, 1, 8),
        (4.0, 2.0, 4),
        (4.0, 2.001, 6),
        (8.0, 4.1, 8),
        (20.0, 11.0, 8),
        (0.0, 0.0, 4),
    ],
)
def test_range_rule_at_its_limits(width, std, bits):
    assert range_rule(np.array(std), np.array(0.0), np.array(width)) == bits


@given(st.floats(-50, 0), st.floats(0, 50), st.floats(0, 50), st.floats(0, 50))
def test_rule_clips_where_the_tails_are_a_tenth_of_the_range(p01, p99, below, above):
    low, high = p01 - below, p99 + above
    if high > low:
        expected = (p99 - p01) / (high - low) < 0.9
        actual = clips_at_tails(np.array(low), np.array(high), np.array(p01), np.array(p99))
        assert actual == expected or (p99 - p01) / (high - low) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("low", "high", "std", "p01", "p99", "parts"),
    [
        (-10, 10, 1, -6, 6, ["p99 - p01 is 12, over 10", ": 8 bits", "0.60 of the range"]),
        (-4, 4, 1, -3.9, 3.9, ["p99 - p01 is 7.8, over 5", ": 6 bits"]),
        (-1, 1, 0.2, -0.95, 0.95, ["p99 - p01 is 1.9, not over 5", ": 4 bits"]),
        (-1, 1, 0.99, -0.95, 0.95, ["standard deviation 0.99 is over 0.5 of that", ": 6 bits"]),
    ],
)
def test_range_quotes_what_the_old_rule_looked_at(low, high, std, p01, p99, parts):
    arrays = [np.array([float(own)]) for own in (low, high, std, p01, p99)]
    (text,) = reasons_of_range(*arrays, range_rule(*arrays[2:]))
    for part in parts:
        assert part in text
    assert ("clipped there" in text) == ((p99 - p01) / (high - low) < 0.9)
    assert ("standard deviation" in text) == (std / (p99 - p01) > 0.5)

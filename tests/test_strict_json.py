import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr import strict_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(content=_VALUES, indent=st.none() | st.integers(0, 3), ensure_ascii=st.booleans())
def test_what_is_not_finite_is_null_and_all_else_stays(content, indent, ensure_ascii):
    text = strict_json.dumps(content, indent=indent, ensure_ascii=ensure_ascii)
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(read) == repr(_expected(content))


def _expected(content):
    """By Python's own writer, whose names for what is not finite are read as None."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)


def test_tuples_are_lists():
    assert strict_json.dumps({"a": (1.5, math.inf)}) == '{"a": [1.5, null]}'

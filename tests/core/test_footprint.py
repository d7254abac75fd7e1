"""What is accounted for a value is no less than it takes, and not many times as much, however it is shaped."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.core import strict_json
from authz_service.core.footprint import footprint
from support.shapes import SHAPES

MOST = 6.0  # times what it takes: of small numbers Python keeps one for all


def taken(text: str) -> tuple[int, Any]:
    """Bytes that a parsed value takes, and the value."""
    data = text.encode()
    strict_json.loads(data)  # whatever is made once for all
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        value = strict_json.loads(data)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, value


@pytest.mark.parametrize("shape", SHAPES)
def test_of_every_shape_what_is_accounted_is_what_it_takes_and_not_much_more(shape: str) -> None:
    took, value = taken(SHAPES[shape](12_000))
    assert took <= footprint(value) <= MOST * took


def test_the_text_of_a_value_says_little_about_what_it_takes() -> None:
    """Why the members are counted: the same length of text, and more than thirty times the memory."""
    small, large = (footprint(json.loads(SHAPES[shape](12_000))) for shape in ("one text", "nested objects"))
    assert large > 30 * small


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=8),
    max_leaves=60,
)


@settings(max_examples=60, deadline=None)
@given(_VALUES)
def test_no_value_takes_more_than_is_accounted(value: Any) -> None:
    took, parsed = taken(json.dumps({"claim": value}))
    assert took <= footprint(parsed) + 64  # what the parser keeps for itself

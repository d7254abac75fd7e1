"""The footprint of a value is never less than the memory it takes, and not many times as much, whatever its shape."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.core import strict_json
from authz_service.core.footprint import footprint
from support.json_shapes import SHAPES

MAX_FACTOR = 6.0  # Python shares small numbers, which the footprint counts each time


def memory_of(text: str) -> tuple[int, Any]:
    """Bytes that a parsed value takes, and the value."""
    data = text.encode()
    strict_json.loads(data)  # so that what is created once is not measured
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        value = strict_json.loads(data)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, value


@pytest.mark.parametrize("shape", SHAPES)
def test_the_footprint_of_every_shape_is_at_least_its_memory_and_not_much_more(shape: str) -> None:
    used, value = memory_of(SHAPES[shape](12_000))
    assert used <= footprint(value) <= MAX_FACTOR * used


def test_the_length_of_the_json_says_little_about_the_memory() -> None:
    """Why objects are counted: the same length, and more than thirty times the memory."""
    small, large = (footprint(json.loads(SHAPES[shape](12_000))) for shape in ("one string", "nested objects"))
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
def test_no_value_takes_more_than_its_footprint(value: Any) -> None:
    used, parsed = memory_of(json.dumps({"claim": value}))
    assert used <= footprint(parsed) + 64  # that the parser keeps

"""What a provider's answers say about time; how they are fetched is proved with the key sources."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.providers.client import retry_after

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("120", 120),
        ("999999999999999999999", 999999999),
        ("-5", 0),
        ("1.5", 0),
        ("\u0661", 0),
        ("soon", 0),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120),
        ("Friday, 15-Jan-27 08:02:00 GMT", 120),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 99 Jan 2027 08:02:00 GMT", 0),
        ("Fri, 15 Jan 99999 08:02:00 GMT", 0),
        ("Fri, 15 Jan 99999999999 08:02:00 GMT", 0),
        ("Fri, 15 Jan 2027 99999999999:02:00 GMT", 0),
        ("Fri, 15 Jan 2027 08:02:00 +99999999999999999999", 0),
    ],
)
def test_a_time_to_wait_is_read_in_both_forms(value: str, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_time_to_wait_is_a_number_of_seconds(value: str) -> None:
    assert 0 <= retry_after(value, NOW) < math.inf

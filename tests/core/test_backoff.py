"""Delays double up to a maximum, and jitter spreads them evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import backoff


def test_the_delay_doubles_with_each_failure_up_to_the_maximum() -> None:
    delays = [backoff.exponential(failures, initial=1.0, maximum=30.0) for failures in range(8)]
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@given(st.integers(), st.floats(0.001, 10.0), st.floats(0.001, 1e9))
def test_no_number_of_failures_exceeds_the_maximum(failures: int, initial: float, maximum: float) -> None:
    assert 0.0 <= backoff.exponential(failures, initial=initial, maximum=maximum) <= maximum


@pytest.mark.parametrize(("random", "delay"), [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)])
def test_jitter_spreads_a_delay_by_a_tenth_in_either_direction(random: float, delay: float) -> None:
    assert backoff.with_jitter(10.0, random) == pytest.approx(delay)

"""A kid counts as absent for longer each time, never for good, and the memory of them is bounded."""

from __future__ import annotations

import pytest

from authz_service.keys.absent_kids import MAX_KIDS, AbsentKids


def test_a_kid_counts_as_absent_for_twice_as_long_each_time_up_to_a_limit() -> None:
    kids, now, ttls = AbsentKids(30.0, 200.0), 1000.0, []
    for _ in range(5):
        kids.add("a", now)
        ttl = next(ttl for ttl in range(1, 1000) if not kids.has("a", now + ttl))
        ttls.append(ttl)
        now += ttl
    assert ttls == [30, 60, 120, 200, 200]


def test_the_first_time_is_the_shortest_even_where_the_limit_is_lower() -> None:
    kids = AbsentKids(30.0, 1.0)
    for now in (0.0, 100.0):
        kids.add("a", now)
        assert kids.has("a", now + 29.0)
        assert not kids.has("a", now + 30.0)


@pytest.mark.parametrize("now", [-1e9, 999.0])
def test_a_kid_does_not_count_as_absent_when_the_clock_was_set_back(now: float) -> None:
    kids = AbsentKids(30.0, 300.0)
    kids.add("a", 1000.0)
    assert not kids.has("a", now)


def test_no_number_of_kids_takes_more_than_the_bounded_memory_and_the_oldest_is_evicted() -> None:
    kids = AbsentKids(30.0, 300.0)
    for number in range(2 * MAX_KIDS):
        kids.add(str(number), 0.0)
    assert len(kids) == MAX_KIDS
    assert not kids.has(str(MAX_KIDS - 1), 0.0)
    assert kids.has(str(MAX_KIDS), 0.0)

"""A map holds no more than its two bounds, whatever is put in and however it grows; large ones displace large ones."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz_service.core.bounded import HEAVY, NOTHING, Account, BoundedMap, Bounds


class Value:
    """Something that may be held weakly, and has an account as claims have."""

    def __init__(self) -> None:
        self.account = Account()


def _borne(kept: BoundedMap[str, Value], name: str) -> Value:
    value = Value()
    kept.put(name, value, 10)
    value.account.open(kept, name)
    value.account.charge(1)
    return value


def filled(bounds: Bounds, **sizes: int) -> BoundedMap[str, str]:
    made: BoundedMap[str, str] = BoundedMap(bounds)
    for name, size in sizes.items():
        made.put(name, name.upper(), size)
    return made


def test_the_oldest_makes_way_for_the_number_and_for_the_bytes() -> None:
    assert list(filled(Bounds(2, 100), a=1, b=1, c=1)) == ["b", "c"]
    assert list(filled(Bounds(9, 100), a=40, b=40, c=40)) == ["b", "c"]


def test_what_is_put_in_again_is_the_youngest_and_costs_what_it_costs_now() -> None:
    kept = filled(Bounds(3, 100), a=10, b=10, c=10)
    kept.put("a", "other", 50)
    assert kept.get("a") == "other"
    assert (kept.used_bytes, kept.size("a")) == (70, 50)
    kept.put("d", "D", 1)
    assert list(kept) == ["c", "a", "d"]


@pytest.mark.parametrize("bounds", [NOTHING, Bounds(0, 100), Bounds(10, 0), Bounds(10, 4)])
def test_what_does_not_fit_at_all_is_not_kept(bounds: Bounds) -> None:
    kept = filled(bounds, a=5)
    assert (len(kept), kept.used_bytes, kept.get("a")) == (0, 0, None)


def test_large_entries_displace_large_ones_and_leave_half_of_the_bytes_to_the_rest() -> None:
    kept: BoundedMap[str, int] = BoundedMap(Bounds(100, 10_000))
    for number in range(50):
        kept.put(f"small-{number}", number, 100)  # half of the bytes, and the oldest
    large = HEAVY * 100 + 1
    for number in range(1000):
        kept.put(f"large-{number}", number, large)
    assert sum(name.startswith("small") for name in kept) == 50
    assert sum(name.startswith("large") for name in kept) == 5000 // large
    assert "large-999" in kept


def test_where_all_entries_are_large_they_may_have_all_of_the_bytes() -> None:
    kept: BoundedMap[str, int] = BoundedMap(Bounds(100, 10_000))
    for number in range(100):
        kept.put(f"large-{number}", number, 1000)
    assert len(kept) == 10
    for number in range(60):
        kept.put(f"small-{number}", number, 100)  # until the large ones have no more than their half
    assert sorted({name.split("-")[0] for name in kept}) == ["large", "small"]
    assert sum(kept.size(name) for name in kept if name.startswith("large")) == 5000


def test_an_entry_that_grows_counts_for_more_and_may_displace_others_and_itself() -> None:
    kept = filled(Bounds(10, 100), a=20, b=20, c=20)
    kept.grow("c", 10)
    assert kept.used_bytes == 70
    kept.grow("c", 40)  # now it is heavy, and takes more than its half
    assert list(kept) == ["a", "b"]
    kept.grow("c", 10)
    assert kept.used_bytes == 40


def test_an_account_charges_the_entry_that_bears_it_and_refunds_what_it_charged() -> None:
    value = Value()
    kept: BoundedMap[str, Value] = BoundedMap(Bounds(10, 1000))
    kept.put("a", value, 100)
    value.account.open(kept, "a")
    assert value.account.charged_to is kept
    value.account.charge(50)
    value.account.charge(7)
    assert (value.account.charged, kept.size("a"), kept.used_bytes) == (57, 157, 157)
    value.account.refund()
    assert (value.account.charged, kept.size("a"), kept.used_bytes) == (0, 100, 100)


def test_an_account_that_nobody_bears_or_bears_no_longer_may_be_charged_all_the_same() -> None:
    account = Account()
    account.charge(5)
    assert account.charged == 5
    kept: BoundedMap[str, Value] = BoundedMap(Bounds(10, 1000))
    account.open(kept, "gone")
    account.charge(5)
    assert kept.used_bytes == 0
    del kept
    assert account.charged_to is None
    account.charge(5)
    assert account.charged == 15


def test_an_entry_that_makes_way_is_freed_at_once_and_so_is_a_map_that_nobody_uses() -> None:
    """Without waiting for the collector of cycles: a cache's garbage would be as large as the cache."""
    gc.collect()
    gc.disable()
    try:
        kept: BoundedMap[str, Value] = BoundedMap(Bounds(1, 1000))
        seen: list[weakref.ref[Any]] = [weakref.ref(_borne(kept, name)) for name in "ab"]
        assert [each() is None for each in seen] == [True, False]
        seen.append(weakref.ref(kept))
        del kept
        assert [each() is None for each in seen] == [True, True, True]
    finally:
        gc.enable()


class Story(RuleBasedStateMachine):
    """Whatever happens, both bounds hold, the sum is right, and what is found is what was put in last."""

    @initialize(max_entries=st.integers(0, 6), max_bytes=st.integers(0, 120))
    def begin(self, max_entries: int, max_bytes: int) -> None:
        self.bounds = Bounds(max_entries, max_bytes)
        self.kept: BoundedMap[int, object] = BoundedMap(self.bounds)
        self.newest: dict[int, object] = {}

    @rule(key=st.integers(0, 9), size=st.integers(0, 130))
    def put(self, key: int, size: int) -> None:
        value = object()
        self.kept.put(key, value, size)
        self.newest[key] = value
        if self.bounds.max_entries == 0 or size > self.bounds.max_bytes:
            assert key not in self.kept

    @rule(key=st.integers(0, 9), more=st.integers(0, 130))
    def grow(self, key: int, more: int) -> None:
        before = self.kept.size(key)
        self.kept.grow(key, more)
        assert self.kept.size(key) in ({before + more, 0} if before or key in self.kept else {0})

    @rule(key=st.integers(0, 9))
    def discard(self, key: int) -> None:
        self.kept.discard(key)
        assert (key in self.kept, self.kept.get(key), self.kept.size(key)) == (False, None, 0)

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        assert not self.kept

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.kept) <= self.bounds.max_entries
        assert self.kept.used_bytes <= self.bounds.max_bytes
        assert self.kept.used_bytes == sum(map(self.kept.size, self.kept))
        assert {*self.kept._light.sizes} | {*self.kept._heavy.sizes} == set(self.kept)
        assert all(value is self.newest[key] for key, value in self.kept.items())


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=100, stateful_step_count=40)

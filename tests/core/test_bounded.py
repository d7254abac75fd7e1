"""A map never exceeds its two bounds, whatever is put in and however it grows; large entries displace large ones."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz_service.core.bounded import HEAVY_FACTOR, NO_CACHE, Account, BoundedMap, Bounds


class Value:
    """A value with an account, which can be referenced weakly."""

    def __init__(self) -> None:
        self.account = Account()


def put_with_account(entries: BoundedMap[str, Value], name: str) -> Value:
    value = Value()
    entries.put(name, value, 10)
    value.account.bind(entries, name)
    value.account.charge(1)
    return value


def filled(bounds: Bounds, **sizes: int) -> BoundedMap[str, str]:
    entries: BoundedMap[str, str] = BoundedMap(bounds)
    for name, size in sizes.items():
        entries.put(name, name.upper(), size)
    return entries


def test_the_oldest_entry_is_evicted_for_either_bound() -> None:
    assert list(filled(Bounds(2, 100), a=1, b=1, c=1)) == ["b", "c"]
    assert list(filled(Bounds(9, 100), a=40, b=40, c=40)) == ["b", "c"]


def test_an_entry_that_is_replaced_is_the_youngest_and_has_its_new_size() -> None:
    entries = filled(Bounds(3, 100), a=10, b=10, c=10)
    entries.put("a", "other", 50)
    assert entries.get("a") == "other"
    assert (entries.used_bytes, entries.size("a")) == (70, 50)
    entries.put("d", "D", 1)
    assert list(entries) == ["c", "a", "d"]


@pytest.mark.parametrize("bounds", [NO_CACHE, Bounds(0, 100), Bounds(10, 0), Bounds(10, 4)])
def test_an_entry_that_does_not_fit_at_all_is_not_added(bounds: Bounds) -> None:
    entries = filled(bounds, a=5)
    assert (len(entries), entries.used_bytes, entries.get("a")) == (0, 0, None)


def test_large_entries_displace_large_ones_and_leave_half_of_the_bytes_to_small_ones() -> None:
    entries: BoundedMap[str, int] = BoundedMap(Bounds(100, 10_000))
    for number in range(50):
        entries.put(f"small-{number}", number, 100)  # half of the bytes, and the oldest
    large = HEAVY_FACTOR * 100 + 1
    for number in range(1000):
        entries.put(f"large-{number}", number, large)
    assert sum(name.startswith("small") for name in entries) == 50
    assert sum(name.startswith("large") for name in entries) == 5000 // large
    assert "large-999" in entries


def test_large_entries_may_use_all_bytes_if_there_are_no_small_ones() -> None:
    entries: BoundedMap[str, int] = BoundedMap(Bounds(100, 10_000))
    for number in range(100):
        entries.put(f"large-{number}", number, 1000)
    assert len(entries) == 10
    for number in range(60):
        entries.put(f"small-{number}", number, 100)  # until the large ones have only their half
    assert sorted({name.split("-")[0] for name in entries}) == ["large", "small"]
    assert sum(entries.size(name) for name in entries if name.startswith("large")) == 5000


def test_an_entry_that_grows_may_displace_others_and_itself() -> None:
    entries = filled(Bounds(10, 100), a=20, b=20, c=20)
    entries.grow("c", 10)
    assert entries.used_bytes == 70
    entries.grow("c", 40)  # now it is heavy, and takes more than half of the bytes
    assert list(entries) == ["a", "b"]
    entries.grow("c", 10)
    assert entries.used_bytes == 40


def test_an_account_charges_its_entry_and_refunds_what_it_charged() -> None:
    value = Value()
    entries: BoundedMap[str, Value] = BoundedMap(Bounds(10, 1000))
    entries.put("a", value, 100)
    value.account.bind(entries, "a")
    value.account.charge(50)
    value.account.charge(7)
    assert (value.account.charged, entries.size("a"), entries.used_bytes) == (57, 157, 157)
    value.account.refund()
    assert (value.account.charged, entries.size("a"), entries.used_bytes) == (0, 100, 100)


def test_an_account_without_an_entry_or_without_a_map_can_still_be_charged() -> None:
    account = Account()
    account.charge(5)
    assert account.charged == 5
    entries: BoundedMap[str, Value] = BoundedMap(Bounds(10, 1000))
    account.bind(entries, "gone")
    account.charge(5)
    assert entries.used_bytes == 0
    del entries
    assert account._map is not None
    assert account._map() is None
    account.charge(5)
    assert account.charged == 15


def test_an_evicted_entry_is_freed_at_once_and_so_is_an_unused_map() -> None:
    """Without waiting for the collector of cycles: the garbage of a cache would be as large as the cache."""
    gc.collect()
    gc.disable()
    try:
        entries: BoundedMap[str, Value] = BoundedMap(Bounds(1, 1000))
        seen: list[weakref.ref[Any]] = [weakref.ref(put_with_account(entries, name)) for name in "ab"]
        assert [each() is None for each in seen] == [True, False]
        seen.append(weakref.ref(entries))
        del entries
        assert [each() is None for each in seen] == [True, True, True]
    finally:
        gc.enable()


class Operations(RuleBasedStateMachine):
    """Whatever happens, both bounds hold, the sum is right, and a lookup finds the value that was put in last."""

    @initialize(max_entries=st.integers(0, 6), max_bytes=st.integers(0, 120))
    def start(self, max_entries: int, max_bytes: int) -> None:
        self.bounds = Bounds(max_entries, max_bytes)
        self.entries: BoundedMap[int, object] = BoundedMap(self.bounds)
        self.newest: dict[int, object] = {}

    @rule(key=st.integers(0, 9), size=st.integers(0, 130))
    def put(self, key: int, size: int) -> None:
        value = object()
        self.entries.put(key, value, size)
        self.newest[key] = value
        if self.bounds.max_entries == 0 or size > self.bounds.max_bytes:
            assert key not in self.entries

    @rule(key=st.integers(0, 9), more=st.integers(0, 130))
    def grow(self, key: int, more: int) -> None:
        before = self.entries.size(key)
        self.entries.grow(key, more)
        assert self.entries.size(key) in ({before + more, 0} if before or key in self.entries else {0})

    @rule(key=st.integers(0, 9))
    def discard(self, key: int) -> None:
        self.entries.discard(key)
        assert (key in self.entries, self.entries.get(key), self.entries.size(key)) == (False, None, 0)

    @rule()
    def clear(self) -> None:
        self.entries.clear()
        assert not self.entries

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.entries) <= self.bounds.max_entries
        assert self.entries.used_bytes <= self.bounds.max_bytes
        assert self.entries.used_bytes == sum(map(self.entries.size, self.entries))
        assert {*self.entries._light.sizes} | {*self.entries._heavy.sizes} == set(self.entries)
        assert all(value is self.newest[key] for key, value in self.entries.items())


TestOperations = Operations.TestCase
TestOperations.settings = settings(max_examples=100, stateful_step_count=40)

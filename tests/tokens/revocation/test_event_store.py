"""The revocations of events are kept until they are not needed, within their bound, and over a restart."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from authz_service.tokens.revocation.event_store import ENTRY_BYTES, EventStore, _size
from authz_service.tokens.revocation.revocations import Revocation, TokenParts
from support.trust import NOW
from tokens.revocation.claims import claims_of

KEEP = 3600.0


def of(subject: str, before: float = NOW) -> Revocation:
    return Revocation(TokenParts(issuer="main", subject=subject), before, "an event")


def finds(store: EventStore, subject: str, issued_at: float = NOW - 60) -> bool:
    return store.find(claims_of(subject, issued_at)) is not None


def trim(store: EventStore, now: float) -> int:
    return store.trim(now, 10_000)


def test_a_revocation_counts_for_keep_and_a_later_one_prolongs_it() -> None:
    store = EventStore(KEEP, 10)
    store.add(of("a"), NOW)
    store.add(of("b"), NOW)
    store.add(of("b", NOW + 100), NOW + 100)
    store.add(of("b", NOW + 50), NOW + 100)  # delivered late
    trim(store, NOW + KEEP - 1)
    assert finds(store, "a")
    trim(store, NOW + KEEP)
    assert not finds(store, "a")
    assert finds(store, "b", NOW + 99)
    trim(store, NOW + KEEP + 100)
    assert len(store) == 0


def test_an_event_that_is_too_old_adds_nothing() -> None:
    store = EventStore(KEEP, 10)
    assert store.add(of("a", NOW - KEEP), NOW) == 0
    assert len(store) == 0


def test_a_full_store_evicts_what_expires_first_and_counts_it() -> None:
    store = EventStore(KEEP, 2)
    assert [store.add(of(name, NOW - age), NOW) for name, age in (("a", 10), ("b", 30), ("c", 20))] == [0, 0, 1]
    assert [finds(store, name) for name in "abc"] == [True, False, True]


def test_of_events_in_the_same_second_a_full_store_evicts_the_first_and_keeps_the_last() -> None:
    session = Revocation(TokenParts(session="s"), NOW, "an event")
    store = EventStore(KEEP, 3)
    for each in (of("z"), of("a"), session, of("z", NOW + 1)):
        store.add(each, NOW)
    assert store.add(of("b"), NOW) == 1  # evicts "a"
    assert {each.parts for each in store} == {of("z").parts, session.parts, of("b").parts}
    other = session._replace(parts=TokenParts(session="s2"))
    assert store.add(other, NOW) == 1
    assert {each.parts for each in store} == {of("z").parts, of("b").parts, other.parts}


def test_a_transmitter_that_repeats_a_subject_uses_no_memory() -> None:
    store = EventStore(KEEP, 10)
    for second in range(10_000):
        assert store.add(of("a", NOW + second / 10), NOW) == 0
    assert len(store) == 1
    assert len(store._by_time) == 1


def test_lower_limits_evict_and_a_longer_keep_prolongs_what_is_left() -> None:
    store = EventStore(KEEP, 10)
    for name, age in (("a", 10), ("b", 30), ("c", 20)):
        store.add(of(name, NOW - age), NOW)
    store.set_limits(2 * KEEP, 2)
    assert trim(store, NOW) == 1
    assert not store.needs_trim(NOW)
    assert [finds(store, name) for name in "abc"] == [True, False, True]
    trim(store, NOW + KEEP)
    assert len(store) == 2
    trim(store, NOW + 2 * KEEP)
    assert len(store) == 0


def test_long_identifiers_are_evicted_by_their_bytes_and_one_always_counts() -> None:
    long = "\U0001f600" * 512  # 2 KiB of memory
    store = EventStore(KEEP, 100)
    evicted = sum(store.add(of(f"{number:3}{long}", NOW + number), NOW) for number in range(200))
    assert len(store) == 200 - evicted
    assert 100 * ENTRY_BYTES // 3000 < len(store) < 100 * ENTRY_BYTES // 2048
    assert finds(store, f"199{long}")
    assert not finds(store, f"  0{long}")
    single = EventStore(KEEP, 1)
    assert single.add(of(long), NOW) == 0
    assert finds(single, long)


def test_what_expires_at_once_is_removed_in_steps() -> None:
    store = EventStore(KEEP, 1000)
    for number in range(1000):
        store.add(of(str(number)), NOW)
    later = NOW + KEEP
    assert store.needs_trim(later)
    assert not store.needs_trim(later - 1)
    for left in range(900, -1, -100):
        assert store.trim(later, 100) == 0
        assert len(store) == left


def test_what_has_expired_makes_place_without_being_counted_as_evicted() -> None:
    store = EventStore(KEEP, 2)
    store.add(of("a", NOW - KEEP + 1), NOW)
    store.add(of("b"), NOW)
    assert store.add(of("c"), NOW + 1) == 0
    assert [finds(store, name) for name in "abc"] == [False, True, True]


def test_the_bytes_are_those_of_what_is_left() -> None:
    store = EventStore(KEEP, 100)
    for number in range(300):
        store.add(of(f"u{number % 150}", NOW + number), NOW)
    assert store._bytes == sum(_size(each.parts) for each in store)
    trim(store, NOW + KEEP + 1000)
    assert store._bytes == 0


def test_a_revocation_takes_no_more_memory_than_is_counted() -> None:
    store = EventStore(KEEP, 5000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5000):
            store.add(of(f"user-{number:030}"), NOW)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < store._bytes


_EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-20, 20), st.integers(0, 20)), max_size=30)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-5, 5)), max_size=40), st.integers(1, 5))
def test_a_bounded_store_keeps_those_with_the_most_time_left(events: list[tuple[str, int]], limit: int) -> None:
    store, plain = EventStore(1000.0, limit), dict[str, int]()
    for subject, offset in events:
        evicted = store.add(of(subject, NOW + offset), NOW)
        plain[subject] = max(offset, plain.get(subject, offset))
        if len(plain) > limit:
            first = min(plain.values())
            (gone,) = plain.keys() - {each.parts.subject for each in store}
            assert plain.pop(gone) == first
            assert evicted == 1
    assert {each.parts.subject: each.issued_before - NOW for each in store} == plain


@given(_EVENTS)
def test_it_agrees_with_a_plain_list_of_the_events(events: list[tuple[str, int, int]]) -> None:
    store, plain = EventStore(10.0, 100), list[Revocation]()
    now = float(NOW)
    for subject, offset, passed in events:
        now += passed
        store.add(of(subject, NOW + offset), now)
        plain.append(of(subject, NOW + offset))
        trim(store, now)
        latest = {each.parts: each for each in sorted(plain, key=lambda each: each.issued_before)}
        counting = {each.parts.subject for each in latest.values() if each.issued_before + 10.0 > now}
        assert {name for name in "abcd" if finds(store, name, NOW - 30)} == counting
        assert len(store) == len(counting)

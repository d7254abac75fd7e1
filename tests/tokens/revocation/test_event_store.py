"""The revocations of events are kept until they are not needed, within their bound, and over a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.claims import Claims
from authz_service.tokens.revocation.event_store import EventStore
from authz_service.tokens.revocation.revocations import Revocation, TokenParts
from support.trust import ISSUER, NOW

KEEP = 3600.0


def of(subject: str, before: float = NOW) -> Revocation:
    return Revocation(TokenParts(issuer="main", subject=subject), before, "an event")


def finds(store: EventStore, subject: str, issued_at: float = NOW - 60) -> bool:
    own = Claims(
        issuer="main",
        subject=subject,
        client_id="app",
        audiences=frozenset(),
        scopes=frozenset(),
        scope="",
        raw={"iss": ISSUER, "iat": issued_at},
    )
    return store.find(own) is not None


def test_a_revocation_counts_for_keep_and_a_later_one_prolongs_it() -> None:
    store = EventStore(KEEP, 10)
    store.add(of("a"), NOW)
    store.add(of("b"), NOW)
    store.add(of("b", NOW + 100), NOW + 100)
    store.add(of("b", NOW + 50), NOW + 100)  # delivered late
    store.expire(NOW + KEEP - 1)
    assert finds(store, "a")
    store.expire(NOW + KEEP)
    assert not finds(store, "a")
    assert finds(store, "b", NOW + 99)
    store.expire(NOW + KEEP + 100)
    assert len(store) == 0


def test_an_event_that_is_too_old_adds_nothing() -> None:
    store = EventStore(KEEP, 10)
    assert store.add(of("a", NOW - KEEP), NOW) == 0
    assert len(store) == 0


def test_a_full_store_evicts_what_expires_first_and_counts_it() -> None:
    store = EventStore(KEEP, 2)
    assert [store.add(of(name, NOW - age), NOW) for name, age in (("a", 10), ("b", 30), ("c", 20))] == [0, 0, 1]
    assert [finds(store, name) for name in "abc"] == [True, False, True]


def test_a_transmitter_that_repeats_a_subject_uses_no_memory() -> None:
    store = EventStore(KEEP, 10)
    for second in range(10_000):
        assert store.add(of("a", NOW + second / 10), NOW) == 0
    assert len(store) == 1
    assert len(store._expiries) < 100


def test_a_snapshot_restores_what_still_counts() -> None:
    store, restored = EventStore(KEEP, 10), EventStore(KEEP, 10)
    store.add(of("a"), NOW)
    store.add(of("b\u00e9\u2028", NOW + 100), NOW)
    restored.restore(store.snapshot(ISSUER), ISSUER, NOW + KEEP)
    assert not finds(restored, "a")
    assert finds(restored, "b\u00e9\u2028")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        {"version": 2},
        {"issuer": "https://other.example"},
        {"entries": None},
        {"entries": [["", "a", "", "", "", "", NOW, ""], []]},
        {"entries": [["", "a", "", "", "", "", NOW, ""], ["", "", "", "", "", "", NOW, ""]]},  # every token
        {"entries": [["", "a", "", "", "", None, NOW, ""]]},
        {"entries": [["", "a", "", "", "", "", "x", ""]]},
        {"entries": [["", "a", "", "", "", "", 10**400, ""]]},
        {"entries": [["", "a", "", "", "", "", float("nan"), ""]]},
        {"entries": [["", "a", "", "", "", "", True, ""]]},
        {"entries": [["", "a", "", "", "", "", NOW, 7]]},
    ],
)
def test_a_malformed_snapshot_adds_nothing(content: Any) -> None:
    store = EventStore(KEEP, 10)
    good = {"version": 1, "issuer": ISSUER, "entries": []}
    with pytest.raises(ValueError, match=r".+"):
        store.restore(content if isinstance(content, bytes) else json.dumps(good | content).encode(), ISSUER, NOW)
    assert len(store) == 0


_EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-20, 20), st.integers(0, 20)), max_size=30)


@given(_EVENTS)
def test_it_agrees_with_a_plain_list_of_the_events(events: list[tuple[str, int, int]]) -> None:
    store, plain = EventStore(10.0, 100), list[Revocation]()
    now = float(NOW)
    for subject, offset, passed in events:
        now += passed
        store.add(of(subject, NOW + offset), now)
        plain.append(of(subject, NOW + offset))
        store.expire(now)
        latest = {each.parts: each for each in sorted(plain, key=lambda each: each.issued_before)}
        counting = {each.parts.subject for each in latest.values() if each.issued_before + 10.0 > now}
        assert {name for name in "abcd" if finds(store, name, NOW - 30)} == counting
        assert len(store) == len(counting)

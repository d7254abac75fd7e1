"""A proof that was recorded is found until it expires, or its eviction is reported; a call does little work."""

from __future__ import annotations

import itertools
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from authz_service.tokens.proof.replay import ReplayCache

NOW = 1_800_000_000.0
KEY, OTHER = b"k" * 32, b"o" * 32
MAX_AGE = 60.0
MAX_BYTES = 150  # for an entry of a full cache


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_a_proof_is_seen_the_second_time() -> None:
    cache = ReplayCache(10, MAX_AGE, Counter())
    assert not cache.seen(KEY, "a", NOW, NOW)
    assert cache.seen(KEY, "a", NOW, NOW)
    assert cache.seen(KEY, "a", NOW + 60, NOW + 60)


def test_the_same_jti_of_another_key_is_another_proof() -> None:
    cache = ReplayCache(10, MAX_AGE, Counter())
    assert not cache.seen(KEY, "a", NOW, NOW)
    assert not cache.seen(OTHER, "a", NOW, NOW)
    assert not cache.seen(KEY, "b", NOW, NOW)


def test_the_oldest_is_evicted_when_the_cache_is_full_and_the_eviction_is_reported() -> None:
    evictions = Counter()
    cache = ReplayCache(3, MAX_AGE, evictions)
    for jti in "abcd":
        assert not cache.seen(KEY, jti, NOW, NOW)
    assert (evictions.count, len(cache)) == (1, 3)
    assert all(cache.seen(KEY, jti, NOW, NOW) for jti in "bcd")
    assert not cache.seen(KEY, "a", NOW, NOW)
    assert not cache.seen(KEY, "b", NOW, NOW)


def test_expired_entries_make_room_without_an_eviction() -> None:
    evictions = Counter()
    cache = ReplayCache(3, MAX_AGE, evictions)
    for time in range(0, 1000, 61):
        for jti in "abc":
            assert not cache.seen(KEY, f"{jti}{time}", NOW + time, NOW + time)
    assert evictions.count == 0


def test_a_replay_records_and_evicts_nothing() -> None:
    evictions = Counter()
    cache = ReplayCache(2, MAX_AGE, evictions)
    cache.seen(KEY, "a", NOW, NOW)
    cache.seen(KEY, "b", NOW, NOW)
    for _ in range(10):
        assert cache.seen(KEY, "b", NOW, NOW + 540)
    assert cache.seen(KEY, "a", NOW, NOW)
    assert (len(cache), evictions.count) == (2, 0)


def test_an_idle_time_is_made_up_for_little_by_little() -> None:
    cache = ReplayCache(10_000, MAX_AGE, Counter())
    for each in range(1000):
        cache.seen(KEY, str(each), NOW, NOW)
    sizes = []
    for each in range(400):
        cache.seen(OTHER, str(each), NOW + 100, NOW + 100)
        sizes.append(len(cache))
    assert max(before - after for before, after in itertools.pairwise(sizes)) <= 3
    assert sizes[-1] == 400


def test_a_smaller_maximum_evicts_the_oldest_little_by_little_and_a_larger_one_nothing() -> None:
    evictions = Counter()
    cache = ReplayCache(100, MAX_AGE, evictions)
    for each in range(100):
        cache.seen(KEY, str(each), NOW, NOW)
    cache = cache.with_limits(200, MAX_AGE)
    assert cache.seen(KEY, "0", NOW, NOW)
    cache = cache.with_limits(10, MAX_AGE)
    for each in range(100, 130):
        assert not cache.seen(KEY, str(each), NOW, NOW)
    assert len(cache) == 10
    assert evictions.count == 120
    assert all(cache.seen(KEY, str(each), NOW, NOW) for each in range(120, 130))


def test_a_longer_maximum_age_makes_no_used_proof_acceptable_again() -> None:
    cache = ReplayCache(100, 10.0, Counter())
    assert not cache.seen(KEY, "a", NOW, NOW)
    assert not cache.seen(KEY, "later", NOW + 11, NOW + 11)  # removes the first, which is too old
    cache = cache.with_limits(100, MAX_AGE)
    assert cache.seen(KEY, "a", NOW + 12, NOW)
    assert cache.with_limits(100, MAX_AGE).seen(KEY, "a", NOW + 12, NOW)
    assert cache.with_limits(100, 5.0).with_limits(100, MAX_AGE).seen(KEY, "a", NOW + 12, NOW)
    assert not cache.seen(KEY, "b", NOW + 12, NOW + 1)


def test_with_a_longer_maximum_age_entries_are_kept_longer_also_by_the_previous_configuration() -> None:
    previous = ReplayCache(100, 10.0, Counter())
    assert not previous.seen(KEY, "a", NOW, NOW)
    cache = previous.with_limits(100, MAX_AGE)
    assert not previous.seen(KEY, "b", NOW + 11, NOW + 11)  # a request that was in progress
    assert not cache.seen(KEY, "c", NOW + 12, NOW)
    assert all(cache.seen(KEY, jti, NOW + 12, NOW) for jti in "ab")


def test_under_one_maximum_age_no_proof_is_refused_unseen_when_a_clock_was_set_back() -> None:
    cache = ReplayCache(100, MAX_AGE, Counter())
    cache.seen(KEY, "a", NOW, NOW)
    cache.seen(KEY, "b", NOW + 100, NOW + 100)
    assert len(cache) == 1
    assert not cache.seen(KEY, "c", NOW - 100, NOW - 100)
    assert not cache.with_limits(100, MAX_AGE).seen(KEY, "d", NOW - 100, NOW - 100)


def test_a_clock_that_was_set_back_loses_no_proof() -> None:
    cache = ReplayCache(100, MAX_AGE, Counter())
    cache.seen(KEY, "a", NOW, NOW)
    for each in range(20):
        assert not cache.seen(KEY, str(each), NOW - 3600, NOW - 3600)
    assert cache.seen(KEY, "a", NOW - 3600, NOW - 3600)
    assert cache.seen(KEY, "0", NOW - 3600, NOW - 3600)


def test_a_jti_may_be_any_text() -> None:
    cache = ReplayCache(10, MAX_AGE, Counter())
    for jti in ("é", "\0", "\ud800", "a" * 256):
        assert not cache.seen(KEY, jti, NOW, NOW)
        assert cache.seen(KEY, jti, NOW, NOW)


@given(st.integers(1, 5), st.integers(0, 9))
def test_it_never_has_more_entries_than_its_maximum(maximum: int, more: int) -> None:
    evictions = Counter()
    cache = ReplayCache(maximum, MAX_AGE, evictions)
    for each in range(maximum + more):
        cache.seen(KEY, str(each), NOW, NOW)
        assert len(cache) <= maximum
    assert evictions.count == more


def test_an_entry_is_small() -> None:
    count = 100_000
    tracemalloc.start()
    try:
        cache = ReplayCache(count, MAX_AGE, Counter())
        for each in range(count):
            cache.seen(KEY, f"{each:032}", NOW + each / 1000, NOW + each / 1000 + 5)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) >= count * 0.6  # the others have expired
    assert used / len(cache) <= MAX_BYTES


class PlainReplays(RuleBasedStateMachine):
    """Compares with a list that is searched from its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.maximum = 4
        self.evictions = Counter()
        self.cache = ReplayCache(self.maximum, MAX_AGE, self.evictions)
        self.entries: list[tuple[str, float]] = []
        self.evicted = 0
        self.now = NOW

    @rule(jti=st.sampled_from("abcdefgh"), lifetime=st.integers(0, 12))
    def use(self, jti: str, lifetime: int) -> None:
        until = self.now + lifetime
        seen = jti in [each for each, _ in self.entries]
        assert self.cache.seen(KEY, jti, self.now, until - MAX_AGE) == seen
        if seen:
            return
        for _ in range(4):
            if self.entries and self.entries[0][1] < self.now:
                self.entries.pop(0)
            elif len(self.entries) >= self.maximum:
                self.entries.pop(0)
                self.evicted += 1
        self.entries.append((jti, until))

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(maximum=st.integers(1, 6))
    def resize(self, maximum: int) -> None:
        self.maximum = maximum
        self.cache = self.cache.with_limits(maximum, MAX_AGE)

    @invariant()
    def same(self) -> None:
        assert len(self.cache) == len(self.entries)
        assert self.evictions.count == self.evicted


TestPlainReplays = PlainReplays.TestCase

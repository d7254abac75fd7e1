"""Cached responses expire, and are bounded separately for accepted and rejected tokens."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.claims import Claims, Identity, ValidatedToken
from authz_service.core.reasons import Reason
from authz_service.tokens.introspection.cache import IntrospectionCache
from authz_service.tokens.introspection.response import IntrospectionResponse, Refusal, VerifiedJwt, validate_response
from support.fake_introspection import issuer_with

TOKEN = ValidatedToken(Claims("main", "u", "c", frozenset(), frozenset(), "", {}))
REJECTED: Refusal = (Reason.INACTIVE, "a cause", Identity("main", "u1", "app"))


def contents(cache: IntrospectionCache) -> list[list[Any]]:
    return [[*each.items()] for each in (cache._accepted, cache._rejected, cache._proven)]


class StateMachine(RuleBasedStateMachine):
    """A response is found only until it expires, and only the last one for a token."""

    @initialize(max_entries=st.integers(0, 3))
    def begin(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.bounds = Bounds(max_entries, 1 << 20)
        self.cache = IntrospectionCache(self.bounds)
        self.now = 100.0
        self.newest: dict[bytes, IntrospectionResponse] = {}

    @rule(token=st.integers(0, 5), seconds=st.sampled_from([-5, 0, 5, 50]), good=st.booleans(), active=st.booleans())
    def put(self, *, token: int, seconds: float, good: bool, active: bool) -> None:
        digest = bytes([token])
        response = IntrospectionResponse(active or good, TOKEN if good else REJECTED, self.now, self.now + seconds)
        self.cache.put(digest, response)
        self.newest[digest] = response
        assert self.cache.is_proven(digest) == (good and self.max_entries > 0)
        assert self.cache.get(digest, self.now) is (response if seconds > 0 and self.max_entries else None)

    @rule(token=st.integers(0, 5))
    def get(self, token: int) -> None:
        digest = bytes([token])
        before = len(self.cache)
        found = self.cache.get(digest, self.now)
        if found is not None:
            assert found is self.newest[digest]
            assert found.since <= self.now < found.until
        else:
            assert digest not in {*self.cache._accepted, *self.cache._rejected}  # what is not found is not copied
        assert before - len(self.cache) in {0, 1}

    @rule(seconds=st.sampled_from([-10, 1, 10, 60]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def copy(self) -> None:
        newer = IntrospectionCache(self.bounds)
        newer.copy_from(self.cache)
        assert contents(newer) == contents(self.cache)
        assert newer.used_bytes == self.cache.used_bytes
        self.cache = newer

    @invariant()
    def is_bounded_in_each_kind(self) -> None:
        assert len(self.cache._accepted) <= self.max_entries
        assert len(self.cache._rejected) <= self.max_entries
        assert len(self.cache._proven) <= self.max_entries
        assert not {*self.cache._accepted} & {*self.cache._rejected}


TestStateMachine = StateMachine.TestCase
TestStateMachine.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_smaller_cache_copies_the_newest_entries() -> None:
    older, newer = IntrospectionCache(Bounds(5, 1 << 20)), IntrospectionCache(Bounds(2, 1 << 20))
    for number in range(5):
        older.put(bytes([number]), IntrospectionResponse(active=True, outcome=TOKEN, since=0.0, until=9.0))
    newer.copy_from(older)
    assert [newer.get(bytes([number]), 1.0) is not None for number in range(5)] == [False, False, False, True, True]


def token(text: str = "", scope: str = "") -> ValidatedToken:
    return ValidatedToken(Claims("main", "u", "c", frozenset(), frozenset(scope.split()), scope, {"text": text}))


def response_with(outcome: ValidatedToken | Refusal, until: float = 9.0) -> IntrospectionResponse:
    return IntrospectionResponse(active=not isinstance(outcome, tuple), outcome=outcome, since=0.0, until=until)


def test_responses_are_charged_by_their_bytes_and_by_what_is_cached_with_them() -> None:
    cache = IntrospectionCache(Bounds(1000, 100_000))
    first = token("x" * 5_000)
    cache.put(b"0", response_with(first))
    before = cache.used_bytes
    first.responses._account.charge(3_000)
    assert cache.used_bytes == before + 3_000
    for number in range(1, 100):
        cache.put(bytes([number]), response_with(token("x" * 5_000)))
    assert cache.get(b"0", 1.0) is None
    assert cache.get(bytes([99]), 1.0) is not None
    assert 60_000 < cache.used_bytes <= 100_000
    first.responses._account.charge(3_000)  # it was evicted, and charges nothing
    assert cache.used_bytes <= 100_000


def test_invented_tokens_use_a_small_part_of_the_bytes() -> None:
    cache = IntrospectionCache(Bounds(1_000_000, 100_000))
    cache.put(b"session", response_with(token("x" * 10_000)))
    session = cache.used_bytes
    for number in range(10_000):
        cache.put(number.to_bytes(4), response_with(REJECTED))
    assert cache.get(b"session", 1.0) is not None
    assert session < cache.used_bytes <= session + 100_000 // 8


def test_of_an_expired_proven_token_only_the_digest_remains() -> None:
    cache = IntrospectionCache(Bounds(10, 100_000))
    cache.put(b"token", response_with(token("x" * 10_000)))
    assert cache.get(b"token", 9.0) is None
    assert cache.is_proven(b"token")
    assert cache.proven == 1
    assert cache.used_bytes < 1_000
    cache.put(b"token", response_with(REJECTED))
    assert not cache.is_proven(b"token")


def test_the_responses_to_a_verified_jwt_are_charged_to_the_jwt_cache_only() -> None:
    tokens: BoundedMap[bytes, ValidatedToken] = BoundedMap(Bounds(10, 100_000))
    verified = token()
    tokens.put(b"token", verified, 100)
    verified.responses.charge_to(tokens, b"token")
    cache = IntrospectionCache(Bounds(10, 100_000))
    issuer = issuer_with({"mode": "always"})
    assert issuer.introspection is not None
    jwt = VerifiedJwt({}, verified.claims)
    cache.put(b"token", validate_response(issuer, issuer.introspection, {"active": True}, jwt, 0.0))
    assert len(cache) == 1
    before = cache.used_bytes
    verified.responses.add("rule", (), ())
    assert tokens.used_bytes > 100
    assert cache.used_bytes == before


def test_after_a_copy_the_new_cache_is_charged() -> None:
    older, newer = (IntrospectionCache(Bounds(10, 100_000)) for _ in range(2))
    copied = token()
    older.put(b"token", response_with(copied))
    copied.responses._account.charge(50)
    newer.copy_from(older)
    assert newer.used_bytes == older.used_bytes
    before = older.used_bytes
    copied.responses._account.charge(50)
    assert (older.used_bytes, newer.used_bytes) == (before, before + 50)

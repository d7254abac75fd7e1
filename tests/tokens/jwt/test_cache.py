"""The cache of JWTs is bounded in entries and bytes, expires its entries, and contains no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz_service.core.bounded import Bounds
from authz_service.core.claims import Claims, ValidatedToken
from authz_service.core.decision import Allow
from authz_service.keys.jwk import Key
from authz_service.keys.keyset import KeySet
from authz_service.tokens.jwt.cache import CachedJwt, JwtCache, digest_of
from authz_service.transport.ext_authz.codec import encode_response
from support.trust import NOW, LocalAuthorizer, LocalValidator, good

if TYPE_CHECKING:
    from authz_service.keys.cache import KeyCache

CLAIMS = Claims("main", "u", "c", frozenset(), frozenset(), "", {})
KEYS = [Key(f"k{number}", frozenset({"RS256"}), bytes([number]), None, {}) for number in range(3)]


class FakeKeys:
    """The part of a key cache that the cache of JWTs uses."""

    def __init__(self) -> None:
        self.key_set: KeySet | None = KeySet(tuple(KEYS))

    def current(self, now: float) -> KeySet | None:
        return self.key_set


class StateMachine(RuleBasedStateMachine):
    """An entry is found only while it is valid, and its key is in the key set."""

    @initialize(max_entries=st.integers(0, 4), max_ttl=st.sampled_from([0.0, 5.0, 50.0]))
    def begin(self, max_entries: int, max_ttl: float) -> None:
        self.max_entries, self.max_ttl = max_entries, max_ttl
        self.cache = JwtCache(Bounds(max_entries, 1 << 20), max_ttl)
        self.keys = FakeKeys()
        self.now = 100.0
        self.entries: dict[bytes, tuple[CachedJwt, float, Key]] = {}  # with its expiry and its key
        self.order: list[bytes] = []

    @rule(token=st.integers(0, 7), lifetime=st.integers(-5, 60), key=st.sampled_from(KEYS))
    def put(self, token: int, lifetime: int, key: Key) -> None:
        digest = digest_of(str(token))
        if self.cache.get(digest, self.now) is not None or self.keys.key_set is None or key not in self.keys.key_set:
            return  # only a token that is not cached is validated, by a key of the current set
        until = self.now + lifetime
        entry = CachedJwt(ValidatedToken(CLAIMS), until, cast("KeyCache", self.keys), key, self.keys.key_set)
        self.cache.put(digest, entry, self.now)
        self.entries[digest] = entry, min(until, self.now + self.max_ttl), key
        is_cached = self.max_entries > 0 and min(lifetime, self.max_ttl) > 0
        if is_cached:
            self.order = [*(each for each in self.order if each != digest), digest]
        assert (digest in self.cache._entries) == is_cached  # what would never be found is not kept
        assert self.cache.get(digest, self.now) is (entry if is_cached else None)

    @rule(token=st.integers(0, 7))
    def get(self, token: int) -> None:
        digest = digest_of(str(token))
        found = self.cache.get(digest, self.now)
        if found is None:
            assert digest not in self.cache._entries
            return
        entry, until, key = self.entries[digest]
        assert found is entry
        assert self.now < until
        assert self.keys.key_set is not None
        assert key in self.keys.key_set
        assert digest in self.order[-self.max_entries :]

    @rule(seconds=st.integers(-1, 20))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(numbers=st.none() | st.sets(st.sampled_from(range(len(KEYS)))))
    def publish(self, numbers: set[int] | None) -> None:
        self.keys.key_set = None if numbers is None else KeySet(tuple(KEYS[number] for number in numbers))

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.order.clear()

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.cache) <= self.max_entries


TestStateMachine = StateMachine.TestCase
TestStateMachine.settings = settings(max_examples=60, stateful_step_count=30)


def test_the_oldest_entry_is_evicted_first() -> None:
    local = LocalValidator(max_entries=3)
    tokens = [good(sub=f"u{number}") for number in range(5)]
    found = [local.claims(token) for token in tokens]
    assert len(local.cache) == 3
    assert [local.claims(token) is claims for token, claims in zip(tokens[2:], found[2:], strict=True)] == [True] * 3
    assert local.claims(tokens[0]) is not found[0]


def test_a_flood_of_forged_tokens_evicts_nothing() -> None:
    local = LocalValidator(max_entries=1)
    first = local.claims(good())
    assert all(local.reason(f"{good()}{number:02}") != "ok" for number in range(50))
    assert local.claims(good()) is first


def test_a_cache_of_no_entries_caches_nothing() -> None:
    local = LocalValidator(max_entries=0)
    assert local.claims(good()) is not local.claims(good())
    assert len(local.cache) == 0


def test_a_token_is_verified_again_after_max_ttl() -> None:
    local = LocalValidator()
    token = good(exp=NOW + 3000)
    first = local.claims(token)
    assert local.claims(token, NOW + 299) is first
    assert local.claims(token, NOW + 300) is not first


def test_the_cache_holds_digests_and_no_token_and_no_signature() -> None:
    local = LocalValidator()
    token = good()
    local.claims(token)
    assert list(local.cache._entries) == [digest_of(token)]
    entries = repr(list(local.cache._entries.items()))
    assert not any(part in entries for part in token.split("."))


def test_two_tokens_never_share_an_entry() -> None:
    assert len({digest_of(token) for token in ("", "a", "A", "a ", "a.b", "a.b.", "\ud800", "\udfff")}) == 8


# Bytes.

RULES = [{"name": f"rule-{number:02}", "match": {"paths": [f"/{number}"]}} for number in range(20)]
ID = "0" * 16


def local_authorizer(**options: Any) -> LocalAuthorizer:
    return LocalAuthorizer(RULES, {"x-auth-subject": "sub", "x-auth-scopes": "scope"}, **options)


def growth_by(local: LocalAuthorizer, token: str, path: int = 0) -> int:
    """How many bytes the cache grows by when this is decided and encoded."""
    before = local.cache.used_bytes
    decision = local.decide(f"/{path}", token)
    assert isinstance(decision, Allow)
    encode_response(decision, ID)
    return local.cache.used_bytes - before


def test_entries_are_charged_by_their_bytes_and_the_oldest_is_evicted_first() -> None:
    local = LocalValidator(max_bytes=100_000)
    tokens = [good(sub=f"u{number}", note="x" * 9_000) for number in range(20)]
    found = [local.claims(token) for token in tokens]
    kept = len(local.cache)
    each = local.cache.used_bytes // kept
    assert 9_000 < each < 14_000
    assert kept == 100_000 // each
    assert local.claims(tokens[-kept]) is found[-kept]
    assert local.claims(tokens[-kept - 1]) is not found[-kept - 1]


def test_a_token_larger_than_the_cache_is_not_cached_and_evicts_nothing() -> None:
    local = LocalValidator(max_bytes=10_000)
    small, large = good(), good(note=[{}] * 1_000)
    first = local.claims(small)
    assert local.claims(large) is not local.claims(large)
    assert local.claims(small) is first


def test_large_tokens_evict_each_other_and_leave_half_of_the_bytes_to_small_ones() -> None:
    local = LocalValidator(max_entries=100, max_bytes=400_000)
    small = [good(sub=f"u{number}") for number in range(50)]
    found = [local.claims(token) for token in small]
    for number in range(50):
        local.claims(good(sub=f"large-{number}", note=[{}] * 1_000))
    assert [local.claims(token) is claims for token, claims in zip(small, found, strict=True)] == [True] * 50


def test_a_cached_response_is_charged_once_and_a_hit_charges_nothing() -> None:
    local = local_authorizer()
    token = good(scope=" ".join(f"scope-{number}" for number in range(200)))
    verified = growth_by(local, token)
    made = growth_by(local, token, path=1)
    assert made > 2 * len(local.claims(token).scope)  # they stand in a header, and in the metadata
    assert verified > made
    assert [growth_by(local, token, path=path) for path in (0, 1, 0, 1)] == [0, 0, 0, 0]


def test_a_token_is_charged_for_a_bounded_number_of_rules() -> None:
    local = local_authorizer()
    token = good()
    sizes = []
    for number in range(200):
        growth_by(local, token, path=number % len(RULES))
        sizes.append(local.cache.used_bytes)
    assert max(sizes) == max(sizes[:9])
    assert len(local.cache) == 1


def test_a_token_that_grows_beyond_the_bound_is_evicted_and_decided_all_the_same() -> None:
    local = local_authorizer(max_bytes=20_000)
    token = good(scope=" ".join(f"scope-{number}" for number in range(200)))
    for path in range(8):
        decision = local.decide(f"/{path}", token)
        assert isinstance(decision, Allow)
        assert encode_response(decision, ID) == encode_response(decision, ID)
        assert local.cache.used_bytes <= 20_000


def test_a_copy_is_charged_for_its_tokens_and_for_what_is_cached_with_them_later() -> None:
    local = local_authorizer()
    token = good()
    bare = JwtCache(local.bounds, 300.0)
    growth_by(local, token)
    bare.copy_from(local.cache, {"main"}, NOW)
    made = local.validated(token).responses.charged
    assert made > 0
    assert bare.used_bytes == local.cache.used_bytes - made
    entry = bare.get(digest_of(token), NOW)
    assert entry is not None
    entry.token.responses._account.charge(100)
    assert bare.used_bytes == local.cache.used_bytes - made + 100
    assert local.validated(token).responses.charged == made

"""The cache of JWTs is bounded in entries and bytes, expires its entries, and contains no token."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz_service.core.bounded import NO_CACHE, Bounds
from authz_service.core.claims import Claims, ValidatedToken
from authz_service.core.confirmation import Confirmation
from authz_service.core.decision import Allow
from authz_service.keys.jwk import Key
from authz_service.keys.keyset import KeySet
from authz_service.tokens.jwt import cache as cache_module
from authz_service.tokens.jwt import jws
from authz_service.tokens.jwt.cache import JwtCache, digest_of
from authz_service.tokens.jwt.packing import CachedJwt
from authz_service.transport.ext_authz.codec import encode_response
from support.trust import NOW, LocalAuthorizer, LocalValidator, good

if TYPE_CHECKING:
    import pytest

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

    @initialize(max_entries=st.integers(0, 4), max_ttl=st.sampled_from([0.0, 5.0, 50.0]), max_recent=st.integers(1, 4))
    def begin(self, max_entries: int, max_ttl: float, max_recent: int) -> None:
        self.max_entries, self.max_ttl = max_entries, max_ttl
        self.cache = JwtCache(Bounds(max_entries, 1 << 20), max_ttl, max_recent)
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
        self.require_bounds()

    @rule(token=st.integers(0, 7))
    def get(self, token: int) -> None:
        digest = digest_of(str(token))
        found = self.cache.get(digest, self.now)
        if found is None:
            assert digest not in self.cache._entries
            return
        entry, until, key = self.entries[digest]
        assert found.token == entry.token
        assert found.key == key
        assert found.until == until
        assert self.cache.get(digest, self.now) == found
        assert self.now < until
        assert self.keys.key_set is not None
        assert key in self.keys.key_set
        assert digest in self.order

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
    def require_bounds(self) -> None:
        assert len(self.cache) <= self.max_entries
        assert len(set(self.cache._entries)) == len(self.cache)
        assert self.cache.used_bytes >= 0
        assert (self.cache.used_bytes > 0) == (len(self.cache) > 0)


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


def test_only_the_header_of_a_verified_token_is_known() -> None:
    local = LocalValidator()
    headers = local.validator._headers
    token = good()
    assert local.reason(f"{token}AA") != "ok"
    assert headers.get(token.partition(".")[0]) is None
    assert local.reason(token) == "ok"
    assert headers.get(token.partition(".")[0]) == jws.parse(token).header


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


# Older tokens.

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=8,
)
_DIGESTS = st.none() | st.binary(min_size=32, max_size=32)


@given(
    raw=st.dictionaries(st.text(max_size=5), _JSON, max_size=4),
    names=st.frozensets(st.text(max_size=5), max_size=3),
    confirmation=st.none() | st.builds(Confirmation, _DIGESTS, _DIGESTS),
    kid=st.none() | st.text(max_size=5),
)
def test_an_older_token_has_the_claims_and_the_key_that_it_was_cached_with(
    raw: dict[str, Any], names: frozenset[str], confirmation: Confirmation | None, kid: str | None
) -> None:
    claims = Claims("main", "u", "c", names, names, " ".join(sorted(names)), raw, confirmation, kid)
    keys, cache = FakeKeys(), JwtCache(Bounds(3, 1 << 20), 300.0, max_recent=1)
    assert keys.key_set is not None
    for number, key in enumerate(KEYS):
        token = ValidatedToken(claims._replace(subject=str(number)))
        cache.put(bytes([number]), CachedJwt(token, NOW + 50, cast("KeyCache", keys), key, keys.key_set), NOW)
    for number, key in enumerate(KEYS):
        found = cache.get(bytes([number]), NOW)
        assert found is not None
        assert found.token.claims == claims._replace(subject=str(number))
        assert [type(value) for value in found.token.claims] == [type(value) for value in claims]
        assert (found.key, found.key_set, found.until) == (key, keys.key_set, NOW + 50)
        assert len(cache) == 3


def older(count: int = 50, max_recent: int = 10, **options: Any) -> tuple[LocalValidator, list[str]]:
    """A cache of this many tokens, most of which are octets."""
    local = LocalValidator(max_recent=max_recent, **options)
    tokens = [good(sub=f"u{number}", note="x" * 100) for number in range(count)]
    for token in tokens:
        local.claims(token)
    return local, tokens


def is_cached(local: LocalValidator, token: str, now: float = NOW) -> bool:
    """Looks without changing the cache's recent tokens."""
    return digest_of(token) in local.cache._entries


def test_older_tokens_are_found_and_become_recent_when_they_are_seen_often() -> None:
    local, tokens = older()
    for number, token in enumerate(tokens):
        first = local.claims(token)
        assert first.subject == f"u{number}"
        for _ in range(cache_module.UNPACK_INTERVAL):
            assert local.claims(token) == first
        assert not is_packed(local, token)
        assert local.claims(token) is local.claims(token)
    assert len(local.cache) == 50


def test_a_rotation_of_older_tokens_makes_few_of_them_recent() -> None:
    local, tokens = older()
    recent = [token for token in tokens if not is_packed(local, token)]
    for token in tokens[:8]:
        local.claims(token)
    assert sum(is_packed(local, token) for token in recent) == 1


def test_no_older_token_is_an_object_that_the_garbage_collector_visits() -> None:
    local, _ = older(max_recent=1)
    gc.collect()
    packed = local.cache._entries.packed
    assert len(packed) == 49
    assert not any(gc.is_tracked(each) for pair in packed.items() for each in pair)


def test_older_tokens_take_less_memory_and_are_evicted_before_recent_ones() -> None:
    tokens, sizes = 200, []
    for max_recent in (tokens, 1):
        local, _ = older(tokens, max_recent, max_entries=tokens)
        sizes.append(local.cache.used_bytes)
    assert sizes[1] < sizes[0] / 2
    bounded, made = older(tokens, max_bytes=sizes[1], max_entries=tokens)
    assert bounded.cache.used_bytes <= sizes[1]
    kept = [is_cached(bounded, token) for token in made]
    assert kept == sorted(kept)
    assert not kept[0]
    assert all(kept[-10:])


def test_an_older_token_is_not_found_once_it_has_expired_or_its_key_is_gone() -> None:
    local, tokens = older()
    entry = local.cache.get(digest_of(tokens[-1]), NOW)
    assert entry is not None
    assert local.cache.get(digest_of(tokens[0]), entry.until) is None
    assert not is_cached(local, tokens[0])
    keys, cache = FakeKeys(), JwtCache(Bounds(3, 1 << 20), 300.0, max_recent=1)
    assert keys.key_set is not None
    for number, key in enumerate(KEYS):
        token = ValidatedToken(CLAIMS)
        cache.put(bytes([number]), CachedJwt(token, NOW + 50, cast("KeyCache", keys), key, keys.key_set), NOW)
    keys.key_set = KeySet((KEYS[1], KEYS[2]))
    assert cache.get(bytes([0]), NOW) is None
    assert cache.get(bytes([1]), NOW) is not None
    keys.key_set = None
    assert cache.get(bytes([2]), NOW) is None


def test_a_copy_has_the_older_tokens_too_and_those_of_other_issuers_not() -> None:
    local, tokens = older()
    copy, none = (JwtCache(local.bounds, 300.0, max_recent=10) for _ in range(2))
    copy.copy_from(local.cache, {"main"}, NOW)
    none.copy_from(local.cache, {"other"}, NOW)
    assert len(copy) == 50
    assert len(none) == 0
    found = copy.get(digest_of(tokens[0]), NOW)
    assert found is not None
    assert found.token.claims == local.claims(tokens[0])
    shorter = JwtCache(local.bounds, 10.0, max_recent=10)
    shorter.copy_from(local.cache, {"main"}, NOW)
    assert shorter.get(digest_of(tokens[0]), NOW + 9) is not None
    assert shorter.get(digest_of(tokens[0]), NOW + 10) is None


def test_a_copy_for_the_same_issuers_unpacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    local, tokens = older()
    copy, less, smaller = (
        JwtCache(local.bounds, 300.0, 10),
        JwtCache(local.bounds, 300.0, 10),
        JwtCache(NO_CACHE, 300.0),
    )
    entry = local.cache.get(digest_of(tokens[-1]), NOW)
    assert entry is not None
    others = replace(entry, token=ValidatedToken(CLAIMS._replace(issuer="other")))
    local.cache.put(b"other", others, NOW)
    less.copy_from(local.cache, {"main"}, NOW)  # of one issuer of two, so each of them is looked at
    assert len(less) == 50
    assert less.get(b"other", NOW) is None
    smaller.copy_from(local.cache, {"main", "other"}, NOW)
    assert len(smaller) == 0
    monkeypatch.setattr(cache_module, "UnpackedJwt", None)
    copy.copy_from(local.cache, {"main", "other"}, NOW)
    assert list(copy._entries) == list(local.cache._entries)
    assert copy.used_bytes == local.cache.used_bytes


def test_an_older_token_keeps_the_responses_of_its_rules_and_their_charge() -> None:
    local = local_authorizer(max_recent=1)
    first, second = good(sub="first"), good(sub="second")
    sent = {}
    for path in (0, 1):
        growth_by(local, first, path)
        sent[path] = encode_response(local.decide(f"/{path}", first), ID)
    charged, used = local.validated(first).responses.charged, local.cache.used_bytes
    assert charged > 0
    growth_by(local, second)
    assert is_packed(local, first)
    for _ in range(cache_module.UNPACK_INTERVAL):
        assert local.validated(first).responses.charged == charged
        assert len(local.validated(first).responses) == 2
    assert not is_packed(local, first)
    for path, response in sent.items():
        assert growth_by(local, first, path) == 0
        assert encode_response(local.decide(f"/{path}", first), ID) == response
    local.cache._entries.discard(digest_of(second))
    assert local.cache.used_bytes == used


def test_a_copy_has_no_responses_of_the_rules_of_the_other_cache() -> None:
    local = local_authorizer(max_recent=1)
    first, second = good(sub="first"), good(sub="second")
    growth_by(local, first)
    growth_by(local, second)
    copy = JwtCache(local.bounds, 300.0, max_recent=1)
    copy.copy_from(local.cache, {"main"}, NOW)
    found = copy.get(digest_of(first), NOW)
    assert found is not None
    assert (len(found.token.responses), found.token.responses.charged) == (0, 0)


def is_packed(local: LocalValidator, token: str) -> bool:
    return digest_of(token) in local.cache._entries.packed


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
    made = growth_by(local, token)  # from the second request on
    assert growth_by(local, token, path=1) == made
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

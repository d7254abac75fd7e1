"""Validated JWTs, cached so that a signature is verified once.

Bounded in entries and in bytes. No I/O.

Recent tokens are objects, older ones octets, which take a third of the memory, and some microseconds more when they are
seen. The garbage collector visits every object, but not the inside of octets: with a hundred thousand tokens as
objects, one collection would hold decisions up for a third of a second.

Invariants:
- Keys are digests: no token is kept. Values are claims, never decisions: each request's rule is evaluated again.
- Only verified tokens enter, so a flood of forged ones evicts nothing.
- An entry is found only while its key is in the issuer's key set.
"""

from __future__ import annotations

import hashlib
import itertools
import marshal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from authz_service.core.bounded import BoundedMap
from authz_service.core.claims import Claims, ValidatedToken
from authz_service.core.confirmation import Confirmation
from authz_service.tokens.jwt.invalid import InvalidJwts

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from authz_service.core.bounded import Bounds
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.jwk import Key
    from authz_service.keys.keyset import KeySet

MAX_RECENT: Final = 4096  # tokens that are objects
# One in so many hits makes an older token recent: a token that is seen often soon is, and more tokens in rotation than
# may be recent do not displace each other all the time.
RENEWED: Final = 8
_PACKED_OVERHEAD: Final = 208  # bytes of the octets' object, the digest, and their places in a dictionary


@dataclass(slots=True)
class CachedJwt:
    """A validated JWT, and what its validity depends on."""

    token: ValidatedToken
    until: float  # seconds since the epoch: when it expires
    keys: KeyCache
    key: Key
    key_set: KeySet  # the last one in which the key was found


class _Entries(BoundedMap[bytes, CachedJwt]):
    """Recent tokens as objects and, when there are too many of those, the oldest of them as octets."""

    def __init__(self, bounds: Bounds, max_recent: int) -> None:
        super().__init__(bounds)
        self._max_entries = min(bounds.max_entries, max_recent)
        self._max_packed = bounds.max_entries - self._max_entries
        self.packed: dict[bytes, bytes] = {}
        self.rules = _RuleNumbers()

    def __len__(self) -> int:
        return len(self._values) + len(self.packed)

    def __contains__(self, digest: object) -> bool:
        return digest in self._values or digest in self.packed

    def __iter__(self) -> Iterator[bytes]:
        yield from self.packed
        yield from self._values

    def put(self, key: bytes, value: CachedJwt, size: int) -> None:
        """Add or replace an entry, as the youngest."""
        if self._max_packed and len(self._values) >= self._max_entries and key not in self._values:
            self._pack_oldest()
        super().put(key, value, size)

    def discard(self, key: bytes) -> None:
        super().discard(key)
        if key in self.packed:
            self.take_packed(key)

    def clear(self) -> None:
        super().clear()
        self.packed.clear()
        self._bytes_elsewhere = 0

    def take_packed(self, digest: bytes) -> bytes | None:
        """Remove an entry that is octets, and return them."""
        packed = self.packed.pop(digest, None)
        if packed is not None:
            self._bytes_elsewhere -= len(packed) + _PACKED_OVERHEAD
        return packed

    def may_pack(self, size: int) -> bool:
        """Whether an entry of this size may be octets: not a heavy one, since heavy ones share half of the bytes."""
        return self._max_packed > 0 and size <= self._max_light

    def put_packed(self, digest: bytes, packed: bytes) -> None:
        """Add an entry as octets, older than all objects."""
        if len(self.packed) >= self._max_packed:
            self.take_packed(next(iter(self.packed)))
        self.packed[digest] = packed
        self._bytes_elsewhere += len(packed) + _PACKED_OVERHEAD
        self._evict()

    def _pack_oldest(self) -> None:
        """Turn the oldest object into octets, or evict it."""
        digest, entry = next(iter(self._values.items()))
        size = self.size(digest)
        super().discard(digest)
        if self.may_pack(size):
            self.put_packed(digest, _pack(entry, size, self.rules))

    def _evict_one(self) -> None:
        if self.packed and not self._heavy_take_too_much:
            self.take_packed(next(iter(self.packed)))
        else:
            super()._evict_one()


class _RuleNumbers:
    """A number for each rule, different from those in other caches: a response is found by its own rule only."""

    _next = itertools.count()

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._rules: dict[int, object] = {}

    def number_of(self, rule: object) -> int:
        """The number of a rule."""
        number = self._numbers.get(rule)
        if number is None:
            number = self._numbers[rule] = next(self._next)
            self._rules[number] = rule
        return number

    def rule_of(self, number: int) -> object | None:
        """The rule with this number; None if it is one of another cache."""
        return self._rules.get(number)


def _pack(entry: CachedJwt, size: int, rules: _RuleNumbers) -> bytes:
    claims, responses = entry.token.claims, entry.token.responses
    confirmation = None if claims.confirmation is None else tuple(claims.confirmation)
    members: tuple[Any, ...] = (*claims._replace(confirmation=None), confirmation)
    prepared = [(rules.number_of(rule), response.values) for rule, response in responses.items()]
    bare = size - responses.charged
    return marshal.dumps((entry.until, bare, entry.key.identity, members, responses.charged, prepared))


class _Unpacked:
    """What the octets of an entry hold."""

    __slots__ = ("identity", "size", "token", "until")

    def __init__(self, packed: bytes, rules: _RuleNumbers) -> None:
        self.until: float
        self.size: int  # bytes as an object
        self.identity: tuple[str | None, bytes]  # of the key
        # The octets are our own, and never leave the process.
        self.until, self.size, self.identity, members, charged, prepared = marshal.loads(packed)  # noqa: S302
        *values, confirmation = members
        claims = Claims(*values)
        if confirmation is not None:
            claims = claims._replace(confirmation=Confirmation(*confirmation))
        self.token = ValidatedToken(claims)
        responses = [(rules.rule_of(number), values) for number, values in prepared]
        if all(rule is not None for rule, _ in responses):
            for rule, values in responses:
                self.token.responses.restore(rule, values, charged)
            self.size += self.token.responses.charged


class JwtCache:
    """The JWTs validated last. The oldest is evicted first: most lifetimes are alike, so it also expires first."""

    def __init__(self, bounds: Bounds, max_ttl: float, max_recent: int = MAX_RECENT) -> None:
        """``max_ttl`` is in seconds."""
        self._max_ttl = max_ttl
        self._entries = _Entries(bounds, max_recent)
        self._keys: dict[str, KeyCache] = {}  # by the issuer's name
        self.invalid = InvalidJwts(bounds, max_ttl)
        self._older_hits = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries."""
        return self._entries.used_bytes

    def copy_from(self, other: JwtCache, issuers: Container[str], now: float) -> None:
        """Copy another cache's tokens of these issuers, the newest of them if there is not room for all."""
        self._keys |= {issuer: keys for issuer, keys in other._keys.items() if issuer in issuers}
        for digest, packed in other._entries.packed.items():
            old = _Unpacked(packed, self._entries.rules)
            if old.token.claims.issuer not in issuers:
                continue
            if old.until <= now + self._max_ttl and self._entries.may_pack(old.size):
                self._entries.put_packed(digest, packed)
            elif (entry := self._entry_of(old, now)) is not None:
                self._put(digest, entry, old.size, now)
        for digest, entry in other._entries.items():
            token = entry.token
            if token.claims.issuer in issuers:
                # Without its responses, which are those of other rules.
                size = other._entries.size(digest) - token.responses.charged
                self._put(digest, replace(entry, token=ValidatedToken(token.claims)), size, now)

    def clear(self) -> None:
        """Evict everything."""
        self._entries.clear()
        self.invalid.clear()

    def get(self, digest: bytes, now: float) -> CachedJwt | None:
        """The entry, unless it has expired or its key has left the key set."""
        entry = self._entries.get(digest)
        if entry is None:
            return self._get_packed(digest, now)
        current = entry.keys.current(now)
        if now < entry.until and current is not None:
            if current is entry.key_set:
                return entry
            if entry.key in current:
                entry.key_set = current
                return entry
        self._entries.discard(digest)
        return None

    def put(self, digest: bytes, entry: CachedJwt, now: float) -> None:
        """Cache an entry until it expires, at most for ``max_ttl``."""
        self._keys[entry.token.claims.issuer] = entry.keys
        self._put(digest, entry, entry.token.claims.footprint(), now)

    def _put(self, digest: bytes, entry: CachedJwt, size: int, now: float) -> None:
        entry.until = min(entry.until, now + self._max_ttl)
        if entry.until > now:
            self._entries.put(digest, entry, size)
            entry.token.responses.charge_to(self._entries, digest)

    def _get_packed(self, digest: bytes, now: float) -> CachedJwt | None:
        packed = self._entries.packed.get(digest)
        if packed is None:
            return None
        old = _Unpacked(packed, self._entries.rules)
        entry = self._entry_of(old, now)
        if entry is None:
            self._entries.discard(digest)
            return None
        self._older_hits += 1
        if self._older_hits % RENEWED == 0:
            self._entries.put(digest, entry, old.size)
            entry.token.responses.charge_to(self._entries, digest)
        return entry

    def _entry_of(self, old: _Unpacked, now: float) -> CachedJwt | None:
        keys = self._keys[old.token.claims.issuer]
        current = keys.current(now)
        key = None if current is None else current.with_identity(old.identity)
        if current is None or key is None or now >= old.until:
            return None
        return CachedJwt(old.token, old.until, keys, key, current)


def digest_of(token: str) -> bytes:
    """A token's key in caches."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

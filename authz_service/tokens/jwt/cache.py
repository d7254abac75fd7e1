"""Validated JWTs, cached so that a signature is verified once.

Bounded in entries and in bytes. No I/O.

Recent tokens are objects. Older ones are packed into bytes (``packing``), which takes a third of the memory, and some
microseconds more when the token is seen. The garbage collector visits every object, but not the inside of bytes: with a
hundred thousand tokens as objects, one collection would hold decisions up for a third of a second.

Invariants:
- Keys are digests: no token is kept. Values are claims, never decisions: each request's rule is evaluated again.
- Only verified tokens enter, so a flood of forged ones evicts nothing.
- An entry is found only while its key is in the issuer's key set.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from authz_service.core.bounded import BoundedMap
from authz_service.core.claims import ValidatedToken
from authz_service.tokens.jwt.invalid import InvalidJwts
from authz_service.tokens.jwt.packing import CachedJwt, RuleNumbers, UnpackedJwt, pack

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from authz_service.core.bounded import Bounds
    from authz_service.keys.cache import KeyCache

MAX_RECENT: Final = 4096  # tokens that are not packed
# Every eighth hit of a packed token unpacks it for good: a token that is seen often soon is recent, and tokens in
# rotation, if more than may be recent, do not displace each other all the time.
UNPACK_INTERVAL: Final = 8
_PACKED_OVERHEAD: Final = 208  # bytes of the packed object, the digest, and their places in a dictionary


class _Entries(BoundedMap[bytes, CachedJwt]):
    """Recent tokens as objects; when there are too many of those, the oldest are packed."""

    def __init__(self, bounds: Bounds, max_recent: int) -> None:
        super().__init__(bounds)
        self._max_entries = min(bounds.max_entries, max_recent)
        self._max_packed = bounds.max_entries - self._max_entries
        self.packed: dict[bytes, bytes] = {}
        self.rules = RuleNumbers()

    def __len__(self) -> int:
        return len(self._values) + len(self.packed)

    def __contains__(self, digest: object) -> bool:
        return digest in self._values or digest in self.packed

    def __iter__(self) -> Iterator[bytes]:
        yield from self.packed
        yield from self._values

    def put(self, key: bytes, value: CachedJwt, size: int) -> None:
        """Add or replace an entry, as the youngest."""
        if key in self.packed:
            self._discard_packed(key)
        if self._max_packed and len(self._values) >= self._max_entries and key not in self._values:
            self._pack_oldest()
        super().put(key, value, size)

    def discard(self, key: bytes) -> None:
        super().discard(key)
        self._discard_packed(key)

    def clear(self) -> None:
        super().clear()
        self.packed.clear()
        self._bytes_elsewhere = 0

    def _discard_packed(self, digest: bytes) -> None:
        packed = self.packed.pop(digest, None)
        if packed is not None:
            self._bytes_elsewhere -= len(packed) + _PACKED_OVERHEAD

    def may_pack(self, size: int) -> bool:
        """Whether an entry of this size may be packed: not a heavy one, since heavy ones share half of the bytes."""
        return self._max_packed > 0 and size <= self._max_light

    def may_pack_all_of(self, other: _Entries) -> bool:
        """Whether every packed entry of another map may be packed here."""
        return self._max_packed > 0 and self._max_light >= other._max_light

    def put_packed(self, digest: bytes, packed: bytes) -> None:
        """Add a packed entry, older than all objects."""
        if len(self.packed) >= self._max_packed:
            self._discard_packed(next(iter(self.packed)))
        self.packed[digest] = packed
        self._bytes_elsewhere += len(packed) + _PACKED_OVERHEAD
        self._evict()

    def _pack_oldest(self) -> None:
        """Pack the oldest object, or evict it."""
        digest, entry = next(iter(self._values.items()))
        size = self.size(digest)
        super().discard(digest)
        if self.may_pack(size):
            self.put_packed(digest, pack(entry, size, self.rules))

    def _evict_one(self) -> None:
        if self.packed and not self._heavy_take_too_much:
            self._discard_packed(next(iter(self.packed)))
        else:
            super()._evict_one()


class JwtCache:
    """The JWTs validated last. The oldest is evicted first: most lifetimes are alike, so it also expires first."""

    def __init__(self, bounds: Bounds, max_ttl: float, max_recent: int = MAX_RECENT) -> None:
        """``max_ttl`` is in seconds."""
        self._max_ttl = max_ttl
        self._entries = _Entries(bounds, max_recent)
        self._keys: dict[str, KeyCache] = {}  # by the issuer's name
        self.invalid = InvalidJwts(bounds, max_ttl)
        self._packed_hits = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries."""
        return self._entries.used_bytes

    def copy_from(self, other: JwtCache, issuers: Container[str], now: float) -> None:
        """Copy another cache's tokens of these issuers, the newest of them if there is not room for all."""
        self._keys |= {issuer: keys for issuer, keys in other._keys.items() if issuer in issuers}
        as_they_are = (
            self._max_ttl >= other._max_ttl
            and self._entries.may_pack_all_of(other._entries)
            and all(issuer in issuers for issuer in other._keys)
        )
        for digest, packed in other._entries.packed.items():
            if as_they_are:  # nearly always, and unpacking a hundred thousand of them would take a second
                self._entries.put_packed(digest, packed)
                continue
            old = UnpackedJwt(packed, self._entries.rules)
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
            packed = self._entries.packed.get(digest)
            return None if packed is None else self._get_packed(digest, packed, now)
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

    def _get_packed(self, digest: bytes, packed: bytes, now: float) -> CachedJwt | None:
        old = UnpackedJwt(packed, self._entries.rules)
        entry = self._entry_of(old, now)
        if entry is None:
            self._entries.discard(digest)
            return None
        self._packed_hits += 1
        if self._packed_hits % UNPACK_INTERVAL == 0:
            self._entries.put(digest, entry, old.size)
            entry.token.responses.charge_to(self._entries, digest)
        return entry

    def _entry_of(self, old: UnpackedJwt, now: float) -> CachedJwt | None:
        keys = self._keys[old.token.claims.issuer]
        current = keys.current(now)
        key = None if current is None else current.with_identity(old.identity)
        if current is None or key is None or now >= old.until:
            return None
        return CachedJwt(old.token, old.until, keys, key, current)


def digest_of(token: str) -> bytes:
    """A token's key in caches."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

"""Validated JWTs, cached so that a signature is verified once.

Bounded in entries and in bytes. No I/O.

Invariants:
- Keys are digests: no token is kept. Values are claims, never decisions: each request's rule is evaluated again.
- Only verified tokens enter, so a flood of forged ones evicts nothing.
- An entry is found only while its key is in the issuer's key set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from authz_service.core.bounded import BoundedMap
from authz_service.core.claims import ValidatedToken

if TYPE_CHECKING:
    from collections.abc import Container

    from authz_service.core.bounded import Bounds
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.jwk import Key
    from authz_service.keys.keyset import KeySet


@dataclass(slots=True)
class CachedJwt:
    """A validated JWT, and what its validity depends on."""

    token: ValidatedToken
    until: float  # seconds since the epoch: when it expires
    keys: KeyCache
    key: Key
    key_set: KeySet  # the last one in which the key was found


class JwtCache:
    """The JWTs validated last. The oldest is evicted first: most lifetimes are alike, so it also expires first."""

    def __init__(self, bounds: Bounds, max_ttl: float) -> None:
        """``max_ttl`` is in seconds."""
        self._max_ttl = max_ttl
        self._entries: BoundedMap[bytes, CachedJwt] = BoundedMap(bounds)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries."""
        return self._entries.used_bytes

    def copy_from(self, other: JwtCache, issuers: Container[str], now: float) -> None:
        """Copy another cache's tokens of these issuers, the newest of them if there is not room for all."""
        for digest, entry in other._entries.items():
            token = entry.token
            if token.claims.issuer in issuers:
                # Without its responses, which are those of other rules.
                size = other._entries.size(digest) - token.responses.charged
                self._put(digest, replace(entry, token=ValidatedToken(token.claims)), size, now)

    def clear(self) -> None:
        """Evict everything."""
        self._entries.clear()

    def get(self, digest: bytes, now: float) -> CachedJwt | None:
        """The entry, unless it has expired or its key has left the key set."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
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
        self._put(digest, entry, entry.token.claims.footprint(), now)

    def _put(self, digest: bytes, entry: CachedJwt, size: int, now: float) -> None:
        entry.until = min(entry.until, now + self._max_ttl)
        if entry.until > now:
            self._entries.put(digest, entry, size)
            entry.token.responses.charge_to(self._entries, digest)


def digest_of(token: str) -> bytes:
    """A token's key in caches."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

"""Validated tokens, so that a signature is verified once.

Law: bounded in entries and in bytes, keyed by a digest so that no token is kept, and holding claims, never a decision:
each request's rule is asked anew. Only tokens that verified enter, so a flood of forged ones displaces nothing. A token
is weighed when it enters, and what is made of it later is charged when it is made; a hit weighs nothing.
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
    from authz_service.keys.keyset import Key, KeySet


@dataclass(slots=True)
class CachedJwt:
    """A token that verified: what it says, and what its validity hangs on."""

    token: ValidatedToken
    until: float  # seconds since the epoch: nothing is believed from here on
    keys: KeyCache
    key: Key
    key_set: KeySet  # the one in which the key was seen last


class JwtCache:
    """The tokens seen last. The oldest makes way: all live about equally long, so it is also the next to end.

    Of large tokens and others see ``BoundedMap``.
    """

    def __init__(self, bounds: Bounds, max_ttl: float) -> None:
        """``max_ttl`` is in seconds."""
        self._max_ttl = max_ttl
        self._entries: BoundedMap[bytes, CachedJwt] = BoundedMap(bounds)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """What the entries take."""
        return self._entries.used_bytes

    def copy_from(self, other: JwtCache, issuers: Container[str], now: float) -> None:
        """Remember what another cache knows of the tokens of these issuers, as far as the bounds of this one allow."""
        for digest, entry in other._entries.items():
            token = entry.token
            if token.claims.issuer in issuers:
                # Without its responses, which are those of other rules.
                size = other._entries.size(digest) - token.responses.account.charged
                self._put(digest, replace(entry, token=ValidatedToken(token.claims)), size, now)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def get(self, digest: bytes, now: float) -> CachedJwt | None:
        """The entry, unless its time has passed or its key has left the key set."""
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
        """Remember an entry until its own end, or for ``max_ttl`` if that is sooner."""
        self._put(digest, entry, entry.token.claims.footprint(), now)

    def _put(self, digest: bytes, entry: CachedJwt, size: int, now: float) -> None:
        entry.until = min(entry.until, now + self._max_ttl)
        if entry.until > now:
            self._entries.put(digest, entry, size)
            entry.token.responses.account.bind(self._entries, digest)


def digest_of(token: str) -> bytes:
    """The cache's key for a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

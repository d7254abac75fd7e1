"""Validated tokens, so that a signature is verified once.

Law: bounded, keyed by a digest so that no token is kept, and holding claims, never a decision: each request's rule is
asked anew. Only tokens that verified enter, so a flood of forged ones displaces nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from authz_service.core.claims import Claims
    from authz_service.keys.cache import KeyCache
    from authz_service.keys.keyset import Key, KeySet


@dataclass(slots=True)
class Entry:
    """A token that verified: what it says, and what its validity hangs on."""

    claims: Claims
    until: float  # seconds since the epoch: nothing is believed from here on
    keys: KeyCache
    key: Key
    key_set: KeySet  # the one in which the key was seen last


class TokenCache:
    """The tokens seen last. The oldest makes way: all live about equally long, so it is also the next to end."""

    def __init__(self, max_entries: int, max_ttl: float) -> None:
        self._max_entries = max_entries
        self._max_ttl = max_ttl
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def take_over(self, other: TokenCache, issuers: Container[str], now: float) -> None:
        """Remember what another cache knows of the tokens of these issuers, as far as the bounds of this one allow."""
        for digest, entry in other._entries.items():
            if entry.claims.issuer in issuers:
                claims = replace(entry.claims, remembered={})  # what was made of them was made by other rules
                self.put(digest, replace(entry, claims=claims), now)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def get(self, digest: bytes, now: float) -> Entry | None:
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
        del self._entries[digest]
        return None

    def put(self, digest: bytes, entry: Entry, now: float) -> None:
        """Remember an entry until its own end, or for ``max_ttl`` if that is sooner."""
        entry.until = min(entry.until, now + self._max_ttl)
        if self._max_entries == 0 or entry.until <= now:
            return
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[digest] = entry


def digest_of(token: str) -> bytes:
    """The cache's key for a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

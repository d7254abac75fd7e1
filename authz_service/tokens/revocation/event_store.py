"""Keeps the revocations of one issuer's security events for as long as a token could need them.

Pure. Adding an event again changes nothing, so a SET that is delivered twice is harmless.

Invariants:
- At most ``max_entries`` revocations, of ``ENTRY_BYTES`` each on average. When more come, those that expire first are
  evicted and counted.
"""

from __future__ import annotations

import heapq
from sys import getsizeof
from typing import TYPE_CHECKING, Final

from authz_service.tokens.revocation.revocations import Revocations, TokenParts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.core.claims import Claims
    from authz_service.tokens.revocation.revocations import Revocation

ENTRY_BYTES: Final = 1024
_OBJECTS = 500  # bytes of an entry beside its strings: tuples, a float, their places in the index and the heap
_SLACK = 64  # outdated items of the heap before it is built again


class EventStore:
    """The revocations of one issuer's events."""

    def __init__(self, keep: float, max_entries: int) -> None:
        """``keep`` is how many seconds a revocation counts, from its event on."""
        self._keep = keep
        self._max_entries = max_entries
        self._index = Revocations()
        self._bytes = 0
        # A heap, with outdated items. Plain tuples of values cost the collector of cycles nothing.
        self._by_time: list[tuple[float, tuple[str, ...]]] = []

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Revocation]:
        """All revocations. Nothing may be added or removed during the iteration."""
        return iter(self._index)

    def set_limits(self, keep: float, max_entries: int) -> int:
        """Change the limits; returns how many revocations were evicted before they expired."""
        self._keep, self._max_entries = keep, max_entries
        return self._evict()

    def add(self, revocation: Revocation, now: float) -> int:
        """Add a revocation; returns how many were evicted before they expired."""
        known = self._index.get(revocation.parts)
        if revocation.issued_before + self._keep <= now:
            return 0
        if known is None:
            self._bytes += _size(revocation)
        elif known.issued_before >= revocation.issued_before:
            return 0
        self._index.add(revocation)
        heapq.heappush(self._by_time, (revocation.issued_before, tuple(revocation.parts)))
        self.expire(now)
        evicted = self._evict()
        if len(self._by_time) > 2 * len(self._index) + _SLACK:
            self._by_time = [(each.issued_before, tuple(each.parts)) for each in self._index]
            heapq.heapify(self._by_time)
        return evicted

    def expire(self, now: float) -> None:
        """Remove what no token can need any more."""
        while self._by_time and self._by_time[0][0] + self._keep <= now:
            self._remove_first()

    def _evict(self) -> int:
        evicted = 0
        max_bytes = self._max_entries * ENTRY_BYTES
        while len(self._index) > self._max_entries or (self._bytes > max_bytes and len(self._index) > 1):
            evicted += self._remove_first()
        return evicted

    def _remove_first(self) -> bool:
        """Remove the first item of the heap; returns whether it was a revocation, not an outdated item."""
        issued_before, values = heapq.heappop(self._by_time)
        parts = TokenParts(*values)
        current = self._index.get(parts)
        if current is None or current.issued_before != issued_before:
            return False
        self._index.discard(parts)
        self._bytes -= _size(current)
        return True

    def find(self, claims: Claims) -> Revocation | None:
        """What revokes a token with these claims, if anything does."""
        return self._index.find(claims)


def _size(revocation: Revocation) -> int:
    """Bytes of memory, by the parts alone: the origin is one of few strings, and a later time takes as much."""
    return _OBJECTS + sum(getsizeof(part) for part in revocation.parts if part)

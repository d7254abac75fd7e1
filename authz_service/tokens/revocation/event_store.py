"""Keeps the revocations of one issuer's security events for as long as a token could need them.

Pure. Adding an event again changes nothing, so a SET that is delivered twice is harmless.

Invariants:
- At most ``max_entries`` revocations, of ``ENTRY_BYTES`` each on average. When more come, those that expire first are
  evicted and counted.
"""

from __future__ import annotations

import heapq
import itertools
from sys import getsizeof
from typing import TYPE_CHECKING, Final

from authz_service.tokens.revocation.revocations import Revocations, TokenParts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.core.claims import Claims
    from authz_service.tokens.revocation.revocations import Revocation

ENTRY_BYTES: Final = 1024
_OBJECTS = 500  # bytes of an entry beside its strings: tuples, a float, their places in the index and the heap


class EventStore:
    """The revocations of one issuer's events."""

    def __init__(self, keep: float, max_entries: int) -> None:
        """``keep`` is how many seconds a revocation counts, from its event on."""
        self._keep = keep
        self._max_entries = max_entries
        self._index = Revocations()
        self._bytes = 0
        # A heap with one item for each revocation, whose time may be an earlier one, until ``_remove_first`` sees it.
        # Of equal times, the one that was added first is the first. Plain tuples of values cost the collector of
        # cycles nothing.
        self._by_time: list[tuple[float, int, tuple[str, ...]]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Revocation]:
        """All revocations. Nothing may be added or removed during the iteration."""
        return iter(self._index)

    def set_limits(self, keep: float, max_entries: int) -> None:
        """Change the limits. What exceeds them is removed by ``trim``."""
        self._keep, self._max_entries = keep, max_entries

    def add(self, revocation: Revocation, now: float) -> int:
        """Add a revocation; returns how many were evicted before they expired."""
        known = self._index.get(revocation.parts)
        if self._has_expired(revocation.issued_before, now):
            return 0
        if known is None:
            self._bytes += _size(revocation.parts)
            self._push(revocation)
        self._index.add(revocation)
        evicted = 0
        while self._exceeds_limits():
            evicted += self._remove_first(now)
        return evicted

    def _push(self, revocation: Revocation) -> None:
        item = revocation.issued_before, next(self._numbers), tuple(revocation.parts)
        heapq.heappush(self._by_time, item)

    def needs_trim(self, now: float) -> bool:
        """Whether a revocation has expired, or there are too many."""
        return self._exceeds_limits() or (bool(self._by_time) and self._has_expired(self._by_time[0][0], now))

    def trim(self, now: float, steps: int) -> int:
        """Remove what has expired or is too much, in at most so many steps; returns how many had not expired."""
        evicted = 0
        while steps > 0 and self.needs_trim(now):
            evicted += self._remove_first(now)
            steps -= 1
        return evicted

    def _exceeds_limits(self) -> bool:
        count = len(self._index)
        return count > self._max_entries or (self._bytes > self._max_entries * ENTRY_BYTES and count > 1)

    def _has_expired(self, issued_before: float, now: float) -> bool:
        return issued_before + self._keep <= now

    def _remove_first(self, now: float) -> bool:
        """Remove the revocation with the earliest time; returns whether it had not expired.

        If it has a later time by now, it is not the first, and stays.
        """
        issued_before, _, values = heapq.heappop(self._by_time)
        parts = TokenParts(*values)
        latest = self._index.get(parts)
        if latest is not None and latest.issued_before > issued_before:
            self._push(latest)
            return False
        self._index.discard(parts)
        self._bytes -= _size(parts)
        return not self._has_expired(issued_before, now)

    def find(self, claims: Claims) -> Revocation | None:
        """What revokes a token with these claims, if anything does."""
        return self._index.find(claims)


def _size(parts: TokenParts) -> int:
    """Bytes of memory of a revocation of these parts."""
    return _OBJECTS + sum(getsizeof(part) for part in parts if part)

"""Keeps the revocations of one issuer's security events for as long as a token could need them.

Pure. Adding an event again changes nothing, so a SET that is delivered twice is harmless.

Invariants:
- At most ``max_entries`` revocations. When more come, those that expire first are evicted and counted.
- A snapshot has the whole content. One that is malformed, or of another issuer, is refused as a whole.
"""

from __future__ import annotations

import heapq
import json
from typing import TYPE_CHECKING, Any

from authz_service.core import strict_json
from authz_service.tokens.revocation.revocations import Revocation, Revocations, TokenParts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.core.claims import Claims

_SLACK = 64  # outdated items of the heap before it is built again
_MAX_TIME = 1e18  # a larger integer might not fit a float
_FIELDS = len(TokenParts._fields) + 2  # with the time and the origin


class EventStore:
    """The revocations of one issuer's events."""

    def __init__(self, keep: float, max_entries: int) -> None:
        """``keep`` is how many seconds a revocation counts, from its event on."""
        self._keep = keep
        self._max_entries = max_entries
        self._index = Revocations()
        self._by_parts: dict[TokenParts, Revocation] = {}
        self._expiries: list[tuple[float, TokenParts]] = []  # a heap, with outdated items

    def __len__(self) -> int:
        return len(self._by_parts)

    def add(self, revocation: Revocation, now: float) -> int:
        """Add a revocation; returns how many were evicted before they expired."""
        known = self._by_parts.get(revocation.parts)
        expires = revocation.issued_before + self._keep
        if expires <= now or (known is not None and known.issued_before >= revocation.issued_before):
            return 0
        self.expire(now)
        self._by_parts[revocation.parts] = revocation
        self._index.add(revocation)
        heapq.heappush(self._expiries, (expires, revocation.parts))
        evicted = 0
        while len(self._by_parts) > self._max_entries:
            evicted += self._remove_first()
        if len(self._expiries) > 2 * len(self._by_parts) + _SLACK:
            self._expiries = [(each.issued_before + self._keep, parts) for parts, each in self._by_parts.items()]
            heapq.heapify(self._expiries)
        return evicted

    def expire(self, now: float) -> None:
        """Remove what no token can need any more."""
        while self._expiries and self._expiries[0][0] <= now:
            self._remove_first()

    def _remove_first(self) -> bool:
        """Remove the first item of the heap; returns whether it was a revocation, not an outdated item."""
        expires, parts = heapq.heappop(self._expiries)
        current = self._by_parts.get(parts)
        if current is None or current.issued_before + self._keep != expires:
            return False
        del self._by_parts[parts]
        self._index.discard(parts)
        return True

    def find(self, claims: Claims) -> Revocation | None:
        """What revokes a token with these claims, if anything does."""
        return self._index.find(claims)

    def snapshot(self, issuer: str) -> bytes:
        """The content, for ``restore``."""
        entries = [[*parts, each.issued_before, each.origin] for parts, each in self._by_parts.items()]
        return json.dumps({"version": 1, "issuer": issuer, "entries": entries}).encode("ascii")

    def restore(self, snapshot: bytes, issuer: str, now: float) -> None:
        """Add the content of a snapshot.

        Raises:
            ValueError: if it is not one of this issuer. Nothing is added then.
        """
        match strict_json.loads(snapshot):
            case {"version": 1, "issuer": str(of), "entries": list(entries)} if of == issuer:
                pass
            case _:
                raise ValueError("not a snapshot of this issuer's events")
        for revocation in list(_read(entries)):
            self.add(revocation, now)


def _read(entries: list[Any]) -> Iterator[Revocation]:
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != _FIELDS:
            raise ValueError("an entry is not a list of the parts, the time and the origin")
        *parts, before, origin = entry
        if not all(isinstance(each, str) for each in (*parts, origin)) or not any(parts):
            raise ValueError("the parts of an entry are not strings, or all are empty")
        if not isinstance(before, (int, float)) or isinstance(before, bool) or not 0 <= before < _MAX_TIME:
            raise ValueError("the time of an entry is not a time")
        yield Revocation(TokenParts(*parts), float(before), origin)

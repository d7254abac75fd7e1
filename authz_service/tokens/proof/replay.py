"""The DPoP proofs that were accepted, so that each is accepted once (RFC 9449 section 11.1).

Pure, and bounded in entries. Only proofs with a valid signature may be recorded: a flood of forged ones then evicts
nothing.

Invariants:
- A proof that was recorded is found until it can no longer be accepted, unless its entry was evicted.
- The oldest entry is evicted first, and each eviction of an entry that was still needed is reported.
- A call removes at most ``_MAX_REMOVED`` entries, so that no request pays for many others.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY_BYTES = 16
_MAX_REMOVED = 4  # more than one, so that expired entries are removed faster than others are added


class ReplayCache:
    """The accepted proofs, by a digest of the key's thumbprint and ``jti``. Times are seconds since the epoch.

    An entry that has expired is removed once no older one precedes it; until then its proof still counts as seen.
    """

    def __init__(self, max_entries: int, on_eviction: Callable[[], None]) -> None:
        """``max_entries`` is at least 1. ``on_eviction`` is called for each entry evicted before it expired."""
        self._max_entries = max_entries
        self._on_eviction = on_eviction
        self._until: dict[bytes, int] = {}  # when an entry expires
        self._order: deque[bytes] = deque()  # the keys, the oldest first: a dictionary is slow at finding its first key
        self._last_until = 0  # shared by the entries of one second, which is cheaper than an object for each

    def __len__(self) -> int:
        return len(self._order)

    def resized(self, max_entries: int) -> ReplayCache:
        """This cache with another maximum: both share their entries.

        What exceeds the maximum is evicted little by little, by the next calls of ``seen``.
        """
        other = ReplayCache(max_entries, self._on_eviction)
        other._until, other._order = self._until, self._order
        return other

    def seen(self, thumbprint: bytes, jti: str, now: float, until: float) -> bool:
        """Whether this proof was recorded before. If not, record it until ``until``.

        ``thumbprint`` is that of the proof's key and has the same length for every key.
        """
        key = hashlib.sha256(thumbprint + jti.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]
        if key in self._until:
            return True
        self._make_room(now)
        if self._last_until != (rounded := math.ceil(until)):
            self._last_until = rounded
        self._until[key] = self._last_until
        self._order.append(key)
        return False

    def _make_room(self, now: float) -> None:
        for _ in range(min(_MAX_REMOVED, len(self._order))):
            expired = self._until[self._order[0]] < now
            if not expired and len(self._order) < self._max_entries:
                return
            del self._until[self._order.popleft()]
            if not expired:
                self._on_eviction()

"""The DPoP proofs that were accepted, so that each is accepted once (RFC 9449 section 11.1).

Pure, and bounded in entries. Only proofs with a valid signature may be recorded: a flood of forged ones then evicts
nothing.

Invariants:
- A proof that was recorded is found until it can no longer be accepted, unless its entry was evicted; so are all that
  may have been removed before a longer maximum age made them acceptable again.
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

    def __init__(self, max_entries: int, max_age: float, on_eviction: Callable[[], None]) -> None:
        """``max_entries`` is at least 1. ``max_age`` is how long a proof is accepted after its ``iat``, in seconds.

        ``on_eviction`` is called for each entry evicted before it expired.
        """
        self._max_entries = max_entries
        self._max_age = max_age
        self._on_eviction = on_eviction
        self._issued: dict[bytes, int] = {}  # the iat of a proof, rounded up
        self._order: deque[bytes] = deque()  # the keys, the oldest first: a dictionary is slow at finding its first key
        self._last_issued = 0  # shared by the entries of one second, which is cheaper than an object for each
        self._last_expired = -math.inf  # the latest iat of all entries that were removed since they had expired
        self._known_from = -math.inf  # of earlier proofs, entries may have been removed that are needed again

    def __len__(self) -> int:
        return len(self._order)

    def with_limits(self, max_entries: int, max_age: float) -> ReplayCache:
        """This cache with other limits: both share their entries.

        What exceeds the maximum is evicted little by little, by the next calls of ``seen``.
        """
        if max_age > self._max_age:  # in this cache as well: a request in progress must not remove what is needed now
            self._max_age, self._known_from = max_age, self._last_expired
        other = ReplayCache(max_entries, max_age, self._on_eviction)
        other._issued, other._order = self._issued, self._order
        other._last_expired, other._known_from = self._last_expired, self._known_from
        return other

    def seen(self, thumbprint: bytes, jti: str, now: float, issued_at: float) -> bool:
        """Whether this proof was, or may have been, recorded before. If not, record it.

        ``thumbprint`` is that of the proof's key and has the same length for every key.
        """
        key = hashlib.sha256(thumbprint + jti.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]
        if key in self._issued or issued_at <= self._known_from:
            return True
        self._make_room(now - self._max_age)
        if self._last_issued != (rounded := math.ceil(issued_at)):
            self._last_issued = rounded
        self._issued[key] = self._last_issued
        self._order.append(key)
        return False

    def _make_room(self, oldest: float) -> None:
        """``oldest`` is the ``iat`` of the oldest proof that is still accepted."""
        for _ in range(min(_MAX_REMOVED, len(self._order))):
            issued_at = self._issued[self._order[0]]
            expired = issued_at < oldest
            if not expired and len(self._order) < self._max_entries:
                return
            del self._issued[self._order.popleft()]
            if expired:
                self._last_expired = max(self._last_expired, issued_at)
            else:
                self._on_eviction()

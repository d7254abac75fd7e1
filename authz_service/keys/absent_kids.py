"""Key ids that an issuer's key set is known not to have, so that they cause no further fetch. Pure and bounded.

A key may be published just after its ``kid`` was looked up, so a ``kid`` counts as absent for a short time at first and
for twice as long after each further fetch without it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from authz_service.core.bounded import BoundedMap, Bounds

MAX_KIDS: Final = 1000  # the oldest is evicted first


class _Absence(NamedTuple):
    since: float
    until: float


class AbsentKids:
    """The absent key ids of one issuer. Times are seconds since the epoch."""

    def __init__(self, first_ttl: float, max_ttl: float) -> None:
        """``first_ttl`` and ``max_ttl`` are seconds for which a ``kid`` counts as absent."""
        self._first_ttl = first_ttl
        self._max_ttl = max(first_ttl, max_ttl)
        self._absences: BoundedMap[str, _Absence] = BoundedMap(Bounds(MAX_KIDS, MAX_KIDS))

    def __len__(self) -> int:
        return len(self._absences)

    def has(self, kid: str, now: float) -> bool:
        """Whether the ``kid`` counts as absent now; not if the clock was set back to before it was added."""
        absence = self._absences.get(kid)
        return absence is not None and absence.since <= now < absence.until

    def add(self, kid: str, now: float) -> None:
        """The key set that was just fetched does not have this ``kid``."""
        previous = self._absences.get(kid)
        ttl = self._first_ttl if previous is None else min(2 * (previous.until - previous.since), self._max_ttl)
        self._absences.put(kid, _Absence(now, now + ttl), 1)

"""The metrics of one issuer: its keys, its introspection, and its security events.

When a reload removes the issuer, the counters stay until the process ends: a counter that disappears and comes back
looks like a restart. The gauges disappear: nothing updates them anymore.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.telemetry.families import Families

FetchResult = Literal["success", "not_modified", "failure"]
IntrospectionResult = Literal["active", "inactive", "failure"]
SecurityEventType = Literal[
    "session-revoked",
    "sessions-revoked",
    "account-disabled",
    "account-purged",
    "verification",
    "stream-updated",
    "other",
    "rejected",
]
RefusalReason = Literal["full", "open"]
_BREAKER_STATES = ("closed", "open", "half_open")


class IssuerMetrics:
    """The metrics of fetching one issuer's keys.

    During a reload an issuer may have two key caches for a while. Both count into the same counters; the gauges report
    the one whose metrics were exposed last.
    """

    def __init__(self, families: Families, name: str) -> None:
        self._families = families
        self._name = name
        self._exposed = False
        self._fetches = {result: families.jwks_fetches.labels(name, result) for result in get_args(FetchResult)}
        self._duration = families.jwks_fetch_duration.labels(name)
        self._unknown_kid = families.jwks_unknown_kid.labels(name)
        self._key_count = 0
        self._last_success = 0.0  # seconds since the epoch
        self._age: Callable[[], float] = float
        self._stale: Callable[[], float] = float
        self._usable_until: Callable[[], float] = float

    def watch(self, *, age: Callable[[], float], stale: Callable[[], bool], usable_until: Callable[[], float]) -> None:
        """Report these, in seconds and seconds since the epoch, each time the metrics are read."""
        self._age, self._stale, self._usable_until = age, stale, usable_until
        if self._exposed:
            self.expose()

    def expose(self) -> None:
        """Let the issuer's gauges report the values of this object."""
        self._exposed = True
        families, name = self._families, self._name
        families.jwks_keys.labels(name).watch(lambda: self._key_count)
        families.jwks_last_success.labels(name).watch(lambda: self._last_success)
        families.jwks_age.labels(name).watch(self._age)
        families.jwks_stale.labels(name).watch(self._stale)
        families.jwks_usable_until.labels(name).watch(self._usable_until)

    def record_fetch(self, result: FetchResult, seconds: float) -> None:
        """Record an attempt to fetch the keys, and its duration."""
        self._fetches[result].increase()
        self._duration.observe(seconds)
        if self._families.spans is not None:
            self._families.spans.record_root("key fetch", seconds, self._name, result)

    def record_key_count(self, count: int) -> None:
        """Record the number of usable keys in the key set."""
        self._key_count = count

    def record_success(self, at: float) -> None:
        """Record that the keys were current at this time, in seconds since the epoch."""
        self._last_success = at

    def record_unknown_kid(self) -> None:
        """Record a token with a key id that is not in the key set."""
        self._unknown_kid.increase()


class IntrospectionMetrics:
    """The metrics of one issuer's introspection. For ``expose`` see ``IssuerMetrics``."""

    def __init__(self, families: Families, name: str) -> None:
        self._families = families
        self._name = name
        self._exposed = False
        self._calls = {result: families.introspections.labels(name, result) for result in get_args(IntrospectionResult)}
        self._duration = families.introspection_duration.labels(name)
        self._refusals = {
            reason: families.introspection_refusals.labels(name, reason) for reason in get_args(RefusalReason)
        }
        self.record_cache_hit: Callable[[], None] = families.introspection_cache_lookups.labels(name, "hit").increase
        self.record_cache_miss: Callable[[], None] = families.introspection_cache_lookups.labels(name, "miss").increase
        self._in_flight: Callable[[], int] = int
        self._state: Callable[[], str] = str
        self._entries: Callable[[], int] = int
        self._size: Callable[[], int] = int

    def watch(
        self,
        *,
        in_flight: Callable[[], int],
        state: Callable[[], str],
        entries: Callable[[], int],
        size: Callable[[], int],
    ) -> None:
        """Report these each time the metrics are read; ``state`` is the circuit breaker's, ``size`` is in bytes."""
        self._in_flight, self._state, self._entries, self._size = in_flight, state, entries, size
        if self._exposed:
            self.expose()

    def expose(self) -> None:
        """Let the issuer's gauges report the values of this object."""
        self._exposed = True
        families, name = self._families, self._name
        families.introspections_in_flight.labels(name).watch(self._in_flight)
        families.introspection_cache_entries.labels(name).watch(self._entries)
        families.introspection_cache_bytes.labels(name).watch(self._size)
        families.introspection_breaker_open.labels(name).watch(lambda: self._state() not in {"", "closed"})
        for state in _BREAKER_STATES:
            families.introspection_breaker.labels(name, state).watch(partial(self._is_in, state))

    def _is_in(self, state: str) -> bool:
        return self._state() == state

    def record_refusal(self, reason: RefusalReason) -> None:
        """Record a token for which the server was not called."""
        self._refusals[reason].increase()

    def record_call(self, result: IntrospectionResult, seconds: float) -> None:
        """Record a call and its duration."""
        self._calls[result].increase()
        self._duration.observe(seconds)


class SecurityEventMetrics:
    """The metrics of one issuer's security events. For ``expose`` see ``IssuerMetrics``."""

    def __init__(self, families: Families, name: str) -> None:
        self._families = families
        self._name = name
        self._exposed = False
        self._events = {each: families.security_events.labels(name, each) for each in get_args(SecurityEventType)}
        self._evicted = families.revocations_evicted.labels(name)
        self._age: Callable[[], float] = float

    def watch(self, age: Callable[[], float]) -> None:
        """Report this age, in seconds, each time the metrics are read."""
        self._age = age
        if self._exposed:
            self.expose()

    def expose(self) -> None:
        """Let the issuer's gauges report the values of this object."""
        self._exposed = True
        self._families.security_events_age.labels(self._name).watch(self._age)

    def record_poll(self, seconds: float, *, success: bool) -> None:
        """Record a poll and its duration."""
        if self._families.spans is not None:
            self._families.spans.record_root("event poll", seconds, self._name, "success" if success else "failure")

    def record_event(self, kind: SecurityEventType) -> None:
        """Record an event that was received, or a SET that was rejected."""
        self._events[kind].increase()

    def record_evictions(self, count: int) -> None:
        """Record revocations that were evicted before their time was over."""
        self._evicted.add(count)

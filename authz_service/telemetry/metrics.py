"""The metrics: every name, its labels, its meaning.

Law: a label's value comes from the configuration or from a closed list, never from a request. Nothing is global: each
``Metrics`` has a registry of its own. Series that can be known stand at 0 from the start, so that a first increase is
seen as one.

Counters of a rule or an issuer that a reload took away stay until the process ends: one that vanishes and comes back
would look like a restart. Gauges of an issuer go with it: they would tell of keys that nobody keeps fresh any more.
"""

from __future__ import annotations

import platform
import re
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from authz_service import __version__
from authz_service.core.decision import NO_RULE_NAME
from authz_service.core.reasons import ALLOWANCES, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from authz_service.core.decision import Decision, Mode

FetchResult = Literal["success", "not_modified", "failure"]
Introspected = Literal["active", "inactive", "failure"]
Refused = Literal["full", "open"]
_BREAKER_STATES = ("closed", "open", "half_open")

# Seconds. Fine where decisions are (a remembered token, then a verified signature), and with a bound at the two times
# that matter beyond: Envoy's default timeout (200 ms) and our own default deadline (1 s).
_CHECK_BUCKETS = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6),
    *(0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 2.5),
)
_FETCH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
# Seconds. Below a millisecond the loop's own timers are not exact; from there on, what a request waits.
_DELAY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)

# What can be decided before a rule was reached.
_WITHOUT_RULE = (
    Reason.AMBIGUOUS_PATH,
    Reason.MALFORMED_REQUEST,
    Reason.NO_RULE,
    Reason.INTERNAL_ERROR,
    Reason.DEADLINE_EXCEEDED,
)

# The formats that are known here. Any other version in an Accept header would be promised back, or break the choice.
_VERSION = re.compile(r"version\s*=\s*([^;,\s]*)")
_KNOWN_VERSIONS = frozenset({"0.0.1", "0.0.4", "1.0.0"})


class _Families:
    """Every metric, without its series. This is the one place for names, labels and meanings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checks = Counter(
            "authz_checks_total",
            "Decisions. rule is - where none was reached; those of mode shadow were told and not enforced.",
            ("decision", "reason", "rule", "mode"),
            registry=registry,
        )
        self.check_duration = Histogram(
            "authz_check_duration_seconds",
            "Time from a request's arrival to its decision, waiting for keys included.",
            ("decision",),
            buckets=_CHECK_BUCKETS,
            registry=registry,
        )
        self.checks_in_flight = Gauge(
            "authz_checks_in_flight", "Requests that have arrived and are not decided yet.", registry=registry
        )
        self.token_cache_lookups = Counter(
            "authz_token_cache_lookups_total",
            "Tokens looked for among the validated ones.",
            ("result",),
            registry=registry,
        )
        self.token_cache_entries = Gauge(
            "authz_token_cache_entries", "Validated tokens that are remembered.", registry=registry
        )
        self.token_cache_bytes = Gauge(
            "authz_token_cache_bytes", "What the remembered tokens take, of token_cache.max_bytes.", registry=registry
        )
        self.jwks_fetches = Counter(
            "authz_jwks_fetches_total", "Attempts to fetch an issuer's keys.", ("issuer", "result"), registry=registry
        )
        self.jwks_fetch_duration = Histogram(
            "authz_jwks_fetch_duration_seconds",
            "Duration of an attempt to fetch an issuer's keys, discovery included.",
            ("issuer",),
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self.jwks_keys = Gauge("authz_jwks_keys", "Usable keys in an issuer's key set.", ("issuer",), registry=registry)
        self.jwks_last_success = Gauge(
            "authz_jwks_last_success_timestamp_seconds",
            "When an issuer's keys were last fetched, or found unchanged; 0 before the first time.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_stale = Gauge(
            "authz_jwks_stale",
            "1 while a refresh of an issuer's keys is overdue: the last good ones serve, or none do.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_age = Gauge(
            "authz_jwks_age_seconds",
            "Time since an issuer's keys were last known to be current; +Inf before the first time.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_usable_until = Gauge(
            "authz_jwks_usable_until_timestamp_seconds",
            "Until when an issuer's keys serve if the provider cannot be reached any more; 0 before the first time.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_unknown_kid = Counter(
            "authz_jwks_unknown_kid_total",
            "Tokens that named a key which is not in the issuer's key set.",
            ("issuer",),
            registry=registry,
        )
        self.introspections = Counter(
            "authz_introspections_total",
            "Calls to an issuer's introspection server, by what it said of the token.",
            ("issuer", "result"),
            registry=registry,
        )
        self.introspection_duration = Histogram(
            "authz_introspection_duration_seconds",
            "Duration of a call to an issuer's introspection server, without waiting for a turn.",
            ("issuer",),
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self.introspections_in_flight = Gauge(
            "authz_introspections_in_flight",
            "Calls to an issuer's introspection server that are not answered yet.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_breaker = Gauge(
            "authz_introspection_breaker_state",
            "1 for the state of an issuer's circuit breaker, 0 for the others. open: nothing is asked; half_open: few "
            "calls may try.",
            ("issuer", "state"),
            registry=registry,
        )
        self.introspection_breaker_open = Gauge(
            "authz_introspection_breaker_open",
            "1 unless an issuer's circuit breaker is closed: hardly any token that is not remembered is asked about.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_cache_lookups = Counter(
            "authz_introspection_cache_lookups_total",
            "Tokens looked for among an issuer's remembered answers.",
            ("issuer", "result"),
            registry=registry,
        )
        self.introspection_cache_entries = Gauge(
            "authz_introspection_cache_entries",
            "Answers of an issuer's introspection server that are remembered.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_cache_bytes = Gauge(
            "authz_introspection_cache_bytes",
            "What the remembered answers of an issuer's introspection server take, of token_cache.max_bytes.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_refusals = Counter(
            "authz_introspection_refusals_total",
            "Tokens that an issuer's introspection server was not asked about: full: too many calls are in flight and "
            "waiting; open: so says the circuit breaker.",
            ("issuer", "reason"),
            registry=registry,
        )
        self.config_reloads = Counter(
            "authz_config_reloads_total",
            "Attempts to take over a changed configuration.",
            ("result",),
            registry=registry,
        )
        self.config_last_reload_successful = Gauge(
            "authz_config_last_reload_successful",
            "1 when the newest configuration serves, 0 when it was refused and an older one does.",
            registry=registry,
        )
        self.config_last_reload_success = Gauge(
            "authz_config_last_reload_success_timestamp_seconds",
            "When the configuration that serves was taken over.",
            registry=registry,
        )
        self.certificate_since = Gauge(
            "authz_tls_certificate_not_before_timestamp_seconds",
            "Since when the server's certificate and those above it in its file are valid; 0 without TLS.",
            registry=registry,
        )
        self.certificate_until = Gauge(
            "authz_tls_certificate_not_after_timestamp_seconds",
            "When the first of the server's certificate and those above it in its file expires; 0 without TLS.",
            registry=registry,
        )
        self.event_loop_delay = Histogram(
            "authz_event_loop_delay_seconds",
            "How late the event loop does what it had promised to do at a time, which every request waits as well.",
            buckets=_DELAY_BUCKETS,
            registry=registry,
        )
        self.build_info = Gauge(
            "authz_build_info",
            "Always 1; its labels say what runs.",
            ("version", "python", "transport"),
            registry=registry,
        )

        # What tells of the state of something that may go while the process lives on.
        self.of_keys = (
            *(self.jwks_keys, self.jwks_last_success, self.jwks_stale, self.jwks_age),
            self.jwks_usable_until,
        )
        self.of_introspection = (
            *(self.introspections_in_flight, self.introspection_breaker, self.introspection_breaker_open),
            *(self.introspection_cache_entries, self.introspection_cache_bytes),
        )


class Metrics:
    """The numbers of one running service. Methods belong to the event loop's thread where they do not say otherwise."""

    def __init__(self, *, transport: str) -> None:
        self.registry = _process_registry()
        self.in_flight = 0  # counted up and down by the transport, read when it is asked for
        self._families = families = _Families(self.registry)
        families.checks_in_flight.set_function(lambda: self.in_flight)
        families.build_info.labels(__version__, platform.python_version(), transport).set(1)
        self.token_cache_hit: Callable[[], None] = families.token_cache_lookups.labels("hit").inc
        self.token_cache_miss: Callable[[], None] = families.token_cache_lookups.labels("miss").inc
        self._reload_succeeded: Callable[[], None] = families.config_reloads.labels("success").inc
        self._reload_failed: Callable[[], None] = families.config_reloads.labels("failure").inc
        # What to call for a decision: the counter, then the histogram.
        self._counting: dict[tuple[Reason, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self.declare_rules([(NO_RULE_NAME, "enforce", _WITHOUT_RULE)])

    # Decisions.

    def declare_rules(self, rules: Iterable[tuple[str, Mode, Iterable[Reason]]]) -> None:
        """Create the series of each rule for the reasons that its decisions can have. May be called from any thread."""
        for rule, mode, reasons in rules:
            for reason in reasons:
                if (reason, rule, mode) not in self._counting:
                    self._declare(reason, rule, mode)

    def count(self, decision: Decision, seconds: float) -> None:
        """Count a decision that took so long. Called for every request, so it only looks up what stands ready."""
        try:
            increase, observe = self._counting[decision.reason, decision.rule, decision.mode]
        except KeyError:
            increase, observe = self._declare(decision.reason, decision.rule, decision.mode)
        increase()
        observe(seconds)

    def _declare(self, reason: Reason, rule: str, mode: str) -> tuple[Callable[[], None], Callable[[float], None]]:
        decision = "allow" if reason in ALLOWANCES else "deny"
        counting = (
            self._families.checks.labels(decision, reason, rule, mode).inc,
            self._families.check_duration.labels(decision).observe,
        )
        self._counting[reason, rule, mode] = counting
        return counting

    # What the service stands on.

    def watch_token_cache(self, *, entries: Callable[[], int], size: Callable[[], int]) -> None:
        """Report these, ``size`` in bytes, as the token cache's, each time the metrics are read."""
        self._families.token_cache_entries.set_function(entries)
        self._families.token_cache_bytes.set_function(size)

    def issuer(self, name: str, *, exposed: bool = True) -> IssuerMetrics:
        """The metrics of one issuer, with all counters at 0. Its gauges appear now, or when ``expose`` is called."""
        metrics = IssuerMetrics(self._families, name)
        if exposed:
            metrics.expose()
        return metrics

    def forget_issuer(self, name: str) -> None:
        """The issuer is not configured any more: its gauges go, its counters stay."""
        for gauge in self._families.of_keys:
            gauge.remove_by_labels({"issuer": name})

    def forget_introspection(self, name: str) -> None:
        """The issuer is not asked about tokens any more: the gauges go, the counters stay."""
        for gauge in self._families.of_introspection:
            gauge.remove_by_labels({"issuer": name})

    def introspection(self, name: str, *, exposed: bool = True) -> IntrospectionMetrics:
        """The metrics of one issuer's introspection, with all counters at 0. For ``exposed`` see ``issuer``."""
        metrics = IntrospectionMetrics(self._families, name)
        if exposed:
            metrics.expose()
        return metrics

    def configured(self, at: float) -> None:
        """The configuration that serves was taken over at this time, in seconds since the epoch."""
        self._families.config_last_reload_successful.set(1)
        self._families.config_last_reload_success.set(at)

    def reloaded(self, *, success: bool, at: float) -> None:
        """A changed configuration was taken over, or refused."""
        if success:
            self._reload_succeeded()
            self.configured(at)
        else:
            self._reload_failed()
            self._families.config_last_reload_successful.set(0)

    def watch_certificate(self, valid: Callable[[], tuple[float, float]]) -> None:
        """Report the server's certificate as valid between these times, each time the metrics are read.

        ``valid`` is called from any thread.
        """
        self._families.certificate_since.set_function(lambda: valid()[0])
        self._families.certificate_until.set_function(lambda: valid()[1])

    def loop_was_late(self, seconds: float) -> None:
        """The event loop was so late."""
        self._families.event_loop_delay.observe(seconds)

    # Reading.

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their content type: OpenMetrics where the Accept header asks for it, else Prometheus text.

        May be called from any thread.
        """
        return exposition_of(self.registry, accept)


class SupervisorMetrics:
    """The numbers of a process that runs workers, beside theirs."""

    def __init__(self) -> None:
        self.registry = _process_registry()
        self.worker_restarted: Callable[[], None] = Counter(
            "authz_worker_restarts_total", "Workers that ended by themselves and were replaced.", registry=self.registry
        ).inc


def exposition_of(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """A registry's metrics and their content type, as the Accept header asks for them."""
    encode, content_type = _encoder(accept)
    return encode(registry), content_type


def content_type_of(accept: str) -> str:
    """What ``exposition_of`` makes of this Accept header; where it is the same, so are the bytes."""
    return _encoder(accept)[1]


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    known = _KNOWN_VERSIONS.issuperset(_VERSION.findall(accept))
    return choose_encoder(accept if known else "")


class IssuerMetrics:
    """The metrics of fetching one issuer's keys.

    During a reload an issuer may have two key caches for a while. Both count into the same counters; the gauges report
    the one whose metrics were exposed last.
    """

    def __init__(self, families: _Families, name: str) -> None:
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
        families.jwks_keys.labels(name).set_function(lambda: self._key_count)
        families.jwks_last_success.labels(name).set_function(lambda: self._last_success)
        families.jwks_age.labels(name).set_function(self._age)
        families.jwks_stale.labels(name).set_function(self._stale)
        families.jwks_usable_until.labels(name).set_function(self._usable_until)

    def fetched(self, result: FetchResult, seconds: float) -> None:
        """Record an attempt to fetch the keys, and its duration."""
        self._fetches[result].inc()
        self._duration.observe(seconds)

    def keys(self, count: int) -> None:
        """Record the number of usable keys in the key set."""
        self._key_count = count

    def succeeded(self, at: float) -> None:
        """Record that the keys were current at this time, in seconds since the epoch."""
        self._last_success = at

    def unknown_kid(self) -> None:
        """Record a token with a key ID that is not in the key set."""
        self._unknown_kid.inc()


class IntrospectionMetrics:
    """The metrics of one issuer's introspection. For ``expose`` see ``IssuerMetrics``."""

    def __init__(self, families: _Families, name: str) -> None:
        self._families = families
        self._name = name
        self._exposed = False
        self._calls = {result: families.introspections.labels(name, result) for result in get_args(Introspected)}
        self._duration = families.introspection_duration.labels(name)
        self._refusals = {reason: families.introspection_refusals.labels(name, reason) for reason in get_args(Refused)}
        self.cache_hit: Callable[[], None] = families.introspection_cache_lookups.labels(name, "hit").inc
        self.cache_miss: Callable[[], None] = families.introspection_cache_lookups.labels(name, "miss").inc
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
        families.introspections_in_flight.labels(name).set_function(self._in_flight)
        families.introspection_cache_entries.labels(name).set_function(self._entries)
        families.introspection_cache_bytes.labels(name).set_function(self._size)
        families.introspection_breaker_open.labels(name).set_function(lambda: self._state() not in {"", "closed"})
        for state in _BREAKER_STATES:
            families.introspection_breaker.labels(name, state).set_function(partial(self._is_in, state))

    def _is_in(self, state: str) -> bool:
        return self._state() == state

    def refused(self, reason: Refused) -> None:
        """Record a token for which the server was not called."""
        self._refusals[reason].inc()

    def called(self, result: Introspected, seconds: float) -> None:
        """Record a call and its duration."""
        self._calls[result].inc()
        self._duration.observe(seconds)


class _Registry(CollectorRegistry):
    """A registry without the ``_created`` series, which double the number of series and tell a start time at best.

    The library's own switch for them would hold for the whole process.
    """

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _process_registry() -> _Registry:
    """A registry that tells of its process."""
    registry = _Registry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry

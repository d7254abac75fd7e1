"""The metrics: each name, with its labels and meaning, is defined here and nowhere else.

Invariants:

* A label value comes from the configuration or from a closed list, never from a request.
* Nothing is global: each ``Metrics`` has its own registry.
* A series that can be known in advance exists with value 0 from the start, so that its first increase is visible.
* When a reload removes a rule or an issuer, its counters stay until the process ends: a counter that disappears and
  comes back looks like a restart. The gauges of a removed issuer disappear: nothing updates them anymore.
"""

from __future__ import annotations

import platform
import re
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from authz_service import __version__
from authz_service.core.connection_failure import ConnectionFailure
from authz_service.core.correlation import NO_CORRELATION
from authz_service.core.decision import NO_RULE_NAME
from authz_service.core.reasons import ALLOWANCES, ANSWERS, Reason
from authz_service.telemetry.spans import SpanResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from authz_service.core.correlation import Correlation
    from authz_service.core.decision import Decision, Mode
    from authz_service.telemetry.spans import SpanRecorder, Wait

    class Observe(Protocol):
        """``Histogram.observe``."""

        def __call__(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
            """Observe a value, with the trace that it belongs to."""


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
    "refused",
]
RefusalReason = Literal["full", "open"]
# accepted: until its HTTP/2 preface; empty: closed by the peer without an octet; refused: there was no room for it.
ConnectionResult = Literal["accepted", "empty", "failed", "refused"]
_BREAKER_STATES = ("closed", "open", "half_open")

# Seconds. Narrow where decisions are (a cached token, a verified signature), with a bound at Envoy's default timeout
# (200 ms) and at our default deadline (1 s).
_CHECK_BUCKETS = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6),
    *(0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 2.5),
)
_FETCH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
# Seconds. The event loop's timers are not precise below a millisecond.
_DELAY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)

DPOP_RESULTS = ("valid", Reason.INVALID_PROOF, Reason.REPLAYED_PROOF, Reason.NONCE_REQUIRED)

# The reasons of decisions before a rule matches.
_WITHOUT_RULE = (
    Reason.AMBIGUOUS_PATH,
    Reason.MALFORMED_REQUEST,
    Reason.NO_RULE,
    Reason.INTERNAL_ERROR,
    Reason.DEADLINE_EXCEEDED,
)

# The known formats. The library would promise any other version in an Accept header, or fail on it.
_VERSION = re.compile(r"version\s*=\s*([^;,\s]*)")
_KNOWN_VERSIONS = frozenset({"0.0.1", "0.0.4", "1.0.0"})


class _Families:
    """All metrics, without their series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checks = Counter(
            "authz_checks_total",
            "Decisions. The rule is - if none matched. Decisions with mode shadow are logged, not enforced.",
            ("decision", "reason", "rule", "mode"),
            registry=registry,
        )
        self.check_duration = Histogram(
            "authz_check_duration_seconds",
            "Seconds from the arrival of a request to its decision, including time spent on fetching keys.",
            ("decision",),
            buckets=_CHECK_BUCKETS,
            registry=registry,
        )
        self.checks_in_flight = Gauge("authz_checks_in_flight", "Requests that are not decided yet.", registry=registry)
        self.transport_connections = Gauge(
            "authz_transport_connections",
            "Open connections to server.grpc_address, including those within a TLS handshake.",
            registry=registry,
        )
        self.transport_connections_total = Counter(
            "authz_transport_connections_total",
            "Connections by how they began. accepted: HTTP/2 was established; empty: the client closed it without a "
            "byte, as TCP health checks do; failed: neither; refused: too many connections.",
            ("result",),
            registry=None,
        )
        registry.register(_Nameless(self.transport_connections_total))
        self.transport_failures = _transport_failures(registry)
        self.decision_log_lines_lost = Counter(
            "authz_decision_log_lines_lost_total",
            "Lines for logging.decisions_file or decisions_socket that could not be written, or not fast enough.",
            registry=registry,
        )
        self.upstream_headers_omitted = Counter(
            "authz_upstream_headers_omitted_total",
            "Identity headers that an allowed request went without because the token's claim cannot be a header.",
            ("header",),
            registry=registry,
        )
        self.revocations = Gauge(
            "authz_revocations", "Revocations in force, by source.", ("source",), registry=registry
        )
        self.revocations_file_refused = Gauge(
            "authz_revocations_file_refused",
            "1 if the current content of revocations_file is refused and the previous revocations apply, otherwise 0.",
            registry=registry,
        )
        self.revocations_evicted = Counter(
            "authz_revocations_evicted_total",
            "Revocations of events that were evicted before their time was over, by security_events.max_entries.",
            ("issuer",),
            registry=registry,
        )
        self.security_events = Counter(
            "authz_security_events_total",
            "Security events received, by type. other: a type that has no effect; refused: its token is rejected.",
            ("issuer", "type"),
            registry=registry,
        )
        self.security_events_age = Gauge(
            "authz_security_events_age_seconds",
            "Seconds since the last poll for security events whose events all take effect and are saved.",
            ("issuer",),
            registry=registry,
        )
        self.dpop_proofs = Counter(
            "authz_dpop_proofs_total",
            "DPoP proofs of bound tokens, by result: valid, or the reason of the denial.",
            ("result",),
            registry=registry,
        )
        self.dpop_replay_cache_evictions = Counter(
            "authz_dpop_replay_cache_evictions_total",
            "Accepted DPoP proofs that were evicted from the full replay cache before they expired.",
            registry=registry,
        )
        self.dpop_replay_cache_entries = Gauge(
            "authz_dpop_replay_cache_entries",
            "Accepted DPoP proofs in the replay cache, at most dpop.replay_cache_entries.",
            registry=registry,
        )
        self.token_cache_lookups = Counter(
            "authz_token_cache_lookups_total",
            "Lookups of tokens in the token cache.",
            ("result",),
            registry=registry,
        )
        self.token_cache_entries = Gauge(
            "authz_token_cache_entries", "Validated tokens in the token cache.", registry=registry
        )
        self.token_cache_bytes = Gauge(
            "authz_token_cache_bytes",
            "Bytes used by the token cache, at most token_cache.max_bytes.",
            registry=registry,
        )
        self.jwks_fetches = Counter(
            "authz_jwks_fetches_total",
            "Attempts to fetch an issuer's key set.",
            ("issuer", "result"),
            registry=registry,
        )
        self.jwks_fetch_duration = Histogram(
            "authz_jwks_fetch_duration_seconds",
            "Seconds that an attempt to fetch an issuer's key set took, including discovery.",
            ("issuer",),
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self.jwks_keys = Gauge("authz_jwks_keys", "Usable keys in an issuer's key set.", ("issuer",), registry=registry)
        self.jwks_last_success = Gauge(
            "authz_jwks_last_success_timestamp_seconds",
            "Time of the last successful fetch of an issuer's key set, in Unix seconds; 0 before the first.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_stale = Gauge(
            "authz_jwks_stale",
            "1 while a refresh of an issuer's key set is overdue, so that stale keys are used, or none; else 0.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_age = Gauge(
            "authz_jwks_age_seconds",
            "Seconds since an issuer's key set was last known to be current; +Inf before the first time.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_usable_until = Gauge(
            "authz_jwks_usable_until_timestamp_seconds",
            "Time until which an issuer's key set is used if the provider stays unreachable, in Unix seconds; "
            "0 before the first fetch.",
            ("issuer",),
            registry=registry,
        )
        self.jwks_unknown_kid = Counter(
            "authz_jwks_unknown_kid_total",
            "Tokens with a key ID that is not in the issuer's key set.",
            ("issuer",),
            registry=registry,
        )
        self.introspections = Counter(
            "authz_introspections_total",
            "Calls to an issuer's introspection server, by result.",
            ("issuer", "result"),
            registry=registry,
        )
        self.introspection_duration = Histogram(
            "authz_introspection_duration_seconds",
            "Seconds that a call to an issuer's introspection server took, without time in the queue.",
            ("issuer",),
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self.introspections_in_flight = Gauge(
            "authz_introspections_in_flight",
            "Calls to an issuer's introspection server that are in flight.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_breaker = Gauge(
            "authz_introspection_breaker_state",
            "State of an issuer's circuit breaker: 1 for the current state, 0 for the others. open allows no calls, "
            "half_open a few.",
            ("issuer", "state"),
            registry=registry,
        )
        self.introspection_breaker_open = Gauge(
            "authz_introspection_breaker_open",
            "1 unless an issuer's circuit breaker is closed; else 0. At 1, few uncached tokens are introspected.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_cache_lookups = Counter(
            "authz_introspection_cache_lookups_total",
            "Lookups of tokens in an issuer's introspection cache.",
            ("issuer", "result"),
            registry=registry,
        )
        self.introspection_cache_entries = Gauge(
            "authz_introspection_cache_entries",
            "Responses in an issuer's introspection cache.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_cache_bytes = Gauge(
            "authz_introspection_cache_bytes",
            "Bytes used by an issuer's introspection cache, at most token_cache.max_bytes.",
            ("issuer",),
            registry=registry,
        )
        self.introspection_refusals = Counter(
            "authz_introspection_refusals_total",
            "Tokens that were not introspected: full because too many calls were in flight or waiting, open because of "
            "the circuit breaker.",
            ("issuer", "reason"),
            registry=registry,
        )
        self.config_reloads = Counter(
            "authz_config_reloads_total",
            "Attempts to apply a changed configuration.",
            ("result",),
            registry=registry,
        )
        self.config_last_reload_successful = Gauge(
            "authz_config_last_reload_successful",
            "1 if the newest configuration is active; 0 if it was rejected and an older one is active.",
            registry=registry,
        )
        self.config_last_reload_success = Gauge(
            "authz_config_last_reload_success_timestamp_seconds",
            "Time when the active configuration was applied, in Unix seconds.",
            registry=registry,
        )
        self.certificate_since = Gauge(
            "authz_tls_certificate_not_before_timestamp_seconds",
            "Time from which all certificates of the server's chain are valid, in Unix seconds; 0 without TLS.",
            registry=registry,
        )
        self.certificate_until = Gauge(
            "authz_tls_certificate_not_after_timestamp_seconds",
            "Time when the first certificate of the server's chain expires, in Unix seconds; 0 without TLS.",
            registry=registry,
        )
        self.event_loop_delay = Histogram(
            "authz_event_loop_delay_seconds",
            "Seconds by which the event loop runs its timers late; requests are delayed by as much.",
            buckets=_DELAY_BUCKETS,
            registry=registry,
        )
        self.trace_spans = Counter(
            "authz_trace_spans_total",
            "Spans of traces: exported, failed (the collector did not take them), or dropped because too many waited.",
            ("result",),
            registry=registry,
        )
        self.ready = Gauge("authz_ready", "1 while /readyz answers 200, else 0.", registry=registry)
        self.build_info = Gauge(
            "authz_build_info",
            "Always 1; the labels describe the running version.",
            ("version", "python", "transport"),
            registry=registry,
        )

        self.spans: SpanRecorder | None = None  # None without tracing

        # Gauges of parts that a reload may remove.
        self.of_keys = (
            *(self.jwks_keys, self.jwks_last_success, self.jwks_stale, self.jwks_age),
            self.jwks_usable_until,
        )
        self.of_introspection = (
            *(self.introspections_in_flight, self.introspection_breaker, self.introspection_breaker_open),
            *(self.introspection_cache_entries, self.introspection_cache_bytes),
        )
        self.of_security_events = (self.security_events_age,)


def _transport_failures(registry: CollectorRegistry) -> Counter:
    return Counter(
        "authz_transport_failures_total",
        "Connections that failed, by reason: before HTTP/2 was established, or later.",
        ("reason",),
        registry=registry,
    )


class Metrics:
    """The metrics of one running service. Methods belong to the event loop's thread unless they say otherwise."""

    def __init__(self, *, transport: str) -> None:
        self.registry = _process_registry()
        self.in_flight = 0  # maintained by the servicer
        self._families = families = _Families(self.registry)
        families.checks_in_flight.set_function(lambda: self.in_flight)
        families.build_info.labels(__version__, platform.python_version(), transport).set(1)
        self.record_token_cache_hit: Callable[[], None] = families.token_cache_lookups.labels("hit").inc
        self.record_token_cache_miss: Callable[[], None] = families.token_cache_lookups.labels("miss").inc
        # Of the admin server, which runs beside every transport.
        self.record_grpc_on_admin_port: Callable[[], None] = families.transport_failures.labels(
            ConnectionFailure.GRPC
        ).inc
        self.record_proof_eviction: Callable[[], None] = families.dpop_replay_cache_evictions.inc
        self._proofs: dict[str, Callable[[], None]] = {
            result: families.dpop_proofs.labels(result).inc for result in DPOP_RESULTS
        }
        for span_result in get_args(SpanResult):
            families.trace_spans.labels(span_result)
        self._reload_succeeded: Callable[[], None] = families.config_reloads.labels("success").inc
        self._reload_failed: Callable[[], None] = families.config_reloads.labels("failure").inc
        # The methods of counter and histogram to call for a decision.
        self._counting: dict[tuple[Reason, str, str], tuple[Callable[[], None], Observe]] = {}
        self.declare_rules([(NO_RULE_NAME, "enforce", _WITHOUT_RULE)])

    # Decisions.

    def declare_rules(self, rules: Iterable[tuple[str, Mode, Iterable[Reason]]]) -> None:
        """Create the series of each rule and its possible reasons. May be called from any thread."""
        for rule, mode, reasons in rules:
            for reason in reasons:
                if (reason, rule, mode) not in self._counting:
                    self._declare(reason, rule, mode)

    def record_decision(
        self,
        decision: Decision,
        seconds: float,
        correlation: Correlation = NO_CORRELATION,
        wait: Wait | None = None,
    ) -> None:
        """Record a decision, its duration and what it waited for.

        Called for every request, so it only looks up prepared methods, unless the caller records a trace.
        """
        try:
            increase, observe = self._counting[decision.reason, decision.rule, decision.mode]
        except KeyError:
            increase, observe = self._declare(decision.reason, decision.rule, decision.mode)
        increase()
        if not correlation.sampled:
            observe(seconds)
            return
        observe(seconds, {"trace_id": correlation.trace_id})
        if self._families.spans is not None:
            self._families.spans.record_check(correlation, decision, seconds, wait)

    def _declare(self, reason: Reason, rule: str, mode: str) -> tuple[Callable[[], None], Observe]:
        decision = "allow" if reason in ALLOWANCES else "answer" if reason in ANSWERS else "deny"
        counting = (
            self._families.checks.labels(decision, reason, rule, mode).inc,
            self._families.check_duration.labels(decision).observe,
        )
        self._counting[reason, rule, mode] = counting
        return counting

    # Connections.

    def watch_connections(self, connections: Callable[[], float]) -> None:
        """Report the open connections each time the metrics are read."""
        self._families.transport_connections.set_function(connections)

    def transport(self) -> TransportMetrics:
        """The metrics of a transport that observes its connections, with all counters at 0."""
        return TransportMetrics(self._families)

    # Traces.

    @property
    def traced(self) -> bool:
        """Whether spans are recorded."""
        return self._families.spans is not None

    def trace_with(self, recorder: SpanRecorder | None) -> None:
        """Record spans with this recorder from now on; with none of them if it is None."""
        self._families.spans = recorder

    def record_spans(self, result: SpanResult, count: int) -> None:
        """Record what became of spans."""
        self._families.trace_spans.labels(result).inc(count)

    # Identity headers.

    def declare_upstream_headers(self, names: Iterable[str]) -> None:
        """Create the series of each identity header. May be called from any thread."""
        for name in names:
            self._families.upstream_headers_omitted.labels(name)

    def record_omitted_headers(self, names: Iterable[str]) -> None:
        """Record that a request went without these identity headers."""
        for name in names:
            self._families.upstream_headers_omitted.labels(name).inc()

    def record_dpop_proof(self, result: str) -> None:
        """Record that a proof was verified, with one of ``DPOP_RESULTS``."""
        self._proofs[result]()

    def record_lost_decision_lines(self, count: int) -> None:
        """Record lines of the decision log that were lost. May be called from any thread."""
        self._families.decision_log_lines_lost.inc(count)

    # Caches, issuers, configuration and process.

    def watch_readiness(self, ready: Callable[[], bool]) -> None:
        """Report readiness each time the metrics are read."""
        self._families.ready.set_function(ready)

    def watch_token_cache(self, *, entries: Callable[[], int], size: Callable[[], int]) -> None:
        """Report the token cache's values each time the metrics are read; ``size`` is in bytes."""
        self._families.token_cache_entries.set_function(entries)
        self._families.token_cache_bytes.set_function(size)

    def watch_revocations(self, source: str, entries: Callable[[], int]) -> None:
        """Report a source's revocations each time the metrics are read."""
        self._families.revocations.labels(source).set_function(entries)

    def record_revocations_file(self, *, refused: bool) -> None:
        """Record whether the content of the file of revocations is refused."""
        self._families.revocations_file_refused.set(refused)

    def watch_replay_cache(self, entries: Callable[[], int]) -> None:
        """Report the replay cache's entries each time the metrics are read."""
        self._families.dpop_replay_cache_entries.set_function(entries)

    def issuer(self, name: str, *, exposed: bool = True) -> IssuerMetrics:
        """The metrics of one issuer, with all counters at 0. Its gauges appear now, or when ``expose`` is called."""
        metrics = IssuerMetrics(self._families, name)
        if exposed:
            metrics.expose()
        return metrics

    def remove_issuer_gauges(self, name: str) -> None:
        """Remove the gauges of an issuer that is no longer configured. Its counters stay."""
        for gauge in self._families.of_keys:
            gauge.remove_by_labels({"issuer": name})

    def remove_introspection_gauges(self, name: str) -> None:
        """Remove the gauges of an issuer's introspection that is no longer configured. Its counters stay."""
        for gauge in self._families.of_introspection:
            gauge.remove_by_labels({"issuer": name})

    def remove_security_event_gauges(self, name: str) -> None:
        """Remove the gauges of an issuer's security events that are no longer configured. Its counters stay."""
        for gauge in self._families.of_security_events:
            gauge.remove_by_labels({"issuer": name})

    def security_events(self, name: str, *, exposed: bool = True) -> SecurityEventMetrics:
        """The metrics of one issuer's security events, with all counters at 0. For ``exposed`` see ``issuer``."""
        metrics = SecurityEventMetrics(self._families, name)
        if exposed:
            metrics.expose()
        return metrics

    def introspection(self, name: str, *, exposed: bool = True) -> IntrospectionMetrics:
        """The metrics of one issuer's introspection, with all counters at 0. For ``exposed`` see ``issuer``."""
        metrics = IntrospectionMetrics(self._families, name)
        if exposed:
            metrics.expose()
        return metrics

    def record_active_config(self, at: float) -> None:
        """Record that the active configuration was applied at this time, in seconds since the epoch."""
        self._families.config_last_reload_successful.set(1)
        self._families.config_last_reload_success.set(at)

    def record_reload(self, *, success: bool, at: float) -> None:
        """Record that a changed configuration was applied or rejected."""
        if success:
            self._reload_succeeded()
            self.record_active_config(at)
        else:
            self._reload_failed()
            self._families.config_last_reload_successful.set(0)

    def watch_certificate(self, valid: Callable[[], tuple[float, float]]) -> None:
        """Report the validity of the server's certificates each time the metrics are read.

        ``valid`` returns its start and end, and is called from any thread.
        """
        self._families.certificate_since.set_function(lambda: valid()[0])
        self._families.certificate_until.set_function(lambda: valid()[1])

    def observe_loop_delay(self, seconds: float) -> None:
        """Record a delay of the event loop."""
        self._families.event_loop_delay.observe(seconds)

    # Reading.

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their content type: OpenMetrics if the Accept header requests it, else Prometheus text.

        May be called from any thread.
        """
        return exposition_of(self.registry, accept)


class SupervisorMetrics:
    """The supervisor's own metrics."""

    def __init__(self) -> None:
        self.registry = _process_registry()
        self.record_worker_restart: Callable[[], None] = Counter(
            "authz_worker_restarts_total", "Workers that ended unexpectedly and were replaced.", registry=self.registry
        ).inc
        self.record_grpc_on_admin_port: Callable[[], None] = (
            _transport_failures(self.registry).labels(ConnectionFailure.GRPC).inc
        )


def exposition_of(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """A registry's metrics and their content type, for an Accept header."""
    encode, content_type = _encoder(accept)
    is_text = content_type.startswith("text/")
    return encode(registry if is_text else _DistinctFamilies(registry)), content_type


def content_type_of(accept: str) -> str:
    """The content type that ``exposition_of`` chooses; headers with the same one get the same bytes."""
    return _encoder(accept)[1]


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    known = _KNOWN_VERSIONS.issuperset(_VERSION.findall(accept))
    return choose_encoder(accept if known else "")


class TransportMetrics:
    """How connections begin, and why they fail."""

    def __init__(self, families: _Families) -> None:
        self._connections = {
            result: families.transport_connections_total.labels(result) for result in get_args(ConnectionResult)
        }
        self._failures = {reason: families.transport_failures.labels(reason) for reason in ConnectionFailure}

    def record_connection(self, result: ConnectionResult) -> None:
        """Record how a connection began."""
        self._connections[result].inc()

    def record_failure(self, reason: ConnectionFailure) -> None:
        """Record that a connection failed."""
        self._failures[reason].inc()


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

    def record_fetch(self, result: FetchResult, seconds: float) -> None:
        """Record an attempt to fetch the keys, and its duration."""
        self._fetches[result].inc()
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
        """Record a token with a key ID that is not in the key set."""
        self._unknown_kid.inc()


class IntrospectionMetrics:
    """The metrics of one issuer's introspection. For ``expose`` see ``IssuerMetrics``."""

    def __init__(self, families: _Families, name: str) -> None:
        self._families = families
        self._name = name
        self._exposed = False
        self._calls = {result: families.introspections.labels(name, result) for result in get_args(IntrospectionResult)}
        self._duration = families.introspection_duration.labels(name)
        self._refusals = {
            reason: families.introspection_refusals.labels(name, reason) for reason in get_args(RefusalReason)
        }
        self.record_cache_hit: Callable[[], None] = families.introspection_cache_lookups.labels(name, "hit").inc
        self.record_cache_miss: Callable[[], None] = families.introspection_cache_lookups.labels(name, "miss").inc
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

    def record_refusal(self, reason: RefusalReason) -> None:
        """Record a token for which the server was not called."""
        self._refusals[reason].inc()

    def record_call(self, result: IntrospectionResult, seconds: float) -> None:
        """Record a call and its duration."""
        self._calls[result].inc()
        self._duration.observe(seconds)


class SecurityEventMetrics:
    """The metrics of one issuer's security events. For ``expose`` see ``IssuerMetrics``."""

    def __init__(self, families: _Families, name: str) -> None:
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
        self._families.security_events_age.labels(self._name).set_function(self._age)

    def record_poll(self, seconds: float, *, success: bool) -> None:
        """Record a poll and its duration."""
        if self._families.spans is not None:
            self._families.spans.record_root("event poll", seconds, self._name, "success" if success else "failure")

    def record_event(self, kind: SecurityEventType) -> None:
        """Record an event that was received, or a SET that was refused."""
        self._events[kind].inc()

    def record_evictions(self, count: int) -> None:
        """Record revocations that were evicted before their time was over."""
        self._evicted.inc(count)


class _Nameless:
    """A metric whose family has the name of another one, which a registry would refuse; their samples differ."""

    def __init__(self, metric: Counter) -> None:
        self.collect = metric.collect


class _DistinctFamilies(CollectorRegistry):
    """A registry's families under distinct names, as OpenMetrics requires.

    There, a counter's family is its name without ``_total``. Where a gauge has that name, the counter's type is left
    out; its samples are the same.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        families = list(self._registry.collect())
        gauges = {family.name for family in families if family.type == "gauge"}
        for family in families:
            if family.type == "counter" and family.name in gauges:
                untyped = Metric(f"{family.name}_total", family.documentation, "unknown")
                untyped.samples = family.samples
                yield untyped
            else:
                yield family


class _Registry(CollectorRegistry):
    """A registry without the ``_created`` series, which double the number of series and contain only start times.

    The library's own switch for them is global to the process.
    """

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _process_registry() -> _Registry:
    """A registry with the metrics of its process."""
    registry = _Registry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry

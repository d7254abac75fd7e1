"""The metrics of a service, as the rest of the program records and reads them.

Invariants:

* A label value comes from the configuration or from a closed list, never from a request.
* Nothing is global: each ``Metrics`` has its own registry.
* A series that can be known in advance exists with value 0 from the start, so that its first increase is visible.
* When a reload removes a rule or an issuer, its counters stay until the process ends: a counter that disappears and
  comes back looks like a restart. The gauges of a removed issuer disappear: nothing updates them anymore.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal, get_args

from authz_service import __version__
from authz_service.core.connection_failure import ConnectionFailure
from authz_service.core.decision import NO_RULE_NAME
from authz_service.core.reasons import Reason
from authz_service.telemetry.checks import Checks
from authz_service.telemetry.connection_metrics import TransportMetrics
from authz_service.telemetry.exposition import exposition
from authz_service.telemetry.families import Families
from authz_service.telemetry.instruments import Registry
from authz_service.telemetry.issuer_metrics import IntrospectionMetrics, IssuerMetrics, SecurityEventMetrics
from authz_service.telemetry.process_metrics import PYTHON_VERSION, ProcessMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from authz_service.core.decision import Mode
    from authz_service.telemetry.spans import SpanRecorder

SpanResult = Literal["exported", "failed", "dropped"]
DPOP_RESULTS = ("valid", Reason.INVALID_PROOF, Reason.REPLAYED_PROOF, Reason.NONCE_REQUIRED)

# The reasons of decisions before a rule matches.
_WITHOUT_RULE = (
    Reason.AMBIGUOUS_PATH,
    Reason.MALFORMED_REQUEST,
    Reason.NO_RULE,
    Reason.INTERNAL_ERROR,
    Reason.DEADLINE_EXCEEDED,
)


class Metrics:
    """The metrics of one running service. Methods belong to the event loop's thread unless they say otherwise."""

    def __init__(self, *, transport: str) -> None:
        self.registry = registry = Registry()
        self.in_flight = 0  # maintained by the servicer
        registry.add(ProcessMetrics())
        self._families = families = Families(registry)
        self._checks = checks = Checks(families)
        registry.add(checks)
        self.record_decision = checks.record
        families.checks_in_flight.watch(lambda: self.in_flight)
        families.build_info.labels(PYTHON_VERSION, transport, __version__).set(1)
        self.record_token_cache_hit: Callable[[], None] = families.token_cache_lookups.labels("hit").increase
        self.record_token_cache_miss: Callable[[], None] = families.token_cache_lookups.labels("miss").increase
        # Of the admin server, which runs beside every transport.
        self.record_grpc_on_admin_port: Callable[[], None] = families.transport_failures.labels(
            ConnectionFailure.GRPC
        ).increase
        self.record_proof_eviction: Callable[[], None] = families.dpop_replay_cache_evictions.increase
        self._proofs: dict[str, Callable[[], None]] = {
            result: families.dpop_proofs.labels(result).increase for result in DPOP_RESULTS
        }
        for span_result in get_args(SpanResult):
            families.trace_spans.labels(span_result)
        self._lost_lines_lock = threading.Lock()
        self._reload_succeeded: Callable[[], None] = families.config_reloads.labels("success").increase
        self._reload_failed: Callable[[], None] = families.config_reloads.labels("failure").increase
        self.declare_rules([(NO_RULE_NAME, "enforce", _WITHOUT_RULE)])

    # Decisions.

    def declare_rules(self, rules: Iterable[tuple[str, Mode, Iterable[Reason]]]) -> None:
        """Create the series of each rule and its possible reasons. May be called from any thread."""
        for rule, mode, reasons in rules:
            self._checks.declare(rule, mode, reasons)

    def record_dpop_proof(self, result: str) -> None:
        """Record that a proof was verified, with one of ``DPOP_RESULTS``."""
        self._proofs[result]()

    def record_lost_decision_lines(self, count: int) -> None:
        """Record lines of the decision log that were lost. May be called from any thread."""
        with self._lost_lines_lock:
            self._families.decision_log_lines_lost.add(count)

    # Connections.

    def watch_connections(self, connections: Callable[[], float]) -> None:
        """Report the open connections each time the metrics are read."""
        self._families.transport_connections.watch(connections)

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
        self._families.trace_spans.labels(result).add(count)

    # Identity headers.

    def declare_upstream_headers(self, names: Iterable[str]) -> None:
        """Create the series of each identity header. May be called from any thread."""
        for name in names:
            self._families.upstream_headers_omitted.labels(name)

    def record_omitted_headers(self, names: Iterable[str]) -> None:
        """Record that a request went without these identity headers."""
        for name in names:
            self._families.upstream_headers_omitted.labels(name).increase()

    # Caches, issuers, configuration and process.

    def watch_readiness(self, ready: Callable[[], bool]) -> None:
        """Report readiness each time the metrics are read."""
        self._families.ready.watch(ready)

    def watch_token_cache(self, *, entries: Callable[[], int], size: Callable[[], int]) -> None:
        """Report the token cache's values each time the metrics are read; ``size`` is in bytes."""
        self._families.token_cache_entries.watch(entries)
        self._families.token_cache_bytes.watch(size)

    def watch_revocations(self, source: str, entries: Callable[[], int]) -> None:
        """Report a source's revocations each time the metrics are read."""
        self._families.revocations.labels(source).watch(entries)

    def record_revocations_file(self, *, rejected: bool) -> None:
        """Record whether the content of the file of revocations is rejected."""
        self._families.revocations_file_rejected.set(rejected)

    def watch_replay_cache(self, entries: Callable[[], int]) -> None:
        """Report the replay cache's entries each time the metrics are read."""
        self._families.dpop_replay_cache_entries.watch(entries)

    def issuer(self, name: str, *, exposed: bool = True) -> IssuerMetrics:
        """The metrics of one issuer, with all counters at 0. Its gauges appear now, or when ``expose`` is called."""
        metrics = IssuerMetrics(self._families, name)
        if exposed:
            metrics.expose()
        return metrics

    def remove_issuer_gauges(self, name: str) -> None:
        """Remove the gauges of an issuer that is no longer configured. Its counters stay."""
        for gauge in self._families.of_keys:
            gauge.remove(name)

    def remove_introspection_gauges(self, name: str) -> None:
        """Remove the gauges of an issuer's introspection that is no longer configured. Its counters stay."""
        for gauge in self._families.of_introspection:
            gauge.remove(name)

    def remove_security_event_gauges(self, name: str) -> None:
        """Remove the gauges of an issuer's security events that are no longer configured. Its counters stay."""
        for gauge in self._families.of_security_events:
            gauge.remove(name)

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
        """Report the validity of the server's certificates, its start and end, each time the metrics are read."""
        self._families.certificate_since.watch(lambda: valid()[0])
        self._families.certificate_until.watch(lambda: valid()[1])

    def observe_loop_delay(self, seconds: float) -> None:
        """Record a delay of the event loop."""
        self._families.event_loop_delay.observe(seconds)

    # Reading.

    def exposition(self, *, openmetrics: bool) -> Iterator[str]:
        """All metrics, in pieces that take little time each."""
        return exposition(self.registry.collect(), openmetrics=openmetrics)

"""Defines each metric of a service with its labels and meaning, apart from those of decisions (``checks``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz_service.telemetry.instruments import Counter, Family, Registry
    from authz_service.telemetry.spans import SpanRecorder

# Seconds. Narrow where decisions are (a cached token, a verified signature), with a bound at Envoy's default timeout
# (200 ms) and at our default deadline (1 s).
CHECK_BOUNDS = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6),
    *(0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 2.5),
)
_FETCH_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
# Seconds. The event loop's timers are not precise below a millisecond.
_DELAY_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)


class Families:
    """All metrics of a service, without their series, in the order of the exposition."""

    def __init__(self, registry: Registry) -> None:
        self.spans: SpanRecorder | None = None  # None without tracing
        self.check_duration = registry.histogram(
            "authz_check_duration_seconds",
            "Seconds from the arrival of a request to its decision, including time spent on fetching keys.",
            ("decision",),
            bounds=CHECK_BOUNDS,
        )
        self.checks_in_flight = registry.gauge("authz_checks_in_flight", "Requests that are not decided yet.").only
        self.transport_connections = registry.gauge(
            "authz_transport_connections",
            "Open connections to server.grpc_address, including those within a TLS handshake.",
        ).only
        self.transport_connections_total = registry.counter(
            "authz_transport_connections_total",
            "Connections by how they began. accepted: HTTP/2 was established; empty: the client closed it without a "
            "byte, as TCP health checks do; failed: neither; refused: too many connections.",
            ("result",),
        )
        self.transport_failures = transport_failures(registry)
        self.decision_log_lines_lost = registry.counter(
            "authz_decision_log_lines_lost_total",
            "Lines for logging.decisions_file or decisions_socket that could not be written, or not fast enough.",
        ).only
        self.upstream_headers_omitted = registry.counter(
            "authz_upstream_headers_omitted_total",
            "Identity headers that an allowed request went without because the token's claim cannot be a header.",
            ("header",),
        )
        self.revocations = registry.gauge("authz_revocations", "Revocations in force, by source.", ("source",))
        self.revocations_file_rejected = registry.gauge(
            "authz_revocations_file_rejected",
            "1 if the current content of revocations_file is rejected and the previous revocations apply, otherwise 0.",
        ).only
        self.revocations_evicted = registry.counter(
            "authz_revocations_evicted_total",
            "Revocations of events that were evicted before their time was over, by security_events.max_entries.",
            ("issuer",),
        )
        self.security_events = registry.counter(
            "authz_security_events_total",
            "Security events received, by type. other: a type that has no effect; rejected: its token is invalid.",
            ("issuer", "type"),
        )
        self.security_events_age = registry.gauge(
            "authz_security_events_age_seconds",
            "Seconds since the last poll for security events whose events all take effect and are saved.",
            ("issuer",),
        )
        self.dpop_proofs = registry.counter(
            "authz_dpop_proofs_total",
            "DPoP proofs of bound tokens, by result: valid, or the reason of the denial.",
            ("result",),
        )
        self.dpop_replay_cache_evictions = registry.counter(
            "authz_dpop_replay_cache_evictions_total",
            "Accepted DPoP proofs that were evicted from the full replay cache before they expired.",
        ).only
        self.dpop_replay_cache_entries = registry.gauge(
            "authz_dpop_replay_cache_entries",
            "Accepted DPoP proofs in the replay cache, at most dpop.replay_cache_entries.",
        ).only
        self.token_cache_lookups = registry.counter(
            "authz_token_cache_lookups_total", "Lookups of tokens in the token cache.", ("result",)
        )
        self.token_cache_entries = registry.gauge(
            "authz_token_cache_entries", "Validated tokens in the token cache."
        ).only
        self.token_cache_bytes = registry.gauge(
            "authz_token_cache_bytes", "Bytes used by the token cache, at most token_cache.max_bytes."
        ).only
        self.jwks_fetches = registry.counter(
            "authz_jwks_fetches_total", "Attempts to fetch an issuer's key set.", ("issuer", "result")
        )
        self.jwks_fetch_duration = registry.histogram(
            "authz_jwks_fetch_duration_seconds",
            "Seconds that an attempt to fetch an issuer's key set took, including discovery.",
            ("issuer",),
            bounds=_FETCH_BOUNDS,
        )
        self.jwks_keys = registry.gauge("authz_jwks_keys", "Usable keys in an issuer's key set.", ("issuer",))
        self.jwks_last_success = registry.gauge(
            "authz_jwks_last_success_timestamp_seconds",
            "Time of the last successful fetch of an issuer's key set, in Unix seconds; 0 before the first.",
            ("issuer",),
        )
        self.jwks_stale = registry.gauge(
            "authz_jwks_stale",
            "1 while a refresh of an issuer's key set is overdue, so that stale keys are used, or none; else 0.",
            ("issuer",),
        )
        self.jwks_age = registry.gauge(
            "authz_jwks_age_seconds",
            "Seconds since an issuer's key set was last known to be current; +Inf before the first time.",
            ("issuer",),
        )
        self.jwks_usable_until = registry.gauge(
            "authz_jwks_usable_until_timestamp_seconds",
            "Time until which an issuer's key set is used if the provider stays unreachable, in Unix seconds; "
            "0 before the first fetch.",
            ("issuer",),
        )
        self.jwks_unknown_kid = registry.counter(
            "authz_jwks_unknown_kid_total", "Tokens with a key id that is not in the issuer's key set.", ("issuer",)
        )
        self.introspections = registry.counter(
            "authz_introspections_total", "Calls to an issuer's introspection server, by result.", ("issuer", "result")
        )
        self.introspection_duration = registry.histogram(
            "authz_introspection_duration_seconds",
            "Seconds that a call to an issuer's introspection server took, without time in the queue.",
            ("issuer",),
            bounds=_FETCH_BOUNDS,
        )
        self.introspections_in_flight = registry.gauge(
            "authz_introspections_in_flight",
            "Calls to an issuer's introspection server that are in flight.",
            ("issuer",),
        )
        self.introspection_breaker = registry.gauge(
            "authz_introspection_breaker_state",
            "State of an issuer's circuit breaker: 1 for the current state, 0 for the others. open allows no calls, "
            "half_open a few.",
            ("issuer", "state"),
        )
        self.introspection_breaker_open = registry.gauge(
            "authz_introspection_breaker_open",
            "1 unless an issuer's circuit breaker is closed; else 0. At 1, few uncached tokens are introspected.",
            ("issuer",),
        )
        self.introspection_cache_lookups = registry.counter(
            "authz_introspection_cache_lookups_total",
            "Lookups of tokens in an issuer's introspection cache.",
            ("issuer", "result"),
        )
        self.introspection_cache_entries = registry.gauge(
            "authz_introspection_cache_entries", "Responses in an issuer's introspection cache.", ("issuer",)
        )
        self.introspection_cache_bytes = registry.gauge(
            "authz_introspection_cache_bytes",
            "Bytes used by an issuer's introspection cache, at most token_cache.max_bytes.",
            ("issuer",),
        )
        self.introspection_refusals = registry.counter(
            "authz_introspection_refusals_total",
            "Tokens that were not introspected: full because too many calls were in flight or waiting, open because of "
            "the circuit breaker.",
            ("issuer", "reason"),
        )
        self.config_reloads = registry.counter(
            "authz_config_reloads_total", "Attempts to apply a changed configuration.", ("result",)
        )
        self.config_last_reload_successful = registry.gauge(
            "authz_config_last_reload_successful",
            "1 if the newest configuration is active; 0 if it was rejected and an older one is active.",
        ).only
        self.config_last_reload_success = registry.gauge(
            "authz_config_last_reload_success_timestamp_seconds",
            "Time when the active configuration was applied, in Unix seconds.",
        ).only
        self.certificate_since = registry.gauge(
            "authz_tls_certificate_not_before_timestamp_seconds",
            "Time from which all certificates of the server's chain are valid, in Unix seconds; 0 without TLS.",
        ).only
        self.certificate_until = registry.gauge(
            "authz_tls_certificate_not_after_timestamp_seconds",
            "Time when the first certificate of the server's chain expires, in Unix seconds; 0 without TLS.",
        ).only
        self.event_loop_delay = registry.histogram(
            "authz_event_loop_delay_seconds",
            "Seconds by which the event loop runs its timers late; requests are delayed by as much.",
            bounds=_DELAY_BOUNDS,
        ).only
        self.trace_spans = registry.counter(
            "authz_trace_spans_total",
            "Spans of traces: exported, failed (the collector did not take them), or dropped because too many waited.",
            ("result",),
        )
        self.ready = registry.gauge("authz_ready", "1 while /readyz answers 200, else 0.").only
        self.build_info = registry.gauge(
            "authz_build_info", "Always 1; the labels describe the running version.", ("python", "transport", "version")
        )

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


def transport_failures(registry: Registry) -> Family[Counter]:
    """The failures of connections; the admin server's are counted in every process that has one."""
    return registry.counter(
        "authz_transport_failures_total",
        "Connections that failed, by reason: before HTTP/2 was established, or later.",
        ("reason",),
    )

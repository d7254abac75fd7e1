"""The metrics keep the names that dashboards rely on, start at zero, and take nothing from a request."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from authz_service import __version__
from authz_service.core.claims import Claims
from authz_service.core.connection_failure import REMEDIES, ConnectionFailure
from authz_service.core.decision import INTERNAL_ERROR, Allow, Deny
from authz_service.core.reasons import ALLOWANCES, Reason
from authz_service.telemetry.metrics import Metrics
from support.samples import collected, families, sample_value, text_of, with_every_series

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

CONTRACT = {
    "authz_checks_total": ("counter", {"decision", "reason", "rule", "mode"}),
    "authz_check_duration_seconds": ("histogram", {"decision"}),
    "authz_checks_in_flight": ("gauge", set()),
    "authz_transport_connections": ("gauge", set()),
    "authz_transport_connections_total": ("counter", {"result"}),
    "authz_transport_failures_total": ("counter", {"reason"}),
    "authz_decision_log_lines_lost_total": ("counter", set()),
    "authz_trace_spans_total": ("counter", {"result"}),
    "authz_upstream_headers_omitted_total": ("counter", {"header"}),
    "authz_dpop_proofs_total": ("counter", {"result"}),
    "authz_dpop_replay_cache_evictions_total": ("counter", set()),
    "authz_dpop_replay_cache_entries": ("gauge", set()),
    "authz_revocations": ("gauge", {"source"}),
    "authz_revocations_file_rejected": ("gauge", set()),
    "authz_revocations_evicted_total": ("counter", {"issuer"}),
    "authz_security_events_total": ("counter", {"issuer", "type"}),
    "authz_security_events_age_seconds": ("gauge", {"issuer"}),
    "authz_token_cache_lookups_total": ("counter", {"result"}),
    "authz_token_cache_entries": ("gauge", set()),
    "authz_token_cache_bytes": ("gauge", set()),
    "authz_jwks_fetches_total": ("counter", {"issuer", "result"}),
    "authz_jwks_fetch_duration_seconds": ("histogram", {"issuer"}),
    "authz_jwks_keys": ("gauge", {"issuer"}),
    "authz_jwks_last_success_timestamp_seconds": ("gauge", {"issuer"}),
    "authz_jwks_unknown_kid_total": ("counter", {"issuer"}),
    "authz_jwks_stale": ("gauge", {"issuer"}),
    "authz_jwks_age_seconds": ("gauge", {"issuer"}),
    "authz_jwks_usable_until_timestamp_seconds": ("gauge", {"issuer"}),
    "authz_introspections_total": ("counter", {"issuer", "result"}),
    "authz_introspection_duration_seconds": ("histogram", {"issuer"}),
    "authz_introspections_in_flight": ("gauge", {"issuer"}),
    "authz_introspection_breaker_state": ("gauge", {"issuer", "state"}),
    "authz_introspection_breaker_open": ("gauge", {"issuer"}),
    "authz_introspection_cache_lookups_total": ("counter", {"issuer", "result"}),
    "authz_introspection_cache_entries": ("gauge", {"issuer"}),
    "authz_introspection_cache_bytes": ("gauge", {"issuer"}),
    "authz_introspection_refusals_total": ("counter", {"issuer", "reason"}),
    "authz_config_reloads_total": ("counter", {"result"}),
    "authz_config_last_reload_successful": ("gauge", set()),
    "authz_config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "authz_tls_certificate_not_before_timestamp_seconds": ("gauge", set()),
    "authz_tls_certificate_not_after_timestamp_seconds": ("gauge", set()),
    "authz_event_loop_delay_seconds": ("histogram", set()),
    "authz_ready": ("gauge", set()),
    "authz_build_info": ("gauge", {"version", "python", "transport"}),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(transport="grpcio")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return sample_value(metrics, name, labels)


def shape(families: Iterable[Metric]) -> dict[str, tuple[str, set[str]]]:
    """Name, type and labels of our own families, as a reader of the exposition sees them."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families
        if family.name.startswith("authz_")
    }


def test_connections_are_counted_by_result_and_failures_by_reason(metrics: Metrics) -> None:
    transport = metrics.transport()
    metrics.watch_connections(lambda: 3)
    transport.record_connection("accepted")
    transport.record_failure(ConnectionFailure.HTTP1)
    for openmetrics in (False, True):
        read = families(text_of(metrics, openmetrics=openmetrics), openmetrics=openmetrics)
        samples = [each for family in read for each in family.samples]
        counted = {(s.name, *s.labels.values()) for s in samples if "_transport_" in s.name and s.value}
        assert counted == {
            ("authz_transport_connections",),
            ("authz_transport_connections_total", "accepted"),
            ("authz_transport_failures_total", "http1"),
        }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_metric_is_there_from_the_start_with_its_type_and_labels(*, openmetrics: bool) -> None:
    # In OpenMetrics, a counter's family would have the name of the gauge.
    untyped = {"authz_transport_connections_total": ("unknown", {"result"})} if openmetrics else {}
    read = families(text_of(with_every_series(), openmetrics=openmetrics), openmetrics=openmetrics)
    assert shape(read) == CONTRACT | untyped


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_known_series_starts_at_zero(*, openmetrics: bool) -> None:
    metrics = with_every_series()
    metrics.declare_rules([("read", "enforce", Reason)])
    read = families(text_of(metrics, openmetrics=openmetrics), openmetrics=openmetrics)
    samples = [s for f in read if f.name.startswith("authz_") for s in f.samples]
    assert {s.name for s in samples if s.value != 0} == {"authz_build_info"}
    assert {s.labels["result"] for s in samples if s.name == "authz_jwks_fetches_total"} == {
        "success",
        "not_modified",
        "failure",
    }
    failures = {s.labels["reason"] for s in samples if s.name == "authz_transport_failures_total"}
    assert failures == set(ConnectionFailure) == set(REMEDIES)
    results = {s.labels["result"] for s in samples if s.name == "authz_transport_connections_total"}
    assert results == {"accepted", "empty", "failed", "refused"}


def test_the_metrics_of_process_and_interpreter_are_there(metrics: Metrics) -> None:
    samples = {sample.name for family in collected(metrics.registry) for sample in family.samples}
    assert {"process_cpu_seconds_total", "python_info", "python_gc_collections_total"} <= samples


@pytest.mark.parametrize("openmetrics", [False, True])
def test_there_are_no_created_series(*, openmetrics: bool) -> None:
    assert "_created" not in text_of(with_every_series(), openmetrics=openmetrics)


def test_two_services_in_one_process_do_not_share_numbers(metrics: Metrics) -> None:
    metrics.record_token_cache_hit()
    assert value(Metrics(transport="grpcio"), "authz_token_cache_lookups_total", result="hit") == 0


@pytest.mark.parametrize("reason", Reason)
def test_a_declared_rule_has_a_series_for_each_of_its_reasons(metrics: Metrics, reason: Reason) -> None:
    metrics.declare_rules([("read", "enforce", [reason])])
    decision = "allow" if reason in ALLOWANCES else "answer" if reason == "resource_metadata" else "deny"
    labels = {"decision": decision, "reason": str(reason), "rule": "read", "mode": "enforce"}
    assert value(metrics, "authz_checks_total", **labels) == 0


@pytest.mark.parametrize(
    "reason", ["ambiguous_path", "malformed_request", "no_rule", "internal_error", "deadline_exceeded"]
)
def test_a_decision_without_a_rule_has_its_own_series(metrics: Metrics, reason: str) -> None:
    assert value(metrics, "authz_checks_total", decision="deny", reason=reason, rule="-", mode="enforce") == 0


def test_declaring_a_rule_again_keeps_its_counts(metrics: Metrics) -> None:
    metrics.declare_rules([("read", "enforce", [Reason.OK])])
    metrics.record_decision(Allow(Reason.OK, "read"), 0.001)
    metrics.declare_rules([("read", "enforce", [Reason.OK, Reason.EXPIRED])])
    assert value(metrics, "authz_checks_total", decision="allow", reason="ok", rule="read", mode="enforce") == 1


def test_a_decision_is_counted_and_timed(metrics: Metrics) -> None:
    metrics.declare_rules([("read", "enforce", Reason)])
    metrics.record_decision(Allow(Reason.OK, "read"), 0.00004)
    metrics.record_decision(Allow(Reason.PUBLIC, "read"), 0.3)
    metrics.record_decision(Deny(Reason.EXPIRED, "read"), 9.0)
    metrics.record_decision(INTERNAL_ERROR, 0.001)
    checks = {"rule": "read", "mode": "enforce"}
    assert value(metrics, "authz_checks_total", decision="allow", reason="ok", **checks) == 1
    assert value(metrics, "authz_checks_total", decision="deny", reason="expired", **checks) == 1
    duration = "authz_check_duration_seconds"
    assert value(metrics, f"{duration}_count", decision="allow") == 2
    assert value(metrics, f"{duration}_sum", decision="allow") == pytest.approx(0.30004)
    assert value(metrics, f"{duration}_bucket", decision="allow", le="5e-05") == 1
    assert value(metrics, f"{duration}_bucket", decision="deny", le="2.5") == 1
    assert value(metrics, f"{duration}_bucket", decision="deny", le="+Inf") == 2


def test_a_decision_of_an_undeclared_rule_is_counted_too(metrics: Metrics) -> None:
    metrics.record_decision(Deny(Reason.EXPIRED, "new-rule"), 0.001)
    metrics.record_decision(Deny(Reason.EXPIRED, "new-rule"), 0.001)
    labels = {"decision": "deny", "reason": "expired", "rule": "new-rule", "mode": "enforce"}
    assert value(metrics, "authz_checks_total", **labels) == 2


def test_nothing_that_a_client_sends_becomes_a_label(metrics: Metrics) -> None:
    sent = "sent-by-the-client"
    claims = Claims("main", sent, sent, frozenset({sent}), frozenset({sent}), sent, {"sub": sent, sent: sent})
    metrics.record_decision(Allow(Reason.OK, "read", claims, ((sent, sent),), (sent,)), 0.001)
    metrics.record_decision(Deny(Reason.WRONG_AUDIENCE, "read", cause=sent, challenges=(sent,), claims=claims), 0.001)
    metrics.issuer("main").record_unknown_kid()
    assert sent not in text_of(metrics)


def test_requests_in_flight_are_read_at_each_scrape(metrics: Metrics) -> None:
    metrics.in_flight += 2
    assert value(metrics, "authz_checks_in_flight") == 2
    metrics.in_flight -= 1
    assert value(metrics, "authz_checks_in_flight") == 1


def test_the_token_cache_is_read_at_each_scrape_and_its_lookups_counted(metrics: Metrics) -> None:
    cached = ["a"]
    metrics.watch_token_cache(entries=lambda: len(cached), size=lambda: 100 * len(cached))
    metrics.record_token_cache_hit()
    metrics.record_token_cache_miss()
    metrics.record_token_cache_miss()
    cached.append("b")
    assert value(metrics, "authz_token_cache_entries") == 2
    assert value(metrics, "authz_token_cache_bytes") == 200
    assert value(metrics, "authz_token_cache_lookups_total", result="hit") == 1
    assert value(metrics, "authz_token_cache_lookups_total", result="miss") == 2


def test_the_replay_cache_is_read_at_each_scrape_and_its_evictions_counted(metrics: Metrics) -> None:
    seen = ["a"]
    metrics.watch_replay_cache(lambda: len(seen))
    metrics.record_proof_eviction()
    seen.append("b")
    assert value(metrics, "authz_dpop_replay_cache_entries") == 2
    assert value(metrics, "authz_dpop_replay_cache_evictions_total") == 1


def test_dpop_proofs_are_counted_by_result(metrics: Metrics) -> None:
    metrics.record_dpop_proof("valid")
    metrics.record_dpop_proof(Reason.REPLAYED_PROOF)
    counted = {
        result: value(metrics, "authz_dpop_proofs_total", result=result)
        for result in ("valid", "invalid_proof", "replayed_proof", "nonce_required")
    }
    assert counted == {"valid": 1, "invalid_proof": 0, "replayed_proof": 1, "nonce_required": 0}


def test_security_events_are_counted_by_issuer_and_type_and_their_age_is_read_at_each_scrape(metrics: Metrics) -> None:
    main, other = metrics.security_events("main"), metrics.security_events("other")
    age = [7.0]
    main.watch(lambda: age[0])
    main.record_event("session-revoked")
    main.record_event("rejected")
    other.record_event("rejected")
    main.record_evictions(3)
    age[0] = 12.0
    assert value(metrics, "authz_security_events_total", issuer="main", type="session-revoked") == 1
    assert value(metrics, "authz_security_events_total", issuer="main", type="rejected") == 1
    assert value(metrics, "authz_security_events_total", issuer="other", type="session-revoked") == 0
    assert value(metrics, "authz_revocations_evicted_total", issuer="main") == 3
    assert value(metrics, "authz_security_events_age_seconds", issuer="main") == 12
    metrics.remove_security_event_gauges("main")
    assert value(metrics, "authz_security_events_age_seconds", issuer="main") is None
    assert value(metrics, "authz_revocations_evicted_total", issuer="main") == 3


def test_key_fetches_are_counted_by_issuer(metrics: Metrics) -> None:
    main, other = metrics.issuer("main"), metrics.issuer("other")
    main.record_fetch("success", 0.2)
    main.record_fetch("failure", 2.0)
    main.record_key_count(3)
    main.record_success(1_700_000_000.5)
    main.record_unknown_kid()
    other.record_fetch("not_modified", 0.1)
    assert value(metrics, "authz_jwks_fetches_total", issuer="main", result="success") == 1
    assert value(metrics, "authz_jwks_fetches_total", issuer="main", result="failure") == 1
    assert value(metrics, "authz_jwks_fetches_total", issuer="other", result="not_modified") == 1
    assert value(metrics, "authz_jwks_fetch_duration_seconds_count", issuer="main") == 2
    assert value(metrics, "authz_jwks_fetch_duration_seconds_sum", issuer="main") == pytest.approx(2.2)
    assert value(metrics, "authz_jwks_keys", issuer="main") == 3
    assert value(metrics, "authz_jwks_keys", issuer="other") == 0
    assert value(metrics, "authz_jwks_last_success_timestamp_seconds", issuer="main") == 1_700_000_000.5
    assert value(metrics, "authz_jwks_unknown_kid_total", issuer="main") == 1


def reloads(metrics: Metrics) -> tuple[float | None, ...]:
    return (
        value(metrics, "authz_config_reloads_total", result="success"),
        value(metrics, "authz_config_reloads_total", result="failure"),
        value(metrics, "authz_config_last_reload_successful"),
        value(metrics, "authz_config_last_reload_success_timestamp_seconds"),
    )


def test_the_first_configuration_does_not_count_as_a_reload(metrics: Metrics) -> None:
    metrics.record_active_config(100.0)
    assert reloads(metrics) == (0, 0, 1, 100.0)


def test_a_rejected_reload_shows_until_one_succeeds_and_does_not_change_the_time(metrics: Metrics) -> None:
    metrics.record_active_config(100.0)
    metrics.record_reload(success=False, at=200.0)
    assert reloads(metrics) == (0, 1, 0, 100.0)
    metrics.record_reload(success=True, at=300.0)
    assert reloads(metrics) == (1, 1, 1, 300.0)


def test_the_validity_of_the_certificate_is_read_at_each_scrape(metrics: Metrics) -> None:
    valid = [100.0, 200.0]
    metrics.watch_certificate(lambda: (valid[0], valid[1]))
    valid[1] = 300.0
    assert value(metrics, "authz_tls_certificate_not_before_timestamp_seconds") == 100.0
    assert value(metrics, "authz_tls_certificate_not_after_timestamp_seconds") == 300.0


def test_delays_of_the_event_loop_are_observed(metrics: Metrics) -> None:
    metrics.observe_loop_delay(0.03)
    assert value(metrics, "authz_event_loop_delay_seconds_bucket", le="0.05") == 1
    assert value(metrics, "authz_event_loop_delay_seconds_bucket", le="0.02") == 0


def test_the_build_is_described_by_labels(metrics: Metrics) -> None:
    labels = {"version": __version__, "python": platform.python_version(), "transport": "grpcio"}
    assert value(metrics, "authz_build_info", **labels) == 1

"""The metrics of several workers are those of one service."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from authz_service.core.correlation import Correlation
from authz_service.core.decision import Deny
from authz_service.core.reasons import Reason
from authz_service.telemetry.merged_metrics import GAUGES, MergedMetrics, decode, encode, merged, totals
from authz_service.telemetry.metrics import Metrics, SupervisorMetrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

DENIED = Deny(Reason.NO_RULE, "-", "")


def values(families: Iterable[Metric]) -> dict[tuple[str, str], float]:
    """The value of each sample by its name and label values."""
    return {(each.name, ",".join(each.labels.values())): each.value for one in families for each in one.samples}


def worker_metrics() -> Metrics:
    metrics = Metrics(transport="asyncio")
    metrics.transport()
    metrics.issuer("main")
    metrics.introspection("main")
    return metrics


def received_from(metrics: Metrics) -> list[Metric]:
    """What the supervisor receives from a worker with these metrics."""
    return decode(json.loads(encode(metrics.registry)))


def gauge(name: str, value: float) -> list[Metric]:
    registry = CollectorRegistry()
    Gauge(name, "", registry=registry).set(value)
    return list(registry.collect())


def test_the_table_has_an_entry_for_each_existing_gauge_and_no_other() -> None:
    both = worker_metrics(), SupervisorMetrics()
    kinds = {(family.name, family.type) for each in both for family in each.registry.collect()}
    assert GAUGES.keys() == {name for name, kind in kinds if kind == "gauge"}
    assert {kind for _, kind in kinds} == {"gauge", "counter", "histogram"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("authz_checks_in_flight", 5.0),
        ("authz_jwks_stale", 3.0),
        ("authz_jwks_usable_until_timestamp_seconds", 2.0),
        ("authz_config_last_reload_successful", 2.0),
        ("process_resident_memory_bytes", 5.0),
        ("of_a_newer_library", 3.0),
    ],
)
def test_a_gauge_is_merged_by_its_entry(name: str, expected: float) -> None:
    assert values(merged([gauge(name, 2), gauge(name, 3)])) == {(name, ""): expected}


def test_decoding_restores_what_was_encoded() -> None:
    metrics = worker_metrics()
    metrics.issuer("main").watch(age=lambda: math.inf, stale=lambda: True, usable_until=lambda: 0.5)
    metrics.record_decision(DENIED, 0.0123)
    before = [family for family in metrics.registry.collect() if family.name.startswith("authz_")]
    after = [family for family in received_from(metrics) if family.name.startswith("authz_")]
    assert before == after
    assert all("\n" not in encode(each.registry) for each in (metrics, SupervisorMetrics()))  # one line per reply


def test_the_newest_exemplar_of_several_workers_is_kept_and_survives_its_worker() -> None:
    first, second = worker_metrics(), worker_metrics()
    for metrics, trace_id in ((first, "a" * 32), (second, "b" * 32)):
        metrics.record_decision(DENIED, 0.0123, Correlation("", trace_id, "c" * 16, sampled=True))
        metrics.record_decision(DENIED, 2.0, Correlation("", trace_id, "c" * 16, sampled=False))
    service = MergedMetrics(SupervisorMetrics().registry)
    service.update(1, received_from(first))
    service.update(2, received_from(second))
    for _ in range(2):
        exposition, _type = service.exposition("application/openmetrics-text; version=1.0.0")
        parsed: Iterable[Metric] = parse_openmetrics(exposition.decode())  # type: ignore[no-untyped-call]
        samples = [each for family in parsed for each in family.samples]
        found = [each for each in samples if each.exemplar is not None]
        assert [(each.labels["le"], each.value) for each in found] == [("0.05", 2.0)]
        assert found[0].exemplar is not None
        assert found[0].exemplar.labels == {"trace_id": "b" * 32}
        service.remove(2)
        service.update(2, [])


def test_counters_and_histograms_are_summed_series_by_series() -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    for registry, label, seconds in zip(registries, ("a", "b"), (0.1, 3.0), strict=True):
        counter = Counter("c", "", ("x",), registry=registry)
        counter.labels("shared").inc(2)
        counter.labels(label).inc()
        Histogram("h", "", buckets=(1.0,), registry=registry).observe(seconds)
    sums = values(merged(registry.collect() for registry in registries))
    assert (sums["c_total", "shared"], sums["c_total", "a"], sums["c_total", "b"]) == (4, 1, 1)
    assert (sums["h_bucket", "1.0"], sums["h_bucket", "+Inf"], sums["h_count", ""]) == (1, 2, 2)
    assert sums["h_sum", ""] == pytest.approx(3.1)


def test_counters_and_histograms_outlive_their_process() -> None:
    assert {family.type for family in totals(received_from(worker_metrics()))} == {"counter", "histogram"}


def test_when_a_worker_ends_no_total_decreases_and_its_gauges_disappear() -> None:
    one, other = worker_metrics(), worker_metrics()
    one.in_flight, other.in_flight = 4, 1
    own = SupervisorMetrics()
    together = MergedMetrics(own.registry)

    def total(name: str) -> float:
        text = together.exposition("")[0].decode()
        samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
        return sum(each.value for each in samples if each.name == name)

    for _ in range(3):
        one.record_decision(DENIED, 0.001)
    other.record_decision(DENIED, 0.001)
    together.update(1, received_from(one))
    together.update(2, received_from(other))
    assert (total("authz_checks_total"), total("authz_checks_in_flight")) == (4, 5)
    for _ in range(2):  # its replacement ends, too
        together.remove(1)
        own.record_worker_restart()
        assert (total("authz_checks_total"), total("authz_checks_in_flight")) == (4, 1)
        together.update(1, received_from(worker_metrics()))
        assert (total("authz_checks_total"), total("authz_checks_in_flight")) == (4, 1)
    assert total("authz_check_duration_seconds_count") == 4
    assert total("authz_worker_restarts_total") == 2
    assert total("authz_build_info") == 1


def test_no_total_decreases_by_rounding_either() -> None:
    together = MergedMetrics(CollectorRegistry())
    for number, counted in enumerate((0.1, 0.2, 0.3)):  # summed in another order, the result would be slightly smaller
        registry = CollectorRegistry()
        Counter("c", "", registry=registry).inc(counted)
        together.update(number, list(registry.collect()))
    before = together.exposition("")
    for number in range(3):
        together.remove(number)
        assert together.exposition("") == before


def test_a_worker_that_ends_during_a_rendering_is_counted_once() -> None:
    one = worker_metrics()
    one.record_decision(DENIED, 0.001)

    class WorkerEnds(CollectorRegistry):
        """The supervisor's registry, which is read in a thread while its event loop runs."""

        def collect(self) -> Iterable[Metric]:
            together.remove(1)
            return ()

    together = MergedMetrics(WorkerEnds())
    together.update(1, received_from(one))
    for _ in range(2):
        samples = (
            each
            for family in text_string_to_metric_families(together.exposition("")[0].decode())
            for each in family.samples
        )
        assert sum(each.value for each in samples if each.name == "authz_checks_total") == 1


def test_the_connections_of_all_workers_are_added_up() -> None:
    together = MergedMetrics(SupervisorMetrics().registry)
    for worker in (1, 2):
        metrics = worker_metrics()
        metrics.watch_connections(lambda: 4)
        metrics.transport().record_connection("accepted")
        together.update(worker, received_from(metrics))
    for accept in ("", "application/openmetrics-text;version=1.0.0"):
        lines = together.exposition(accept)[0].decode().splitlines()
        assert "authz_transport_connections 8.0" in lines
        assert 'authz_transport_connections_total{result="accepted"} 2.0' in lines


def test_the_merged_exposition_has_the_formats_of_a_single_process() -> None:
    together = MergedMetrics(SupervisorMetrics().registry)
    together.update(1, received_from(worker_metrics()))
    for accept in ("", "application/openmetrics-text;version=1.0.0"):
        body, kind = together.exposition(accept)
        assert kind == worker_metrics().exposition(accept)[1]
        read = parse_openmetrics if accept else text_string_to_metric_families
        names = [(family.name, family.type) for family in read(body.decode())]
        assert {"authz_worker_restarts", "authz_checks", "authz_checks_in_flight"} <= {name for name, _ in names}
        assert len(names) == len(set(names))


def test_encoded_metrics_are_plain_json() -> None:
    assert all(isinstance(each, list) for each in json.loads(encode(worker_metrics().registry)))

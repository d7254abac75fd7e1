"""The metrics of several workers are those of one service."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.correlation import Correlation
from authz_service.core.decision import Deny
from authz_service.core.reasons import Reason
from authz_service.telemetry.instruments import Registry
from authz_service.telemetry.merged_metrics import GAUGES, Merged, MergedMetrics, decode, encode
from authz_service.telemetry.metrics import Metrics
from authz_service.telemetry.supervisor_metrics import SupervisorMetrics
from support.samples import families, text_of, value_in, with_every_series

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.telemetry.instruments import Samples

DENIED = Deny(Reason.NO_RULE, "-", "")


def worker_metrics() -> Metrics:
    metrics = Metrics(transport="asyncio")
    metrics.transport()
    metrics.issuer("main")
    metrics.introspection("main")
    return metrics


def received_from(metrics: Metrics | SupervisorMetrics) -> list[Samples]:
    """What the supervisor receives from a worker with these metrics."""
    return decode(json.loads("".join(encode(metrics.registry.collect()))))


def gauge(name: str, value: float) -> Registry:
    registry = Registry()
    registry.gauge(name, "").only.set(value)
    return registry


def merged_values(registries: Iterable[Registry]) -> dict[str, float]:
    """The samples of several processes as those of one, by name with labels."""
    merged = Merged()
    for registry in registries:
        for samples in registry.collect():
            merged.add(samples)
    return {name: value for samples in merged.collect() for name, value in samples.values.items()}


def test_the_table_has_an_entry_for_each_existing_gauge_and_no_other() -> None:
    both = worker_metrics(), SupervisorMetrics()
    kinds = {(samples.family, samples.kind) for each in both for samples in each.registry.collect()}
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
        ("of_a_newer_version", 3.0),
    ],
)
def test_a_gauge_is_merged_by_its_entry(name: str, expected: float) -> None:
    assert merged_values([gauge(name, 2), gauge(name, 3)]) == {name: expected}


def test_decoding_restores_what_was_encoded() -> None:
    metrics = worker_metrics()
    metrics.issuer("main").watch(age=lambda: math.inf, stale=lambda: True, usable_until=lambda: 0.5)
    metrics.record_decision(DENIED, 0.0123)
    metrics.record_decision(DENIED, 0.0123, Correlation("", "a" * 32, "c" * 16, sampled=True))
    before = [samples for samples in metrics.registry.collect() if samples.family.startswith("authz_")]
    after = [samples for samples in received_from(metrics) if samples.family.startswith("authz_")]
    assert before == after
    assert any(samples.exemplars for samples in after)
    for each in (metrics, SupervisorMetrics()):  # one line per reply
        assert not any("\n" in piece for piece in encode(each.registry.collect()))


def test_the_newest_exemplar_of_several_workers_is_kept_and_survives_its_worker() -> None:
    first, second = worker_metrics(), worker_metrics()
    for metrics, trace_id in ((first, "a" * 32), (second, "b" * 32)):
        metrics.record_decision(DENIED, 0.0123, Correlation("", trace_id, "c" * 16, sampled=True))
        metrics.record_decision(DENIED, 2.0, Correlation("", trace_id, "c" * 16, sampled=False))
    service = MergedMetrics(SupervisorMetrics().registry)
    service.update(1, received_from(first))
    service.update(2, received_from(second))
    for _ in range(2):
        parsed = families(text_of(service, openmetrics=True), openmetrics=True)
        samples = [each for family in parsed for each in family.samples]
        found = [each for each in samples if each.exemplar is not None]
        assert [(each.labels["le"], each.value) for each in found] == [("0.05", 2.0)]
        assert found[0].exemplar is not None
        assert found[0].exemplar.labels == {"trace_id": "b" * 32}
        service.remove(2)
        service.update(2, [])


def test_counters_and_histograms_are_summed_series_by_series() -> None:
    registries = Registry(), Registry()
    for registry, label, seconds in zip(registries, ("a", "b"), (0.1, 3.0), strict=True):
        counter = registry.counter("c_total", "", ("x",))
        counter.labels("shared").add(2)
        counter.labels(label).increase()
        registry.histogram("h", "", bounds=(1.0,)).only.observe(seconds)
    sums = merged_values(registries)
    assert sums == {
        'c_total{x="shared"}': 4,
        'c_total{x="a"}': 1,
        'c_total{x="b"}': 1,
        'h_bucket{le="1.0"}': 1,
        'h_bucket{le="+Inf"}': 2,
        "h_count": 2,
        "h_sum": 3.1,
    }


def test_counters_and_histograms_outlive_their_process() -> None:
    together = MergedMetrics(Registry())
    together.update(1, received_from(worker_metrics()))
    together.remove(1)
    assert {family.type for family in families(text_of(together))} == {"counter", "histogram"}


def test_when_a_worker_ends_no_total_decreases_and_its_gauges_disappear() -> None:
    one, other = worker_metrics(), worker_metrics()
    one.in_flight, other.in_flight = 4, 1
    own = SupervisorMetrics()
    together = MergedMetrics(own.registry)

    def total(name: str) -> float:
        samples = (each for family in families(text_of(together)) for each in family.samples)
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
    together = MergedMetrics(Registry())
    for number, counted in enumerate((0.1, 0.2, 0.3)):  # summed in another order, the result would be slightly smaller
        registry = Registry()
        registry.counter("c_total", "").only.add(counted)
        together.update(number, list(registry.collect()))
    before = text_of(together)
    for number in range(3):
        together.remove(number)
        assert text_of(together) == before


@given(ended=st.lists(st.floats(0, 1e9), max_size=5), running=st.lists(st.floats(0, 1e9), min_size=1, max_size=5))
def test_the_total_of_ended_and_running_workers_is_the_exact_sum(ended: list[float], running: list[float]) -> None:
    together = MergedMetrics(Registry())
    for number, counted in enumerate(ended + running):
        registry = Registry()
        registry.counter("c_total", "").only.add(counted)
        together.update(number, list(registry.collect()))
    for number in range(len(ended)):
        together.remove(number)
    assert value_in(families(text_of(together)), "c_total", {}) == pytest.approx(math.fsum(ended + running), rel=1e-15)


def test_a_worker_that_ends_during_a_rendering_is_counted_once() -> None:
    one = worker_metrics()
    one.record_decision(DENIED, 0.001)

    for ends_after in range(300):  # pieces
        together = MergedMetrics(SupervisorMetrics().registry)
        together.update(1, received_from(one))
        text = ""
        for number, piece in enumerate(together.exposition(openmetrics=False)):
            if number == ends_after:
                together.remove(1)
            text += piece
        for each in (text, text_of(together)):
            samples = (each for family in families(each) for each in family.samples)
            assert sum(each.value for each in samples if each.name == "authz_checks_total") == 1


def test_the_connections_of_all_workers_are_added_up() -> None:
    together = MergedMetrics(SupervisorMetrics().registry)
    for worker in (1, 2):
        metrics = worker_metrics()
        metrics.watch_connections(lambda: 4)
        metrics.transport().record_connection("accepted")
        together.update(worker, received_from(metrics))
    for openmetrics in (False, True):
        lines = text_of(together, openmetrics=openmetrics).splitlines()
        assert "authz_transport_connections 8.0" in lines
        assert 'authz_transport_connections_total{result="accepted"} 2.0' in lines


def test_the_merged_exposition_has_the_formats_of_a_single_process() -> None:
    together = MergedMetrics(SupervisorMetrics().registry)
    together.update(1, received_from(worker_metrics()))
    for openmetrics in (False, True):
        read = families(text_of(together, openmetrics=openmetrics), openmetrics=openmetrics)
        names = [(family.name, family.type) for family in read]
        assert {"authz_worker_restarts", "authz_checks", "authz_checks_in_flight"} <= {name for name, _ in names}
        assert len(names) == len(set(names))


@pytest.mark.parametrize("openmetrics", [False, True])
def test_one_worker_alone_is_exposed_as_without_a_supervisor(*, openmetrics: bool) -> None:
    metrics = with_every_series()
    metrics.issuer('"quoted"\\\n').watch(age=lambda: math.inf, stale=lambda: True, usable_until=lambda: 0.5)
    metrics.declare_rules([("read", "enforce", Reason), ("write", "shadow", Reason)])
    metrics.record_decision(DENIED, 0.0123, Correlation("", "a" * 32, "c" * 16, sampled=True))
    together = MergedMetrics(Registry())
    together.update(1, received_from(metrics))
    ours = [
        [line for line in text_of(each, openmetrics=openmetrics).splitlines() if "authz_" in line]
        for each in (metrics, together)
    ]
    assert ours[0] == ours[1]


def test_encoded_metrics_are_plain_json() -> None:
    assert all(isinstance(each, list) for each in json.loads("".join(encode(worker_metrics().registry.collect()))))
    assert json.loads("".join(encode(()))) == []

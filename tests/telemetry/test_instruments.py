"""Instruments lose nothing, whichever thread creates their series or reads them."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.correlation import Correlation
from authz_service.core.decision import Allow
from authz_service.core.reasons import Reason
from authz_service.telemetry.instruments import SERIES_PER_PART, Registry
from authz_service.telemetry.metrics import Metrics
from support.samples import collected, families, sample_value, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads that give way to each other as often as possible."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("frequent_switches")
def test_decisions_are_counted_while_another_thread_declares_their_rules_and_a_third_one_reads() -> None:
    metrics = Metrics(transport="asyncio")
    rules = [f"rule-{number}" for number in range(300)]
    declared = threading.Event()

    def declare() -> None:
        for rule in rules:
            metrics.declare_rules([(rule, "enforce", Reason)])
        declared.set()

    def read() -> int:
        readings = 0
        while not declared.is_set():
            readings += len(text_of(metrics)) > 0
        return readings

    with ThreadPoolExecutor() as threads:
        reading, declaring = threads.submit(read), threads.submit(declare)
        for rule in rules:
            metrics.record_decision(Allow(Reason.OK, rule), 0.001)
        declaring.result()
        assert reading.result() > 0
    counted = [
        sample.value
        for family in families(text_of(metrics))
        for sample in family.samples
        if sample.name == "authz_checks_total" and sample.labels["reason"] == "ok"
    ]
    assert counted == [1] * len(rules)


@pytest.mark.usefixtures("frequent_switches")
def test_no_lost_line_of_the_decision_log_goes_uncounted_whichever_thread_reports_it() -> None:
    metrics = Metrics(transport="asyncio")

    def report() -> None:
        for _ in range(5000):
            metrics.record_lost_decision_lines(2)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(report)
    assert sample_value(metrics, "authz_decision_log_lines_lost_total") == 40_000


def test_the_count_of_a_histogram_is_that_of_its_last_bucket_and_a_bound_belongs_to_its_bucket() -> None:
    registry = Registry()
    histogram = registry.histogram("h", "Observes.", bounds=(0.5, 1.0)).only
    for value in (0.0, 0.5, 0.50001, 1.0, 1.5, 1e300):
        histogram.observe(value)
    (samples,) = registry.collect()
    assert samples.values == {
        'h_bucket{le="0.5"}': 2,
        'h_bucket{le="1.0"}': 4,
        'h_bucket{le="+Inf"}': 6,
        "h_count": 6,
        "h_sum": 1e300,
    }


def test_a_bucket_has_its_last_exemplar() -> None:
    metrics = Metrics(transport="asyncio")
    for trace_id, seconds in (("a" * 32, 0.0123), ("b" * 32, 0.0124), ("c" * 32, 4.0)):
        correlation = Correlation("", trace_id, "d" * 16, sampled=True)
        metrics.record_decision(Allow(Reason.OK, "read"), seconds, correlation)
    parsed = families(text_of(metrics, openmetrics=True), openmetrics=True)
    found = {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in parsed
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert found == {"0.05": ("b" * 32, 0.0124), "+Inf": ("c" * 32, 4.0)}


LABELS = st.text(alphabet='ab",=\\\n', max_size=6)


@given(series=st.sets(st.tuples(LABELS, LABELS), max_size=8), removed=LABELS)
def test_series_are_removed_by_the_first_label_and_no_others(series: set[tuple[str, str]], removed: str) -> None:
    registry = Registry()
    family = registry.gauge("g", "Measures.", ("issuer", "state"))
    for pair in series:
        family.labels(*pair).set(1)
    family.remove(removed)
    (parsed,) = collected(registry)
    assert {(each.labels["issuer"], each.labels["state"]) for each in parsed.samples} == {
        pair for pair in series if pair[0] != removed
    }


def test_series_that_are_removed_during_a_collection_are_left_out() -> None:
    registry = Registry()
    family = registry.gauge("g", "Measures.", ("a",))
    for number in range(2 * SERIES_PER_PART):
        family.labels(str(number)).set(1)
    parts = registry.collect()
    assert len(next(parts).values) == SERIES_PER_PART
    family.remove(str(SERIES_PER_PART))
    family.labels("new").set(1)
    assert len(next(parts).values) == SERIES_PER_PART - 1


def test_series_may_be_created_at_any_moment_of_a_collection() -> None:
    metrics = Metrics(transport="asyncio")
    metrics.declare_rules((f"rule-{number}", "enforce", Reason) for number in range(20))
    metrics.declare_upstream_headers(f"x-{number}" for number in range(100))
    numbers = itertools.count()

    def create(_phase: str, _info: object) -> None:
        """Do what another thread could do whenever the interpreter allocates memory."""
        number = next(numbers)
        metrics.declare_rules(
            [(f"rule-{number % 20}", "shadow", [Reason.OK]), (f"new-{number}", "enforce", [Reason.OK])]
        )
        metrics.declare_upstream_headers([f"new-{number}"])

    thresholds = gc.get_threshold()
    gc.callbacks.append(create)
    gc.set_threshold(1)
    try:
        text = text_of(metrics)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(create)
    assert next(numbers) > 0
    assert text.count('rule="rule-19"') >= len(Reason)
    assert text.count('header="x-') == 100

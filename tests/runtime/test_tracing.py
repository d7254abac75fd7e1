"""Spans reach a collector, and one that stalls, is slow, refuses or is gone costs nothing that grows."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from authz_service.config.model import TracingSettings
from authz_service.core.claims import Claims
from authz_service.core.correlation import Correlation
from authz_service.core.decision import Allow, Decision, Deny
from authz_service.core.reasons import Reason
from authz_service.providers.client_resources import ClientResources
from authz_service.runtime import tracing
from authz_service.runtime.background_tasks import BackgroundTasks
from authz_service.runtime.tracing import Tracing, traces_url
from authz_service.telemetry.metrics import Metrics
from authz_service.telemetry.spans import MAX_WAITING, Wait
from support.otlp_collector import Collector, collector
from support.samples import sample_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = Correlation("r1", TRACE, SPAN, sampled=True)
HANG_TIMEOUT = 30.0  # seconds; only a test that hangs takes this long
CLAIMS = Claims("main", "secret-subject", "app", frozenset(), frozenset(), "", {})
ALLOWED = Allow(Reason.OK, "read", CLAIMS)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_INTERVAL", 0.01)
    monkeypatch.setattr(tracing, "_MAX_BACKOFF", 0.02)
    monkeypatch.setattr(tracing, "_TIMEOUT", HANG_TIMEOUT)
    monkeypatch.setattr(tracing, "_FLUSH_TIMEOUT", HANG_TIMEOUT)


class Traced:
    """Metrics whose spans are exported."""

    def __init__(self, background: BackgroundTasks) -> None:
        self.metrics = Metrics(transport="asyncio")
        self.tracing = Tracing(self.metrics, background, ClientResources(), clock=time.time, timer=time.monotonic)

    def apply(self, endpoint: str) -> None:
        self.tracing.apply(TracingSettings.read({"otlp_endpoint": endpoint}))

    def check(self, decision: Decision = ALLOWED, correlation: Correlation = SAMPLED, wait: Wait | None = None) -> None:
        self.metrics.record_decision(decision, 0.002, correlation, wait)

    def count(self, result: str) -> float:
        return sample_value(self.metrics, "authz_trace_spans_total", {"result": result}) or 0.0


@asynccontextmanager
async def traced() -> AsyncIterator[Traced]:
    background = BackgroundTasks()
    try:
        yield Traced(background)
    finally:
        await background.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the exporter changes it
            await asyncio.sleep(0.005)


async def test_a_check_is_a_span_below_its_caller_with_attributes_from_closed_lists() -> None:
    async with collector() as collecting, traced() as service:
        service.apply(collecting.endpoint)
        service.check()
        service.check(Deny(Reason.KEYS_UNAVAILABLE, "read", cause="secret cause"))
        await until(lambda: service.count("exported") == 2)
        allowed, failed = collecting.spans()
        assert (allowed.name, allowed.kind, allowed.service) == ("Check", "SPAN_KIND_SERVER", "authz-service")
        assert (allowed.trace_id, allowed.parent_id) == (TRACE, SPAN)
        assert len(allowed.span_id) == 16
        assert allowed.span_id != failed.span_id
        assert allowed.end - allowed.start == pytest.approx(2e6, rel=0.01)
        assert allowed.end / 1e9 == pytest.approx(time.time(), abs=60)
        assert allowed.attributes == {
            "authz.decision": "allow", "authz.reason": "ok", "authz.rule": "read", "authz.mode": "enforce",
            "authz.issuer": "main",
        }  # fmt: skip
        assert (allowed.failed, failed.failed) == (False, True)
        assert b"secret" not in b"".join(collecting.requests)
        assert collecting.content_types == {"application/x-protobuf"}


async def test_what_a_check_waited_for_is_a_child_and_background_work_is_a_root() -> None:
    async with collector() as collecting, traced() as service:
        service.apply(collecting.endpoint)
        service.check(wait=Wait("introspection", "main", start=0.0005, seconds=0.001))
        service.metrics.issuer("main").record_fetch("failure", 0.5)
        service.metrics.security_events("main").record_poll(0.1, success=True)
        await until(lambda: service.count("exported") == 4)
        check, wait, fetch, poll = collecting.spans()
        assert (wait.name, wait.trace_id, wait.parent_id) == ("introspection", TRACE, check.span_id)
        assert check.start < wait.start < wait.end < check.end
        assert (fetch.name, fetch.attributes["authz.result"], fetch.failed) == ("key fetch", "failure", True)
        assert (poll.name, poll.attributes) == ("event poll", {"authz.issuer": "main", "authz.result": "success"})
        assert fetch.parent_id == poll.parent_id == ""
        assert len({TRACE, fetch.trace_id, poll.trace_id}) == 3


async def test_nothing_is_recorded_for_a_caller_that_does_not_sample_or_without_tracing() -> None:
    async with collector() as collecting, traced() as service:
        service.check()
        service.apply(collecting.endpoint)
        service.check(correlation=SAMPLED._replace(sampled=False))
        service.check(correlation=Correlation())
        service.tracing.apply(None)
        service.check()
        assert not service.metrics.traced
        await service.tracing.flush()
        assert collecting.requests == []


async def test_many_spans_are_sent_in_batches_over_one_connection_and_the_end_waits_for_them() -> None:
    async with collector() as collecting, traced() as service:
        service.apply(collecting.endpoint)
        for _ in range(200):
            service.check()
        await service.tracing.flush()
        assert service.count("exported") == 200
        assert len(collecting.spans()) == 200
        assert len(collecting.requests) == 4


def _stall(collecting: Collector) -> None:
    collecting.stalled = True


def _slow(collecting: Collector) -> None:
    collecting.delay = 0.1


def _refuse(collecting: Collector) -> None:
    collecting.status = 503


@pytest.mark.parametrize("trouble", [_stall, _slow, _refuse])
async def test_a_collector_in_trouble_delays_nothing_and_what_waits_is_bounded(
    trouble: Callable[[Collector], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble is _stall:
        monkeypatch.setattr(tracing, "_TIMEOUT", 0.2)
    monkeypatch.setattr(tracing, "_FLUSH_TIMEOUT", 0.2)
    async with collector() as collecting, traced() as service:
        trouble(collecting)
        service.apply(collecting.endpoint)
        for number in range(10 * MAX_WAITING):
            service.check()  # synchronous: it cannot wait
            if number % 1000 == 0:
                await asyncio.sleep(0.01)
        assert service.count("dropped") > MAX_WAITING
        await until(lambda: service.count("exported" if trouble is _slow else "failed") >= 64)
        async with asyncio.timeout(HANG_TIMEOUT):
            await service.tracing.flush()
        waiting = 10 * MAX_WAITING - sum(map(service.count, ("dropped", "failed", "exported")))
        assert 0 <= waiting <= MAX_WAITING + 64  # and the batch in flight


async def test_a_collector_that_is_gone_is_used_again_once_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    async with traced() as service:
        async with collector() as collecting:
            service.apply(collecting.endpoint)
            service.check()
            await until(lambda: service.count("exported") == 1)
        for failures in (1, 2):
            service.check()
            await until(lambda failures=failures: service.count("failed") == failures)  # type: ignore[misc]
        assert [record.getMessage() for record in caplog.records] == ["spans could not be exported"]
        async with collector(collecting.port):
            service.check()
            await until(lambda: service.count("exported") == 2)


async def test_spans_that_the_collector_rejects_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with collector() as collecting, traced() as service:
        collecting.body = b"\x0a\x06\x08\x01\x12\x02no"  # partial_success {rejected_spans: 1, error_message: "no"}
        service.apply(collecting.endpoint)
        service.check()
        await until(lambda: service.count("failed") == 1)
        assert service.count("exported") == 0
        assert "rejected" in str(caplog.records[0].__dict__["fields"])


async def test_a_changed_collector_gets_the_next_spans_and_an_unchanged_one_is_kept() -> None:
    async with collector() as one, collector() as two, traced() as service:
        service.apply(one.endpoint)
        service.check()
        service.apply(one.endpoint)
        await until(lambda: service.count("exported") == 1)
        service.apply(two.endpoint)
        service.check()
        await until(lambda: service.count("exported") == 2)
        assert (len(one.spans()), len(two.spans())) == (1, 1)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://c.example/otlp/", "https://c.example/otlp/v1/traces"),
        ("https://c.example/v1/traces", "https://c.example/v1/traces"),
    ],
)
def test_the_path_for_traces_is_added_unless_it_is_there(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url

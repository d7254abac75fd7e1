"""Several workers are told of as one service."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import math
import signal
import socket
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from authz_service.config.load import load
from authz_service.config.model import Server
from authz_service.core.decision import Deny
from authz_service.core.errors import StartFailed
from authz_service.core.reasons import Reason
from authz_service.runtime import supervisor as module
from authz_service.runtime import worker_channel
from authz_service.runtime.supervisor import Supervisor, _backoff
from authz_service.runtime.worker_channel import Worker, WorkerProcess
from authz_service.telemetry.merging import GAUGES, MergedMetrics, decode, encode, merged, totals
from authz_service.telemetry.metrics import Metrics, SupervisorMetrics
from authz_service.transport.addresses import SharedAddress
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client import Metric

starting = asyncio.create_subprocess_exec
DENIED = Deny(Reason.NO_RULE, "-", "")


def values(families: Iterable[Metric]) -> dict[tuple[str, str], float]:
    """Each sample's value by its name and its labels' values."""
    return {(each.name, ",".join(each.labels.values())): each.value for one in families for each in one.samples}


def worker() -> Metrics:
    metrics = Metrics(transport="asyncio")
    metrics.issuer("main")
    metrics.introspection("main")
    return metrics


def said(metrics: Metrics) -> list[Metric]:
    return decode(json.loads(encode(metrics.registry)))


def gauge(name: str, value: float) -> list[Metric]:
    registry = CollectorRegistry()
    Gauge(name, "", registry=registry).set(value)
    return list(registry.collect())


def test_the_table_has_a_rule_for_each_gauge_that_there_is_and_for_no_other() -> None:
    there = {family.name: family.type for each in (worker(), SupervisorMetrics()) for family in each.registry.collect()}
    assert GAUGES.keys() == {name for name, kind in there.items() if kind == "gauge"}
    assert set(there.values()) == {"gauge", "counter", "histogram"}


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
def test_a_gauge_is_told_by_its_rule(name: str, expected: float) -> None:
    assert values(merged([gauge(name, 2), gauge(name, 3)])) == {(name, ""): expected}


def test_what_was_told_to_another_process_is_what_is_there() -> None:
    metrics = worker()
    metrics.issuer("main").watch(age=lambda: math.inf, stale=lambda: True, usable_until=lambda: 0.5)
    metrics.record_decision(DENIED, 0.0123)
    before = [family for family in metrics.registry.collect() if family.name.startswith("authz_")]
    after = [family for family in said(metrics) if family.name.startswith("authz_")]
    assert before == after
    assert all("\n" not in encode(each.registry) for each in (metrics, SupervisorMetrics()))  # it is sent as a line


def test_counters_and_histograms_are_added_up_series_by_series() -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    for registry, label, seconds in zip(registries, ("a", "b"), (0.1, 3.0), strict=True):
        counter = Counter("c", "", ("x",), registry=registry)
        counter.labels("shared").inc(2)
        counter.labels(label).inc()
        Histogram("h", "", buckets=(1.0,), registry=registry).observe(seconds)
    told = values(merged(registry.collect() for registry in registries))
    assert (told["c_total", "shared"], told["c_total", "a"], told["c_total", "b"]) == (4, 1, 1)
    assert (told["h_bucket", "1.0"], told["h_bucket", "+Inf"], told["h_count", ""]) == (1, 2, 2)
    assert told["h_sum", ""] == pytest.approx(3.1)


def test_what_outlives_a_process_is_what_it_counted() -> None:
    assert {family.type for family in totals(said(worker()))} == {"counter", "histogram"}


def test_a_worker_that_is_gone_makes_no_total_go_backwards_and_holds_no_gauge() -> None:
    one, other = worker(), worker()
    one.in_flight, other.in_flight = 4, 1
    own = SupervisorMetrics()
    together = MergedMetrics(own.registry)

    def told(name: str) -> float:
        text = together.exposition("")[0].decode()
        samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
        return sum(each.value for each in samples if each.name == name)

    for _ in range(3):
        one.record_decision(DENIED, 0.001)
    other.record_decision(DENIED, 0.001)
    together.update(1, said(one))
    together.update(2, said(other))
    assert (told("authz_checks_total"), told("authz_checks_in_flight")) == (4, 5)
    for _ in range(2):  # its replacement goes the same way
        together.remove(1)
        own.record_worker_restart()
        assert (told("authz_checks_total"), told("authz_checks_in_flight")) == (4, 1)
        together.update(1, said(worker()))
        assert (told("authz_checks_total"), told("authz_checks_in_flight")) == (4, 1)
    assert told("authz_check_duration_seconds_count") == 4
    assert told("authz_worker_restarts_total") == 2
    assert told("authz_build_info") == 1


def test_a_death_makes_no_total_go_backwards_by_rounding_either() -> None:
    together = MergedMetrics(CollectorRegistry())
    for number, counted in enumerate((0.1, 0.2, 0.3)):  # added up in another order, they make a little less
        registry = CollectorRegistry()
        Counter("c", "", registry=registry).inc(counted)
        together.update(number, list(registry.collect()))
    before = together.exposition("")
    for number in range(3):
        together.remove(number)
        assert together.exposition("") == before


def test_a_worker_that_goes_while_it_is_told_of_is_told_of_once() -> None:
    one = worker()
    one.record_decision(DENIED, 0.001)

    class Goes(CollectorRegistry):
        """A supervisor's, read in a thread while its loop goes on."""

        def collect(self) -> Iterable[Metric]:
            together.remove(1)
            return ()

    together = MergedMetrics(Goes())
    together.update(1, said(one))
    for _ in range(2):
        samples = (
            each
            for family in text_string_to_metric_families(together.exposition("")[0].decode())
            for each in family.samples
        )
        assert sum(each.value for each in samples if each.name == "authz_checks_total") == 1


def test_one_exposition_speaks_the_formats_that_a_single_process_speaks() -> None:
    together = MergedMetrics(SupervisorMetrics().registry)
    together.update(1, said(worker()))
    for accept in ("", "application/openmetrics-text;version=1.0.0"):
        body, kind = together.exposition(accept)
        assert kind == worker().exposition(accept)[1]
        read = parse_openmetrics if accept else text_string_to_metric_families
        names = [family.name for family in read(body.decode())]
        assert {"authz_worker_restarts", "authz_checks", "authz_checks_in_flight"} <= set(names)
        assert len(names) == len(set(names))


def test_the_text_for_another_process_holds_nothing_but_plain_values() -> None:
    assert all(isinstance(each, list) for each in json.loads(encode(worker().registry)))


def test_who_dies_is_replaced_at_once_and_who_dies_again_and_again_ever_later() -> None:
    assert [_backoff(deaths) for deaths in range(1, 9)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert _backoff(10_000) == 30


# The supervisor's side of a worker.


async def test_a_word_that_a_death_cut_short_is_not_taken_for_one() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    process = WorkerProcess(None, reader, writer)  # type: ignore[arg-type] # what it says is all that is looked at
    with theirs:
        theirs.sendall(b'{"missing": ["keys"]}\n{"metrics": [["authz_ch')
        theirs.shutdown(socket.SHUT_WR)
        heard = [process.serves async for _ in process.replies()]
    writer.close()
    assert (heard, process.missing, process.serves) == ([True], ["keys"], False)


class FakeProcess:
    """A worker's process, which ends when it is killed if it does not before; and what it is asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.returncode: int | None = None
        self.gone = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.asked.append(data)

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL
        self.gone.set()

    async def wait(self) -> int | None:
        await self.gone.wait()
        return self.returncode


def process_of(fake: FakeProcess) -> WorkerProcess:
    return WorkerProcess(fake, None, fake)  # type: ignore[arg-type] # all that is looked at


@in_virtual_time
async def test_a_worker_that_serves_and_does_not_answer_any_more_is_killed() -> None:
    fake = FakeProcess()
    process = process_of(fake)
    watching = asyncio.create_task(process.kill_once_it_hangs())
    await asyncio.sleep(3600)  # it fetches its first keys
    assert not fake.gone.is_set()
    process._receive({"missing": []})
    await asyncio.sleep(20)
    assert (fake.asked, fake.gone.is_set()) == ([b"missing\n"] * 2, False)
    await watching
    assert await process.ended() == "it no longer replied"


@in_virtual_time
async def test_a_worker_that_is_slow_is_left_alone() -> None:
    fake = FakeProcess()
    process = process_of(fake)
    watching = asyncio.create_task(process.kill_once_it_hangs())
    for _ in range(100):
        await asyncio.sleep(24.0)  # longer than anybody waits for an answer
        process._receive({"missing": []} if "missing" in process._pending else {})
    assert (fake.returncode, len(fake.asked) > 50) == (None, True)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@in_virtual_time
async def test_a_worker_that_says_no_more_and_does_not_end_is_not_waited_for_for_ever() -> None:
    assert (
        await process_of(FakeProcess()).ended() == "it closed its channel and did not exit"
    )  # then whoever waited kills it


@in_virtual_time
async def test_how_a_worker_ended_is_told_by_its_status() -> None:
    fake = FakeProcess()
    fake.kill()
    assert await process_of(fake).ended() == "status -9"


REFUSALS = (BlockingIOError(errno.EAGAIN, "nothing left"), RuntimeError("in Python's words"))


@pytest.fixture(params=REFUSALS, ids=["process", "thread"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """One that can start nothing, and does not rest."""

    async def refused(*_: object, **__: object) -> None:
        raise request.param

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    monkeypatch.setattr(module, "_backoff", lambda _: 0.0)
    server = {"grpc_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0", "workers": 2}
    issuer = {"issuer": "https://idp.example", "audiences": ["api"]}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"server": server, "issuers": [issuer], "rules": [{"name": "r"}]}))
    return Supervisor(file, load(file))


async def test_a_worker_that_cannot_be_started_is_an_error_at_the_start(supervisor: Supervisor) -> None:
    with pytest.raises(
        StartFailed, match=r"before it served: not started: (nothing left|the system allows no further thread)"
    ):
        await supervisor.run()


async def test_a_worker_that_cannot_be_started_later_is_tried_again(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor._served.update((1, 2))
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(30):  # no test waits for it
        while len(caplog.records) < 6:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        supervisor._stop()
        await running
    assert {record.message for record in caplog.records} == {"worker ended unexpectedly"}


@pytest.mark.parametrize("isolated", [0, 1])
def test_workers_are_isolated_from_the_environment_if_their_supervisor_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, isolated: int
) -> None:
    flags = SimpleNamespace(ignore_environment=isolated, no_user_site=isolated)
    server = Server.model_validate({})
    with monkeypatch.context() as changed:
        changed.setattr(sys, "flags", flags)
        command = worker_channel.command_of(tmp_path, Worker(1, 3, server, SharedAddress("127.0.0.1:1")))
    options = command[1 : command.index("-m")]
    assert [each in options for each in ("-E", "-s")] == [bool(isolated)] * 2


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_start_that_fails_drains_the_others_however_far_they_are(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    refused, asked = asyncio.create_subprocess_exec, itertools.count()
    started: list[asyncio.subprocess.Process] = []

    async def first_only(*_: str, **__: object) -> asyncio.subprocess.Process:
        if next(asked):
            for _turn in range(turns):
                await asyncio.sleep(0)
            return await refused("")
        started.append(await starting("sleep", "5"))
        return started[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", first_only)
    with pytest.raises(StartFailed):
        await supervisor.run()
    assert all(each.returncode == -signal.SIGTERM for each in started)  # with which a worker that serves drains

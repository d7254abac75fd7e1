"""A client of the admin port costs little, whatever it sends, and does not keep other clients from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.admin import limits
from authz_service.admin.exchange import MAX_HEAD_BYTES, AdminExchange
from authz_service.admin.limits import MAX_CONNECTIONS
from authz_service.http1 import TurnBudget
from support.admin_client import HEALTH, SCRAPE, serving
from support.raw_provider import SlowStepTimer
from support.sidecar_process import HANG_TIMEOUT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# Requests that never arrive or never end.


@pytest.mark.parametrize("data", [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost:"])
async def test_a_request_that_is_never_complete_closes_its_connection(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT", 0.05)
    async with serving() as running:
        client = await running.connect()
        client.send(data)
        assert await client.read_to_end() == b""


async def test_a_request_that_arrives_byte_by_byte_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT", 0.1)
    async with serving() as running:
        client = await running.connect()

        async def send_slowly() -> None:
            while True:
                client.send(b"a")
                await asyncio.sleep(0.005)

        sending = asyncio.create_task(send_slowly())
        assert await client.read_to_end() == b""
        sending.cancel()


async def test_a_connection_is_kept_alive_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEEPALIVE_TIMEOUT", 0.05)
    async with serving() as running:
        client = await running.connect()
        assert await client.request(HEALTH) == 200
        assert await client.request(HEALTH) == 200
        assert await client.read_to_end() == b""


async def test_a_response_that_the_client_does_not_read_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_TIMEOUT", 0.05)

    class Large:
        def exposition(self, *, openmetrics: bool) -> Iterator[str]:
            yield "x" * 50_000_000

    async with serving(Large()) as running:
        client = await running.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # of a stream's transport
        client.send(SCRAPE)
        await wait_until(lambda: running.server._connections == {})


# Many connections.


async def test_incomplete_requests_are_limited_and_other_clients_are_served() -> None:
    async with serving() as running:
        for number in range(300):
            half = await running.connect()
            half.send(b"GET /metr")
            if number % 50 == 0:
                assert await (await running.connect()).request(HEALTH) == 200
        await wait_until(lambda: sum(not each.reader.at_eof() for each in running.clients) <= MAX_CONNECTIONS)
        assert len(running.server._connections) <= MAX_CONNECTIONS
        for request in (HEALTH, SCRAPE):
            assert await (await running.connect()).request(request) == 200


async def test_simultaneous_connections_are_limited_too() -> None:
    async with serving() as running:
        await asyncio.gather(*(running.connect() for _ in range(100)))
        await wait_until(lambda: sum(not each.reader.at_eof() for each in running.clients) <= MAX_CONNECTIONS)
        assert await (await running.connect()).request(HEALTH) == 200


async def test_the_connection_that_is_idle_longest_is_closed_first() -> None:
    async with serving() as running:
        regular = await running.connect()
        silent = await running.connect()
        await wait_until(lambda: len(running.server._connections) == 2)  # accepted before the next request
        assert await regular.request(HEALTH) == 200
        for _ in range(MAX_CONNECTIONS - 1):
            assert await (await running.connect()).request(HEALTH) == 200
        assert await silent.read_to_end() == b""
        assert await regular.request(HEALTH) == 200


# Invalid or oversized requests.


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX:" + b" " * 8000 + b"\x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 501),
        (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"x" * 10 * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    ],
    ids=lambda value: ascii(value)[:60],
)
async def test_an_invalid_request_gets_a_problem_document_and_closes_the_connection(data: bytes, status: int) -> None:
    async with serving() as running:
        client = await running.connect()
        client.send(data)
        answered, headers, body = await client.response()
        assert answered == status
        assert headers["content-type"].startswith("application/problem+json")
        assert headers["connection"] == "close"
        assert json.loads(body)["status"] == status
        assert await client.read_to_end() == b""


async def test_a_body_is_not_read_and_closes_the_connection_after_the_response() -> None:
    async with serving() as running:
        client = await running.connect()
        client.send(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
        status, headers, _ = await client.response()
        assert (status, headers["connection"], headers["allow"]) == (405, "close", "GET,HEAD")
        assert await client.read_to_end() == b""


async def test_an_endless_body_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER_TIMEOUT", 0.05)
    async with serving() as running:
        client = await running.connect()
        client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def send_endlessly() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
                    await client.writer.drain()
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send_endlessly())
        assert (await client.response())[0] == 200
        await wait_until(lambda: running.server._connections == {})
        sending.cancel()
        await asyncio.wait([sending])


# Unusual requests.


@pytest.mark.parametrize("server", ["event loop"], indirect=True)
async def test_many_pipelined_requests_do_not_occupy_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = [0]  # requests between two turns of a task that only counts turns
    parse = AdminExchange.parse

    def record(each: Any, head: bytes) -> Any:
        parsed[-1] += 1
        return parse(each, head)

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            parsed.append(0)

    monkeypatch.setattr(AdminExchange, "parse", record)
    async with serving() as running:
        running.server._turn_budget = TurnBudget(SlowStepTimer())
        clients = [await running.connect() for _ in range(20)]
        taking_turns = asyncio.create_task(take_turns())
        for client in clients:
            client.send(HEALTH * 50)
        for client in clients:
            for _ in range(50):
                assert (await client.response())[0] == 200
        taking_turns.cancel()
    assert sum(parsed) == 1000
    assert max(parsed) <= 2  # one before this task and one after it in the same turn


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as running:
        client = await running.connect()
        client.send(
            HEALTH + b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" + SCRAPE + b"HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert [(await client.response())[0] for _ in range(3)] == [200, 404, 200]
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


@pytest.mark.parametrize(
    "data",
    [b"GET http://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /healthz?a=/metrics HTTP/1.1\r\nHost: a\r\n\r\n"],
)
async def test_a_request_target_is_reduced_to_its_path(data: bytes) -> None:
    async with serving() as running:
        client = await running.connect()
        client.send(data)
        assert (await client.response())[2] == b'{"status": "ok"}'


@pytest.mark.parametrize("target", [b"*", b"http://[", b"a:80", b"//healthz", b"http:/healthz/"])
async def test_any_other_request_target_is_not_found(target: bytes) -> None:
    async with serving() as running:
        assert await (await running.connect()).request(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 404


async def test_an_http_1_0_client_is_answered_and_its_connection_closed() -> None:
    async with serving() as running:
        client = await running.connect()
        assert await client.request(b"GET /healthz HTTP/1.0\r\n\r\n") == 200
        assert await client.read_to_end() == b""


async def test_a_client_that_half_closes_its_connection_is_answered() -> None:
    async with serving() as running:
        client = await running.connect()
        client.send(HEALTH)
        client.writer.write_eof()
        assert (await client.response())[0] == 200


@pytest.mark.parametrize("server", ["threads"], indirect=True)
async def test_connections_that_wait_for_metrics_free_their_threads_when_they_are_closed_for_newer_ones() -> None:
    class Never:
        may_end = threading.Event()

        def exposition(self, *, openmetrics: bool) -> Iterator[str]:
            assert self.may_end.wait(HANG_TIMEOUT)
            yield ""

    def waiting() -> int:
        return sum(each.name == "admin connection" for each in threading.enumerate())

    async with serving(Never()) as running:
        for _ in range(3 * MAX_CONNECTIONS):
            (await running.connect()).send(SCRAPE)
        assert await (await running.connect()).request(HEALTH) == 200
        await wait_until(lambda: waiting() <= MAX_CONNECTIONS + 2)
        Never.may_end.set()

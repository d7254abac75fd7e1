"""Whoever reaches the admin port, and whatever he does there, costs little, and keeps nobody else from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.admin import server as module
from authz_service.admin.server import MAX_CONNECTIONS, MAX_HEAD_BYTES, AdminServer
from authz_service.http1 import TurnBudget
from authz_service.telemetry.metrics import Metrics
from support.raw_provider import SlowStepTimer
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GUARD = 20.0  # seconds: no test waits for it
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
OPENMETRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text\r\n\r\n"


class Client:
    """Octets to and from the admin server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(GUARD):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def ask(self, octets: bytes) -> int:
        self.send(octets)
        return (await self.answer())[0]

    async def end(self) -> bytes:
        """Wait until the server ends the connection; what it sent before that."""
        async with asyncio.timeout(GUARD):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Port:
    """A running admin server, and the clients of a test."""

    def __init__(self, server: AdminServer) -> None:
        self.server = server
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.server.port)))
        return self.clients[-1]


@asynccontextmanager
async def serving(metrics: Any = None) -> AsyncIterator[Port]:
    server = AdminServer(
        address=("127.0.0.1", 0), metrics=metrics or Metrics(transport="grpcio"), missing=lambda: ["keys"]
    )
    await server.start()
    port = Port(server)
    try:
        yield port
    finally:
        for client in port.clients:
            client.writer.transport.abort()
        await server.stop()


# Requests that do not come, or do not end.


@pytest.mark.parametrize("octets", [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost:"])
async def test_a_request_that_is_never_complete_ends_its_connection(
    octets: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEADER_TIMEOUT", 0.05)
    async with serving() as port:
        client = await port.connect()
        client.send(octets)
        assert await client.end() == b""


async def test_a_request_in_drips_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_TIMEOUT", 0.1)
    async with serving() as port:
        client = await port.connect()

        async def drip() -> None:
            while True:
                client.send(b"a")
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        assert await client.end() == b""
        dripping.cancel()


async def test_a_connection_is_kept_for_a_while_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_TIMEOUT", 0.05)
    async with serving() as port:
        client = await port.connect()
        assert await client.ask(HEALTH) == 200
        assert await client.ask(HEALTH) == 200
        assert await client.end() == b""


async def test_an_answer_that_nobody_takes_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT", 0.05)

    class Large:
        def exposition(self, accept: str) -> tuple[bytes, str]:
            return b"x" * 50_000_000, "text/plain"

    async with serving(Large()) as port:
        client = await port.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # of a stream's transport
        client.send(SCRAPE)
        await settled(lambda: port.server._clients == {})


async def settled(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD):
        while not is_so():  # noqa: ASYNC110 - the server changes it
            await asyncio.sleep(0.01)


# Many connections.


async def test_of_many_half_requests_few_are_kept_and_everybody_else_is_served() -> None:
    async with serving() as port:
        for number in range(300):
            half = await port.connect()
            half.send(b"GET /metr")
            if number % 50 == 0:
                assert await (await port.connect()).ask(HEALTH) == 200
        await settled(lambda: sum(not each.reader.at_eof() for each in port.clients) <= MAX_CONNECTIONS)
        assert len(port.server._clients) <= MAX_CONNECTIONS
        for request in (HEALTH, SCRAPE):
            assert await (await port.connect()).ask(request) == 200


async def test_connections_that_come_all_at_once_are_bounded_too() -> None:
    async with serving() as port:
        await asyncio.gather(*(port.connect() for _ in range(100)))
        await settled(lambda: sum(not each.reader.at_eof() for each in port.clients) <= MAX_CONNECTIONS)
        assert await (await port.connect()).ask(HEALTH) == 200


async def test_who_has_waited_longest_makes_room_and_who_was_answered_since_stays() -> None:
    async with serving() as port:
        regular = await port.connect()
        silent = await port.connect()
        assert await regular.ask(HEALTH) == 200
        for _ in range(MAX_CONNECTIONS - 1):
            assert await (await port.connect()).ask(HEALTH) == 200
        assert await silent.end() == b""
        assert await regular.ask(HEALTH) == 200


# Requests that are none, or too large.


@pytest.mark.parametrize(
    ("octets", "status"),
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
async def test_what_is_no_request_is_a_problem_and_ends_the_connection(octets: bytes, status: int) -> None:
    async with serving() as port:
        client = await port.connect()
        client.send(octets)
        answered, headers, body = await client.answer()
        assert answered == status
        assert headers["content-type"].startswith("application/problem+json")
        assert headers["connection"] == "close"
        assert json.loads(body)["status"] == status
        assert await client.end() == b""


async def test_a_body_is_not_read_and_ends_the_connection_without_losing_the_answer() -> None:
    async with serving() as port:
        client = await port.connect()
        client.send(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
        status, headers, _ = await client.answer()
        assert (status, headers["connection"], headers["allow"]) == (405, "close", "GET,HEAD")
        assert await client.end() == b""


async def test_a_body_without_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_TIMEOUT", 0.05)
    async with serving() as port:
        client = await port.connect()
        client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def send_on() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
                    await client.writer.drain()
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send_on())
        assert (await client.answer())[0] == 200
        await settled(lambda: port.server._clients == {})
        sending.cancel()
        await asyncio.wait([sending])


# Requests that are unusual.


async def test_many_requests_that_come_together_take_no_turn_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = [0]  # requests between two turns of a task that only wants its turn
    parse = module._Client._parsed

    def record(client: Any, head: bytes) -> Any:
        parsed[-1] += 1
        return parse(client, head)

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            parsed.append(0)

    monkeypatch.setattr(module._Client, "_parsed", record)
    async with serving() as port:
        port.server._turn_budget = TurnBudget(SlowStepTimer())
        clients = [await port.connect() for _ in range(20)]
        taking_turns = asyncio.create_task(take_turns())
        for client in clients:
            client.send(HEALTH * 50)
        for client in clients:
            for _ in range(50):
                assert (await client.answer())[0] == 200
        taking_turns.cancel()
    assert sum(parsed) == 1000
    assert max(parsed) <= 2  # before this task and behind it in the same turn


async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    async with serving() as port:
        client = await port.connect()
        client.send(
            HEALTH + b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" + SCRAPE + b"HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert [(await client.answer())[0] for _ in range(3)] == [200, 404, 200]
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


@pytest.mark.parametrize(
    "octets",
    [b"GET http://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /healthz?a=/metrics HTTP/1.1\r\nHost: a\r\n\r\n"],
)
async def test_the_path_is_what_counts_of_a_target(octets: bytes) -> None:
    async with serving() as port:
        client = await port.connect()
        client.send(octets)
        assert (await client.answer())[2] == b'{"status": "ok"}'


@pytest.mark.parametrize("target", [b"*", b"http://[", b"a:80", b"//healthz", b"http:/healthz/"])
async def test_a_target_that_is_no_path_here_is_not_found(target: bytes) -> None:
    async with serving() as port:
        assert await (await port.connect()).ask(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 404


async def test_an_old_client_is_answered_and_its_connection_ends() -> None:
    async with serving() as port:
        client = await port.connect()
        assert await client.ask(b"GET /healthz HTTP/1.0\r\n\r\n") == 200
        assert await client.end() == b""


async def test_a_client_that_sends_no_more_is_answered_all_the_same() -> None:
    async with serving() as port:
        client = await port.connect()
        client.send(HEALTH)
        client.writer.write_eof()
        assert (await client.answer())[0] == 200


# Renderings of the metrics.


class Slow:
    """Metrics that take as long as the test wants."""

    def __init__(self) -> None:
        self.rendered: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.release()
        assert self.may_end.acquire(timeout=GUARD)
        self.at_once -= 1
        self.rendered.append(accept)
        return str(len(self.rendered)).encode(), "text/plain"


async def test_who_asks_while_metrics_are_rendered_shares_the_next_rendering() -> None:
    slow = Slow()
    async with serving(slow) as port:
        clients = [await port.connect() for _ in range(20)]
        clients[0].send(SCRAPE)
        assert await asyncio.to_thread(slow.begun.acquire, timeout=GUARD)
        for client in clients[1:]:
            client.send(SCRAPE)
        await settled(lambda: sum(each.is_answered for each in port.server._clients) == 20)
        slow.may_end.release(2)
        bodies = [(await client.answer())[2] for client in clients]
        assert bodies == [b"1", *[b"2"] * 19]
        assert (len(slow.rendered), slow.most_at_once) == (2, 1)


async def test_each_format_is_rendered_for_itself_and_one_at_a_time() -> None:
    slow = Slow()
    async with serving(slow) as port:
        clients = [await port.connect() for _ in range(10)]
        for number, client in enumerate(clients):
            client.send(OPENMETRICS if number % 2 else SCRAPE)
        slow.may_end.release(10)
        for client in clients:
            assert (await client.answer())[0] == 200
        assert slow.most_at_once == 1
        assert set(slow.rendered) == {"", "application/openmetrics-text"}


async def test_a_rendering_that_nobody_waits_for_any_more_is_for_the_next_who_asks() -> None:
    slow = Slow()
    async with serving(slow) as port:
        gone = await port.connect()
        gone.send(SCRAPE)
        assert await asyncio.to_thread(slow.begun.acquire, timeout=GUARD)
        gone.writer.transport.abort()
        slow.may_end.release(2)
        assert await (await port.connect()).ask(SCRAPE) == 200


async def test_a_rendering_that_fails_is_a_500_and_the_next_one_is_tried() -> None:
    class Failing:
        failures = 1

        def exposition(self, accept: str) -> tuple[bytes, str]:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("a secret")
            return b"x", "text/plain"

    async with serving(Failing()) as port:
        client = await port.connect()
        client.send(SCRAPE)
        status, _, body = await client.answer()
        assert (status, b"secret" in body) == (500, False)
        assert await client.ask(SCRAPE) == 200


async def test_the_end_waits_for_an_answer_that_is_on_its_way() -> None:
    slow = Slow()
    async with serving(slow) as port:
        client, idle = await port.connect(), await port.connect()
        client.send(SCRAPE)
        assert await asyncio.to_thread(slow.begun.acquire, timeout=GUARD)
        stopping = asyncio.create_task(port.server.stop())
        assert await idle.end() == b""
        assert not stopping.done()
        slow.may_end.release()
        assert (await client.answer())[2] == b"1"
        await stopping


async def test_the_end_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_TIMEOUT", 0.01)
    slow = Slow()
    async with serving(slow) as port:
        client = await port.connect()
        client.send(SCRAPE)
        assert await asyncio.to_thread(slow.begun.acquire, timeout=GUARD)
        async with asyncio.timeout(GUARD):
            await port.server.stop()
        slow.may_end.release()
        assert await client.end() == b""


@in_virtual_time
async def test_scrapes_in_a_loop_render_for_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    renderings: list[float] = []

    async def render(_exposition: object, _accept: str) -> tuple[bytes, str]:
        renderings.append(loop.time())
        await asyncio.sleep(0.02)
        return b"", ""

    async def known(_what: str) -> None:
        pass

    monkeypatch.setattr(asyncio, "to_thread", render)
    monkeypatch.setattr(time, "monotonic", loop.time)
    renderer = module._Renderer(Metrics(transport="grpcio"), known)

    async def scrape() -> None:
        while loop.time() < 20.0:
            await renderer.rendered("")

    await asyncio.gather(*(scrape() for _ in range(10)))
    assert 90 <= len(renderings) <= 102  # of 20 ms each, in 20 s
    await renderer.close()


@in_virtual_time
async def test_a_pause_between_renderings_is_never_long(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def stuck(_what: str) -> None:
        await asyncio.sleep(5.0)  # for a worker that does not answer

    async def render(_exposition: object, _accept: str) -> tuple[bytes, str]:
        return b"", ""

    monkeypatch.setattr(asyncio, "to_thread", render)
    monkeypatch.setattr(time, "monotonic", loop.time)
    renderer = module._Renderer(Metrics(transport="grpcio"), stuck)
    await renderer.rendered("")
    await renderer.rendered("")
    assert loop.time() == 11.0
    await renderer.close()

"""One connection on a socket: peers that do not read, that are idle or that send too much at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.transport import asyncio_protocol
from authz_service.transport.http2 import frames
from authz_service.transport.http2.frames import MAX_WINDOW
from authz_service.transport.http2.timeouts import KEEPALIVE_IDLE, KEEPALIVE_TIMEOUT, PREFACE_TIMEOUT
from support.samples import collected
from transport.socket_client import (
    ANSWER,
    CALLS,
    REQUEST,
    STREAMS,
    Checks,
    SocketClient,
    client_of,
    connections,
    failed_connections,
    flooding_client,
    pass_seconds,
    paused_client,
    until,
)

if TYPE_CHECKING:
    from authz_service.telemetry.metrics import Metrics
    from authz_service.transport.asyncio_server import AsyncioServer

MAX_AT_ONCE = 2 << 20  # octets of the responses to all requests in one read of the event loop, which is 256 KiB


async def test_nothing_is_read_from_a_peer_that_does_not_read(server: AsyncioServer, checks: Checks) -> None:
    async with flooding_client(server, CALLS) as client:
        buffered = connections(server)[0]._transport.get_write_buffer_size()
        assert asyncio_protocol.MAX_WRITE_BUFFER < buffered < asyncio_protocol.MAX_WRITE_BUFFER + MAX_AT_ONCE
        before = checks.count
        assert before < CALLS
        async with client_of(server) as other:  # is not affected
            await other.call(other.check())
        assert checks.count == before + 1
        client.writer.transport.resume_reading()  # type: ignore[attr-defined] # a read transport
        await client.until(
            lambda: len(client.responses) > CALLS and all(client.responses[each].ended for each in STREAMS)
        )
        assert {client.responses[each].messages[0] for each in STREAMS} == {ANSWER}


async def test_a_peer_that_never_reads_is_disconnected(server: AsyncioServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "authz.transport")
    async with flooding_client(server, CALLS):
        pass_seconds(server, KEEPALIVE_IDLE + KEEPALIVE_TIMEOUT)
        assert not caplog.records
        pass_seconds(server, 1)
        (record,) = failed_connections(caplog)
        assert (record["reason"], record["cause"]) == ("idle", "the peer does not read")
        assert record["peer"].startswith("127.0.0.1:")
        pass_seconds(server, asyncio_protocol.CLOSE_TIMEOUT + 1)  # the GOAWAY is not read either
        await until(lambda: not connections(server))


async def test_the_memory_for_peers_that_do_not_read_is_limited(
    server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    memory = server._peers.memory
    memory.shared = 200_000
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            client = await stack.enter_async_context(paused_client(server))
            for _ in range(20):
                if not client.writer.transport.is_closing():
                    client.send(*(client.check(message=REQUEST) for _ in range(CALLS // 20)))
                await asyncio.sleep(0.001)
            assert memory.used <= memory.shared
            async with client_of(server) as other:
                await other.call(other.check())
        await until(lambda: 0 < len(connections(server)) < 4)
    assert {each["cause"] for each in failed_connections(caplog)} == {
        "the peer does not read, and the memory for its responses is used up"
    }
    await until(lambda: not connections(server))
    assert memory.used == 0


async def test_a_closed_connection_gives_the_peer_time_to_read_the_goaway(server: AsyncioServer) -> None:
    async with flooding_client(server, CALLS) as client:
        connections(server)[0]._connection.close(ConnectionFailure.FLOOD, "a test")
        pass_seconds(server, asyncio_protocol.CLOSE_TIMEOUT)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined] # a read transport
        await client.until_closed()
        assert [code for _, code in client.goaways] == [frames.ErrorCode.ENHANCE_YOUR_CALM]


async def test_an_idle_peer_that_acknowledges_pings_stays_connected(server: AsyncioServer) -> None:
    async with client_of(server) as client:
        await client.call(client.check())
        for _ in range(3):
            pass_seconds(server, KEEPALIVE_IDLE + 1)
            await client.until(lambda: bool(client.pings()))
            client.send(frames.frame(frames.PING, frames.ACK, 0, client.pings()[-1]))
            client.frames.clear()
            await until(lambda: not connections(server)[0]._connection._timers.ping_pending)
        pass_seconds(server, KEEPALIVE_TIMEOUT)
        await client.call(client.check())


async def test_an_idle_peer_that_acknowledges_no_ping_is_disconnected(server: AsyncioServer) -> None:
    async with client_of(server) as client:
        await client.call(client.check())
        pass_seconds(server, KEEPALIVE_IDLE + KEEPALIVE_TIMEOUT + 1)
        await client.until_closed()
        assert [code for _, code in client.goaways] == [frames.ErrorCode.NO_ERROR]
    await until(lambda: not connections(server))


async def test_a_peer_that_sends_no_preface_is_disconnected(server: AsyncioServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await until(lambda: len(connections(server)) == 1)
    pass_seconds(server, PREFACE_TIMEOUT + 1)
    silent = SocketClient(reader, writer)
    await silent.until_closed()
    assert [code for _, code in silent.goaways] == [frames.ErrorCode.PROTOCOL_ERROR]


async def test_a_peer_that_does_not_speak_http2_is_logged_once_per_interval(
    server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
    (record,) = failed_connections(caplog)
    assert (record["reason"], record["cause"]) == (
        "http1",
        "HTTP/1.1 instead of the HTTP/2 connection preface",
    )
    assert record["peer"].startswith("127.0.0.1:")


def counted(metrics: Metrics, name: str) -> dict[str, float]:
    """The series of a counter by its only label, without those at 0."""
    samples = [each for family in collected(metrics.registry) for each in family.samples if each.name == name]
    return {label: each.value for each in samples for label in each.labels.values() if each.value}


async def connect_and_leave(server: AsyncioServer, octets: bytes, *, close: bool) -> None:
    """A client that sends these octets, and then closes or stays silent."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await until(lambda: len(connections(server)) == 1)
    writer.write(octets)
    await asyncio.sleep(0.05)  # so that they are read; otherwise the test tests less
    if close:
        writer.close()
    else:
        pass_seconds(server, KEEPALIVE_IDLE + KEEPALIVE_TIMEOUT + 1)
    await until(lambda: not connections(server) or connections(server)[0].closing)
    writer.close()
    await until(lambda: not connections(server))


@pytest.mark.parametrize(
    ("octets", "close", "result", "failures"),
    [
        (b"", True, "empty", {}),
        (b"", False, "failed", {"unfinished": 1}),
        (frames.PREFACE[:5], True, "failed", {"unfinished": 1}),
        (frames.PREFACE[:5], False, "failed", {"unfinished": 1}),
        (b"GET / HTTP/1.1\r\n\r\n", True, "failed", {"http1": 1}),
        (b"\x16\x03\x01", True, "failed", {"tls_on_plaintext_port": 1}),
        (frames.PREFACE, True, "accepted", {}),
        (frames.PREFACE, False, "accepted", {"unfinished": 1}),
        (frames.PREFACE + frames.settings({}), True, "accepted", {}),
        (frames.PREFACE + frames.settings({}), False, "accepted", {"idle": 1}),
        (frames.PREFACE + frames.frame(frames.PING, 0, 0, b"8 octets"), True, "accepted", {"protocol_error": 1}),
        (frames.PREFACE + frames.settings({}) * 3000, True, "accepted", {"flood": 1}),
    ],
)
async def test_each_connection_is_counted_once_and_each_failure_by_its_reason(
    server: AsyncioServer, metrics: Metrics, octets: bytes, result: str, failures: dict[str, float], *, close: bool
) -> None:
    await connect_and_leave(server, octets, close=close)
    assert counted(metrics, "authz_transport_connections_total") == {result: 1}
    assert counted(metrics, "authz_transport_failures_total") == failures


async def test_a_connection_that_is_drained_is_no_failure(
    server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(server) as client:
        await client.call(client.check())
        stopping = asyncio.create_task(server.stop(1))
        await client.until(lambda: bool(client.pings()))
        client.send(frames.frame(frames.PING, frames.ACK, 0, client.pings()[-1]))
        await client.until_closed()
        await stopping
    assert not failed_connections(caplog)


async def test_many_requests_at_once_do_not_delay_other_connections(server: AsyncioServer, checks: Checks) -> None:
    async with client_of(server) as busy, client_of(server) as other:
        await busy.call(busy.check())
        await other.call(other.check())
        busy.send(frames.window_update(0, MAX_WINDOW - 65_535), frames.settings({4: MAX_WINDOW}))
        busy.send(*(busy.check() for _ in range(2000)))
        await other.call(other.check())
        assert checks.count < 1500
        last = busy.next_stream - 2
        await busy.until(lambda: last in busy.responses and busy.responses[last].ended)
        assert checks.count == 2003

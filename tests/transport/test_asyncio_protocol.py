"""One connection on a socket: peers that do not read, that are idle or that send too much at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.transport import asyncio_protocol
from authz_service.transport.http2 import frames
from authz_service.transport.http2.frames import MAX_WINDOW
from authz_service.transport.http2.timeouts import KEEPALIVE_IDLE, KEEPALIVE_TIMEOUT, PREFACE_TIMEOUT
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
    import pytest

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

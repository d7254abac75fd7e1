"""The gRPC methods of the server on asyncio, beyond what ``test_servers.py`` tests of both servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from authz_service.transport.http2 import frames
from transport.http2.client import data, framed
from transport.socket_client import (
    HANG_GUARD,
    Checks,
    client_of,
    until,
)

if TYPE_CHECKING:
    from authz_service.transport.asyncio_server import AsyncioServer

UNAVAILABLE = "14"


async def test_a_request_that_is_not_grpc_gets_an_http_status_unless_it_is_a_check(server: AsyncioServer) -> None:
    async with client_of(server) as client:
        stream = client.next_stream
        head = ((":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"))
        await client.call(client.headers(stream, client.block(head=head, plain=())) + data(stream, framed(b"")))
        assert client.responses[stream].headers == [{":status": "415"}]


@pytest.mark.parametrize("together", [True, False])
async def test_a_cancelled_check_stops(
    server: AsyncioServer,
    checks: Checks,
    together: bool,  # noqa: FBT001 - before the task has started, or later
) -> None:
    checks.waiting = True
    async with client_of(server) as client:
        stream, request = client.next_stream, client.check()
        if not together:
            client.send(request)
            await until(lambda: checks.in_progress == 1)
            request = b""
        client.send(request, frames.rst_stream(stream, frames.ErrorCode.CANCEL))
        await until(lambda: checks.count == 1 and checks.in_progress == 0 and not server._methods.tasks)
        checks.waiting = False
        await client.call(client.check())
        assert stream not in client.responses


async def test_stopping_ends_health_watches_and_waits_for_checks_in_flight(
    server: AsyncioServer, checks: Checks
) -> None:
    async with client_of(server) as client:
        watching = client.next_stream
        client.send(client.check(method="/grpc.health.v1.Health/Watch", message=b""))
        await client.until(lambda: bool(client.responses.get(watching) and client.responses[watching].data))
        checks.waiting = True
        client.send(client.check())
        await until(lambda: checks.in_progress == 1)
        stopping = asyncio.create_task(server.stop(HANG_GUARD))
        await client.until(lambda: client.responses[watching].ended and bool(client.pings()))
        assert client.responses[watching].status == UNAVAILABLE
        assert checks.in_progress == 1
        assert not stopping.done()
        client.send(frames.rst_stream(client.next_stream - 2, frames.ErrorCode.CANCEL))
        client.send(frames.frame(frames.PING, frames.ACK, 0, client.pings()[-1]))
        await client.until_closed()
        async with asyncio.timeout(HANG_GUARD):
            await stopping

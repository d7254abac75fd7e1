"""The limit on connections, and which one makes room for another."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.transport import peers
from authz_service.transport.http2 import frames
from transport.socket_client import (
    Checks,
    client_of,
    clients_of,
    connections,
    failed_connections,
    pass_seconds,
    until,
)

if TYPE_CHECKING:
    from authz_service.transport.asyncio_server import AsyncioServer


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """The limit on connections."""
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", 5)
    return 5


async def test_the_connection_that_was_silent_longest_makes_room(
    limit: int, server: AsyncioServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with clients_of(server, limit) as clients:
        await clients[0].call(clients[0].check())
        async with client_of(server) as newcomer:
            await newcomer.call(newcomer.check())
            await clients[1].until(lambda: bool(clients[1].goaways))
            await clients[1].call(clients[1].check())  # sent before the GOAWAY was received
            clients[1].send(frames.frame(frames.PING, frames.ACK, 0, clients[1].pings()[-1]))
            await clients[1].until_closed()
            await until(lambda: len(connections(server)) == limit)
            for each in (*clients[:1], *clients[2:]):
                await each.call(each.check())
    (record,) = displaced(caplog)
    assert record["peer"].startswith("127.0.0.1:")


async def test_of_busy_connections_from_one_host_the_older_ones_stay(
    limit: int, server: AsyncioServer, checks: Checks, caplog: pytest.LogCaptureFixture
) -> None:
    async with clients_of(server, limit) as clients:
        checks.waiting = True
        for each in clients:
            each.send(each.check())
        await until(lambda: checks.in_progress == limit)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert checks.in_progress == limit
    assert len(displaced(caplog)) == 1


async def test_a_host_with_many_connections_does_not_exclude_others(
    limit: int, server: AsyncioServer, checks: Checks
) -> None:
    async with clients_of(server, limit) as clients:
        checks.waiting = True
        for number, each in enumerate(clients, 1):
            each.send(each.check())
            await until(partial(checks.are_in_progress, number))
            pass_seconds(server, 1)
        checks.waiting = False
        async with client_of(server, from_another_host(server)) as other:
            await other.call(other.check())
            assert checks.in_progress == limit - 1
            await clients[0].until_closed()
            last = clients[0].responses[3]
            assert (last.status, CheckResponse.FromString(last.messages[0]).denied_response.status.code) == ("0", 503)
            for _ in range(limit):  # each displaces one from its own host
                await connect_and_stay(server)
            await other.call(other.check())


@pytest.mark.parametrize("sent", [frames.settings({}), b"GET / HTTP/1.1\r\n\r\n"], ids=["http2", "not http2"])
async def test_however_fast_connections_arrive_few_exceed_the_limit(
    limit: int, server: AsyncioServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(peers, "_MAX_CLOSING", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(sent if sent.startswith(b"GET") else frames.PREFACE + sent)
            await asyncio.sleep(0.005)
            assert len(connections(server)) <= limit + 4
        async with client_of(server, from_another_host(server)) as other:
            await other.call(other.check())


def test_the_limit_on_connections_leaves_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, limit in ((1024, 896), (1 << 20, 1024), (100, 1), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert peers.connection_limit() == limit


def from_another_host(server: AsyncioServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.2", 0))


def displaced(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [each for each in failed_connections(caplog) if each["reason"] == "too_many_connections"]


async def connect_and_stay(server: AsyncioServer) -> None:
    """Open a connection for a moment."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await asyncio.sleep(0.01)
    writer.close()

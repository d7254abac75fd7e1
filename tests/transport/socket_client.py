"""Clients of the server on asyncio, whose clock the test advances."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

from authz_service.telemetry.metrics import Metrics
from authz_service.transport.asyncio_server import AsyncioServer
from authz_service.transport.ext_authz.codec import encode_response
from authz_service.transport.http2 import frames
from authz_service.transport.http2.frames import MAX_WINDOW
from authz_service.transport.services import SERVICE
from transport.http2.client import GRPC, ClientHalf, data, framed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from authz_service.config.server import Tls
    from authz_service.core.decision import Deny

HANG_GUARD = 30.0  # seconds: no test waits for it
ANSWER = b"a" * 2000  # as long as usual
REQUEST = b"r" * 500
CALLS = 8_000  # whose responses exceed all buffers between two sockets
STREAMS = range(1, 2 * CALLS, 2)


class Checks:
    """The check behind the server: how often it was called, and how many calls are in progress."""

    def __init__(self) -> None:
        self.count = 0
        self.in_progress = 0
        self.waiting = False

    def check(self, _data: bytes, _time_remaining: float | None, _traceparent: str) -> Any:
        self.count += 1
        return self._wait_forever() if self.waiting else ANSWER

    def are_in_progress(self, count: int) -> bool:
        return self.in_progress == count

    async def _wait_forever(self) -> bytes:
        self.in_progress += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.in_progress -= 1
        raise AssertionError("unreachable")


def refuse(denial: Deny) -> bytes:
    """Encodes the denial of a call that does not reach the check."""
    return encode_response(denial, "-")


def asyncio_server_of(
    checks: Checks, address: str = "127.0.0.1:0", tls: Tls | None = None, metrics: Metrics | None = None
) -> AsyncioServer:
    """A server that calls these checks."""
    metrics = metrics or Metrics(transport="asyncio")
    return AsyncioServer(address, tls, checks.check, lambda: 1 << 20, refuse=refuse, metrics=metrics)


class SocketClient(ClientHalf):
    """A client on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.reader, self.writer = reader, writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def check(self, *, method: str = f"/{SERVICE}/Check", message: bytes = b"m") -> bytes:
        stream = self.next_stream
        head = ((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "authz"))
        return self.headers(stream, self.block(head=head, plain=GRPC)) + data(stream, framed(message))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Read until it holds."""
        async with asyncio.timeout(HANG_GUARD):
            while not holds():
                received = await self.reader.read(1 << 16)
                assert received, "the server has closed the connection"
                self.receive(received)

    async def call(self, request: bytes) -> None:
        """Send a request and wait for its response."""
        stream = self.next_stream - 2
        self.send(request)
        await self.until(lambda: stream in self.responses and self.responses[stream].ended)

    def pings(self) -> list[bytes]:
        """The PINGs to acknowledge."""
        return [payload for kind, flags, _, payload in self.frames if kind == frames.PING and not flags & frames.ACK]

    async def until_closed(self) -> None:
        """Read until the server closes, then close."""
        async with asyncio.timeout(HANG_GUARD):
            with contextlib.suppress(ConnectionError):
                while received := await self.reader.read(1 << 16):
                    self.receive(received)
        self.writer.close()


def connections(server: AsyncioServer) -> list[Any]:
    return list(server._peers)


def pass_seconds(server: AsyncioServer, count: int) -> None:
    """Let so many seconds pass: the server's own timer is stopped."""
    for _ in range(count):
        for peer in connections(server):
            peer.tick()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def client_of(server: AsyncioServer, connected: socket.socket | None = None) -> AsyncIterator[SocketClient]:
    connected = connected or socket.create_connection(("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=connected)
    try:
        client = SocketClient(reader, writer)
        client.send(frames.PREFACE, frames.settings({}))
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def clients_of(server: AsyncioServer, count: int) -> AsyncIterator[list[SocketClient]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(await stack.enter_async_context(client_of(server)))
            await clients[-1].call(clients[-1].check())
            pass_seconds(server, 1)
        yield clients


@contextlib.asynccontextmanager
async def paused_client(server: AsyncioServer) -> AsyncIterator[SocketClient]:
    """A client with large windows that reads nothing."""
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connected.connect(("127.0.0.1", server.port))
    async with client_of(server, connected) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a read transport
        client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: MAX_WINDOW}))
        client.send(frames.window_update(0, MAX_WINDOW - 65_535))
        yield client
        client.writer.transport.abort()  # closing it would wait until the server has read everything


@contextlib.asynccontextmanager
async def flooding_client(server: AsyncioServer, calls: int) -> AsyncIterator[SocketClient]:
    """A client with large windows that sent many requests and reads nothing."""
    async with paused_client(server) as client:
        client.send(*(client.check(message=REQUEST) for _ in range(calls)))
        await until(lambda: bool(connections(server)) and connections(server)[0]._buffered > 0)
        assert not connections(server)[0]._transport.is_reading()
        yield client


def failed_connections(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The log lines about failed connections."""
    records = [record for record in caplog.records if record.name == "authz.transport"]
    assert {(record.levelname, record.getMessage()) for record in records} <= {("WARNING", "connection failed")}
    return [record.fields for record in records]  # type: ignore[attr-defined] # ours

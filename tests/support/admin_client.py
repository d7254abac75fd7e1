"""An admin server with clients that send raw bytes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from authz_service.admin import pages
from authz_service.admin.server import AdminServer
from authz_service.admin.threaded_server import ThreadedAdminServer
from authz_service.telemetry.connection_log import FailureLog
from authz_service.telemetry.metrics import Metrics
from support.sidecar_process import HANG_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
OPENMETRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text\r\n\r\n"


class ThreadedServer:
    """The supervisor's admin server, with the interface of a sidecar's."""

    def __init__(self, *, address: tuple[str, int], metrics: Any, missing: Any, failures: FailureLog) -> None:
        self._server = ThreadedAdminServer(
            address=address,
            metrics=metrics,
            missing=missing,
            also_missing=pages.none,
            refresh=lambda _what, _abandoned: None,
            failures=failures,
            changed=threading.Condition(),
        )

    async def start(self) -> None:
        self._server.start()

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def _connections(self) -> Any:
        return dict(self._server._connections)


class RawClient:
    """One connection to the admin server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        async with asyncio.timeout(HANG_TIMEOUT):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def request(self, data: bytes) -> int:
        """Send a request; returns the status of its response."""
        self.send(data)
        return (await self.response())[0]

    async def read_to_end(self) -> bytes:
        """What the server sends until it closes the connection."""
        async with asyncio.timeout(HANG_TIMEOUT):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class RunningServer:
    """A running admin server and the clients of a test."""

    def __init__(self, server: AdminServer) -> None:
        self.server = server
        self.clients: list[RawClient] = []

    async def connect(self) -> RawClient:
        self.clients.append(RawClient(*await asyncio.open_connection("127.0.0.1", self.server.port)))
        return self.clients[-1]


@asynccontextmanager
async def serving(metrics: Any = None) -> AsyncIterator[RunningServer]:
    server = AdminServer(
        address=("127.0.0.1", 0),
        metrics=metrics or Metrics(transport="grpcio"),
        missing=lambda: ["keys"],
        failures=FailureLog(lambda _: None),
    )
    await server.start()
    running = RunningServer(server)
    try:
        yield running
    finally:
        for client in running.clients:
            client.writer.transport.abort()
        await server.stop()

"""The admin server: three read-only paths.

A response must not delay a decision, so the metrics are rendered beside the event loop and not all the time
(``rendering``), and a client gets few resources: beyond a maximum of connections, the one that has been idle longest is
closed, and each is bounded in size and time (``connection``, ``limits``). ``threaded_server`` is the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from authz_service.admin import limits, pages
from authz_service.admin.connection import AdminConnection
from authz_service.admin.exchange import AdminResponse
from authz_service.admin.listeners import BACKLOG, listening_sockets
from authz_service.admin.pages import Page
from authz_service.admin.rendering import MetricsRenderer
from authz_service.core.errors import BadMessage
from authz_service.http1 import TcpConnection, TurnBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.admin.pages import Exposed
    from authz_service.telemetry.connection_log import FailureLog

_logger = logging.getLogger("authz.admin")


class AdminServer:
    """Serves metrics, liveness and readiness. It is ready while ``missing`` returns nothing.

    ``also_missing`` is reported as well, and does not affect readiness.
    """

    def __init__(
        self,
        *,
        address: tuple[str, int],
        metrics: Exposed,
        missing: Callable[[], Sequence[str]],
        also_missing: Callable[[], Sequence[str]] = pages.none,
        failures: FailureLog,
    ) -> None:
        """``address`` is host and port; port 0 is any free port. ``failures`` records gRPC clients."""
        self._host, self._configured_port = address
        self._renderer = MetricsRenderer(metrics)
        self._missing = missing
        self._also_missing = also_missing
        self._failures = failures
        self._servers: list[asyncio.Server] = []  # one for each address of the host
        self._stopping = False
        self._turn_budget = TurnBudget()
        self._connections: dict[AdminConnection, asyncio.Task[None]] = {}  # the one that is idle longest comes first

    async def start(self) -> None:
        """Listen.

        Raises:
            StartFailed: when the address cannot be used.
        """
        self._stopping = False
        loop = asyncio.get_running_loop()
        for listening in listening_sockets(self._host, self._configured_port):
            server = await loop.create_server(lambda: TcpConnection(self._accept), sock=listening, backlog=BACKLOG)
            self._servers.append(server)

    @property
    def port(self) -> int:
        """The listening port."""
        if not self._servers:
            return self._configured_port
        port: int = self._servers[0].sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the port and all connections. Does nothing if the server was not started."""
        servers, self._servers = self._servers, []
        if not servers:
            return
        self._stopping = True
        for server in servers:
            server.close()
        for connection, task in self._connections.items():
            if not connection.has_request:
                task.cancel()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=limits.STOP_TIMEOUT)
        for task in self._connections.values():
            task.cancel()
        await asyncio.gather(*self._connections.values(), return_exceptions=True)
        await self._renderer.close()
        for server in servers:
            await server.wait_closed()

    def _accept(self, tcp_connection: TcpConnection) -> None:
        """Serve another connection; if there are too many, close the one that has been idle longest."""
        if len(self._connections) >= limits.MAX_CONNECTIONS:
            self._connections.pop(next(iter(self._connections))).cancel()
        connection = AdminConnection(tcp_connection, self._turn_budget)
        self._connections[connection] = task = asyncio.create_task(self._serve(connection), name="admin connection")
        task.add_done_callback(lambda _: self._close(connection))  # a callback runs even if the task never began

    def _close(self, connection: AdminConnection) -> None:
        connection.abort()
        self._connections.pop(connection, None)

    async def _serve(self, connection: AdminConnection) -> None:
        with contextlib.suppress(OSError):  # TimeoutError is one: a slow or disconnected client gets no response
            while connection.is_open and not self._stopping:
                await connection.send(await self._next_response(connection))
                if connection in self._connections:  # else it was evicted meanwhile
                    self._connections[connection] = self._connections.pop(connection)

    async def _next_response(self, connection: AdminConnection) -> AdminResponse:
        try:
            request = await connection.receive_request()
        except (BadMessage, h11.RemoteProtocolError) as error:
            pages.record_grpc(connection.exchange, "HTTP/2", connection.peer, self._failures)
            return pages.refusal(error)
        pages.record_grpc(connection.exchange, "gRPC over HTTP/1.1", connection.peer, self._failures)
        try:
            return await self._respond(request)
        except Exception:
            _logger.exception("admin request failed unexpectedly")
            return pages.problem(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _respond(self, request: h11.Request) -> AdminResponse:
        match pages.page_of(request):
            case Page.METRICS:
                body, content_type = await self._renderer.render(pages.accept_of(request))
                return AdminResponse(HTTPStatus.OK, content_type, body)
            case Page.READINESS:
                return pages.readiness(self._missing, self._also_missing)
            case Page.HEALTH:
                return pages.health()
            case refused:
                return refused

"""The admin server: three read-only paths.

A response must not delay a decision, so the metrics are rendered beside the event loop and not all the time
(``rendering``), and a client gets few resources: beyond ``MAX_CONNECTIONS`` connections, the one that has been idle
longest is closed, and each is bounded in size and time (``connection``). Errors are problem documents (RFC 9457) that
contain the status and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from authz_service.admin.connection import AdminConnection, AdminResponse
from authz_service.admin.rendering import MetricsRenderer
from authz_service.core.connection_failure import ConnectionFailure
from authz_service.core.errors import BadMessage, StartFailed
from authz_service.core.headers import combined
from authz_service.http1 import TcpConnection, TurnBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from authz_service.admin.rendering import Exposed
    from authz_service.telemetry.connection_log import FailureLog

MAX_CONNECTIONS: Final = 64
STOP_TIMEOUT: Final = 1.0  # seconds for responses that are in progress when the server stops
_BACKLOG = 128  # connections that are accepted in one turn of the event loop
_METHODS = (b"GET", b"HEAD")

_logger = logging.getLogger("authz.admin")


def _nothing() -> Sequence[str]:
    return ()


async def _nothing_to_refresh(_what: str) -> None:
    """A single process always has its current state."""


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
        also_missing: Callable[[], Sequence[str]] = _nothing,
        refresh: Callable[[str], Awaitable[None]] = _nothing_to_refresh,
        failures: FailureLog,
    ) -> None:
        """``address`` is host and port; port 0 is any free port.

        ``refresh`` updates what is reported next: ``metrics`` or ``missing``. ``failures`` records gRPC clients.
        """
        self._host, self._configured_port = address
        self._renderer = MetricsRenderer(metrics, refresh)
        self._missing = missing
        self._also_missing = also_missing
        self._refresh = refresh
        self._failures = failures
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._turn_budget = TurnBudget()
        self._connections: dict[AdminConnection, asyncio.Task[None]] = {}  # the one that is idle longest comes first

    async def start(self) -> None:
        """Listen.

        Raises:
            StartFailed: when the address cannot be used.
        """
        self._stopping = False
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: TcpConnection(self._accept), self._host, self._configured_port, backlog=_BACKLOG
            )
        except (OSError, ValueError) as error:  # ValueError: not a valid host name
            raise StartFailed(
                f"the admin server cannot listen on {self._host} port {self._configured_port}: {_cause(error)}; "
                "change server.admin_address"
            ) from error

    @property
    def port(self) -> int:
        """The listening port."""
        if self._server is None:
            return self._configured_port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the port and all connections. Does nothing if the server was not started."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping = True
        server.close()
        for connection, task in self._connections.items():
            if not connection.has_request:
                task.cancel()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=STOP_TIMEOUT)
        for task in self._connections.values():
            task.cancel()
        await asyncio.gather(*self._connections.values(), return_exceptions=True)
        await self._renderer.close()
        await server.wait_closed()

    def _accept(self, tcp_connection: TcpConnection) -> None:
        """Serve another connection; if there are too many, close the one that has been idle longest."""
        if len(self._connections) >= MAX_CONNECTIONS:
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
        except BadMessage as error:
            if connection.is_grpc:
                self._failures.failed(ConnectionFailure.GRPC, "HTTP/2 on the admin port", connection.peer)
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return _problem(too_large if error.too_large else HTTPStatus.BAD_REQUEST)
        except h11.RemoteProtocolError as error:
            return _problem(error.error_status_hint)
        if connection.is_grpc:
            self._failures.failed(ConnectionFailure.GRPC, "gRPC over HTTP/1.1 on the admin port", connection.peer)
        try:
            return await self._respond(request)
        except Exception:
            _logger.exception("admin request failed unexpectedly")
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _respond(self, request: h11.Request) -> AdminResponse:
        target = request.target.decode("ascii")
        if not target.startswith("/"):  # the absolute form, as sent to a proxy (RFC 9112 section 3.2.2)
            target = "/" + target.partition("://")[2].partition("/")[2]
        paths = {"/metrics": self._metrics, "/healthz": _health, "/readyz": self._readiness}
        respond = paths.get(target.partition("?")[0])
        if respond is None:
            return _problem(HTTPStatus.NOT_FOUND)
        if request.method not in _METHODS:
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET,HEAD")
        return await respond(request)

    async def _metrics(self, request: h11.Request) -> AdminResponse:
        headers = combined((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers)
        body, content_type = await self._renderer.render(headers.get("accept", ""))
        return AdminResponse(HTTPStatus.OK, content_type, body)

    async def _readiness(self, _request: h11.Request) -> AdminResponse:
        await self._refresh("missing")
        missing = self._missing()
        status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
        return _json(status, {"ready": not missing, "missing": [*missing, *self._also_missing()]})


async def _health(_request: h11.Request) -> AdminResponse:
    return _json(HTTPStatus.OK, {"status": "ok"})


def _json(status: int, value: object, media_type: str = "application/json", **headers: str) -> AdminResponse:
    return AdminResponse(status, f"{media_type}; charset=utf-8", json.dumps(value).encode(), headers)


def _problem(status: int, **headers: str) -> AdminResponse:
    value = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status)}
    return _json(status, value, "application/problem+json", **headers)


def _cause(error: OSError | ValueError) -> str:
    """The system's message, without the one that asyncio wraps around it."""
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else "not a valid host name"

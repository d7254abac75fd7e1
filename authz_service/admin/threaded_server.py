"""The supervisor's admin server: the pages of ``server``, from a thread for each connection.

It exists beside ``server`` because asyncio, with ssl, would double the supervisor's memory. The supervisor decides no
request, so none waits for these threads. The bounds are the same.

Invariants: there are at most ``limits.MAX_CONNECTIONS`` threads, and two more for each format of the metrics. A
connection that is closed for a newer one frees its thread at once, unless that renders the metrics or is about to.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from authz_service.admin import limits, pages
from authz_service.admin.exchange import AdminResponse
from authz_service.admin.listeners import listening_sockets
from authz_service.admin.pages import Page
from authz_service.admin.threaded_connection import ThreadedConnection
from authz_service.admin.threaded_rendering import AbandonedError, ThreadedRenderer
from authz_service.core.errors import BadMessage
from authz_service.telemetry.connection_log import address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.admin.pages import Exposed
    from authz_service.telemetry.connection_log import FailureLog

_ACCEPT_RETRY: Final = 1.0  # seconds, when the system has no descriptor or thread for another connection

_logger = logging.getLogger("authz.admin")


class ThreadedAdminServer:
    """Serves metrics, liveness and readiness. It is ready while ``missing`` returns nothing."""

    def __init__(
        self,
        *,
        address: tuple[str, int],
        metrics: Exposed,
        missing: Callable[[], Sequence[str]],
        also_missing: Callable[[], Sequence[str]],
        refresh: Callable[[str, Callable[[], bool]], None],
        failures: FailureLog,
        changed: threading.Condition,
    ) -> None:
        """``address`` is host and port; port 0 is any free port. ``failures`` records gRPC clients.

        ``refresh`` updates what is reported next, ``metrics`` or ``missing``, and returns early once its second
        argument returns true, for which it waits by ``changed``.
        """
        self._host, self._configured_port = address
        self._missing = missing
        self._also_missing = also_missing
        self._refresh = refresh
        self._failures = failures
        self._changed = changed
        self._renderer = ThreadedRenderer(metrics, lambda: refresh("metrics", lambda: False), changed)
        self._listeners: list[socket.socket] = []
        self._accepting: _Accepting | None = None
        self._connections: dict[ThreadedConnection, None] = {}  # the one that is idle longest comes first
        self._stopping = False

    def start(self) -> None:
        """Listen.

        Raises:
            StartFailed: when the address cannot be used.
            RuntimeError: when the system allows no further thread.
        """
        self._listeners = listening_sockets(self._host, self._configured_port)
        self._accepting = _Accepting(self._listeners, self._begin)
        self._accepting.start()

    @property
    def port(self) -> int:
        """The listening port."""
        if not self._listeners:
            return self._configured_port
        port: int = self._listeners[0].getsockname()[1]
        return port

    def stop(self) -> None:
        """Close the port and all connections. Does nothing if the server was not started."""
        self._stopping = True
        if self._accepting is not None:
            self._accepting.stop()
            self._accepting = None
        listeners, self._listeners = self._listeners, []
        for each in listeners:
            each.close()
        with self._changed:
            for connection in self._connections:
                if not connection.has_request:
                    connection.abandon()
            self._changed.wait_for(lambda: not self._connections, limits.STOP_TIMEOUT)
            for connection in self._connections:
                connection.abandon()
            self._changed.notify_all()

    def _begin(self, connection: ThreadedConnection) -> None:
        """Serve another connection; if there are too many, close the one that has been idle longest.

        Raises:
            RuntimeError: when the system allows no further thread.
        """
        with self._changed:
            if len(self._connections) >= limits.MAX_CONNECTIONS:
                longest = next(iter(self._connections))
                del self._connections[longest]
                longest.abandon()
                self._changed.notify_all()
            self._connections[connection] = None
        try:
            threading.Thread(target=self._serve, args=(connection,), name="admin connection", daemon=True).start()
        except RuntimeError:
            self._end(connection)
            raise

    def _end(self, connection: ThreadedConnection) -> None:
        connection.close()
        with self._changed:
            self._connections.pop(connection, None)
            self._changed.notify_all()

    def _serve(self, connection: ThreadedConnection) -> None:
        try:
            with contextlib.suppress(OSError, AbandonedError):  # TimeoutError is an OSError
                while connection.is_open and not self._stopping:
                    response = self._next_response(connection)
                    with self._changed:  # before the client can react to the response
                        if connection in self._connections:  # else it was closed for a newer one meanwhile
                            self._connections[connection] = self._connections.pop(connection)
                    connection.send(response)
        finally:
            self._end(connection)

    def _next_response(self, connection: ThreadedConnection) -> AdminResponse:
        try:
            request = connection.receive_request()
        except (BadMessage, h11.RemoteProtocolError) as error:
            pages.record_grpc(connection.exchange, "HTTP/2", connection.peer, self._failures)
            return pages.refusal(error)
        pages.record_grpc(connection.exchange, "gRPC over HTTP/1.1", connection.peer, self._failures)
        try:
            return self._respond(request, lambda: connection.abandoned)
        except AbandonedError:
            raise
        except Exception:
            _logger.exception("admin request failed unexpectedly")
            return pages.problem(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _respond(self, request: h11.Request, abandoned: Callable[[], bool]) -> AdminResponse:
        match pages.page_of(request):
            case Page.METRICS:
                body, content_type = self._renderer.render(pages.accept_of(request), abandoned)
                return AdminResponse(HTTPStatus.OK, content_type, body)
            case Page.READINESS:
                self._refresh("missing", abandoned)
                return pages.readiness(self._missing, self._also_missing)
            case Page.HEALTH:
                return pages.health()
            case refused:
                return refused


class _Accepting:
    """A thread that accepts connections until it is stopped."""

    def __init__(self, listeners: list[socket.socket], begin: Callable[[ThreadedConnection], None]) -> None:
        """``begin`` serves a connection in another thread."""
        for each in listeners:
            each.settimeout(0.0)
        self._listeners = {each.fileno(): each for each in listeners}
        self._begin = begin
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._accept_all, name="admin", daemon=True)

    def start(self) -> None:
        """Start to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until no further connection is accepted."""
        self._stop.close()
        if self._thread.ident is not None:  # else it could not be started
            self._thread.join()
        self._stopped.close()

    def _accept_all(self) -> None:
        poll = select.poll()
        for descriptor in (*self._listeners, self._stopped.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor not in self._listeners:
                    return
                try:
                    accepted, peername = self._listeners[descriptor].accept()
                    self._begin(ThreadedConnection(accepted, address_of(peername)[1]))
                except (ConnectionError, BlockingIOError):  # the client has disconnected
                    continue
                except (OSError, RuntimeError):  # no descriptor or thread is left
                    time.sleep(_ACCEPT_RETRY)

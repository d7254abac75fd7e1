"""The supervisor's admin server: the pages of ``server``, from a thread for each connection.

It exists beside ``server`` because asyncio, with ssl, would double the supervisor's memory, and because nothing waits
for the supervisor's event loop: it decides no request. The bounds are the same.

Invariants: a connection that is closed for a newer one frees its thread at once, whatever it waits for, so there are at
most ``limits.MAX_CONNECTIONS`` threads, and two for each format of the metrics.
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
from authz_service.admin.exchange import AdminExchange, AdminResponse
from authz_service.admin.listeners import listening_sockets
from authz_service.admin.pages import Page
from authz_service.core.errors import BadMessage
from authz_service.telemetry.connection_log import address_of
from authz_service.telemetry.exposition import format_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz_service.admin.pages import Exposed
    from authz_service.telemetry.connection_log import FailureLog
    from authz_service.telemetry.exposition import Format

_MAX_READ: Final = 8192  # bytes
_ACCEPT_RETRY: Final = 1.0  # seconds, when the system has no descriptor or thread for another connection

_logger = logging.getLogger("authz.admin")


class AbandonedError(Exception):
    """The connection was closed for a newer one while its request waited."""


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
        self._renderer = _Renderer(metrics, lambda: refresh("metrics", lambda: False), changed)
        self._listeners: list[socket.socket] = []
        self._accepting: _Accepting | None = None
        self._connections: dict[_Connection, None] = {}  # the one that is idle longest comes first
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

    def _begin(self, connection: _Connection) -> None:
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

    def _end(self, connection: _Connection) -> None:
        connection.close()
        with self._changed:
            self._connections.pop(connection, None)
            self._changed.notify_all()

    def _serve(self, connection: _Connection) -> None:
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

    def _next_response(self, connection: _Connection) -> AdminResponse:
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

    def __init__(self, listeners: list[socket.socket], begin: Callable[[_Connection], None]) -> None:
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
                    self._begin(_Connection(accepted, address_of(peername)[1]))
                except (ConnectionError, BlockingIOError):  # the client has disconnected
                    continue
                except (OSError, RuntimeError):  # no descriptor or thread is left
                    time.sleep(_ACCEPT_RETRY)


class _Connection:
    """A connection and the state of its current request. Belongs to one thread, but for ``abandon``."""

    def __init__(self, accepted: socket.socket, peer: str) -> None:
        self._socket = accepted
        self._idle_timeout = limits.HEADER_TIMEOUT  # until the next request begins
        self.peer = peer
        self.exchange = AdminExchange()
        self.is_open = True  # for another request
        self.has_request = False  # a request was received and its response is not sent yet
        self.abandoned = False

    def receive_request(self) -> h11.Request:
        """The next request. Raises as ``AdminConnection.receive_request``."""
        self.exchange.begin()
        if not self.exchange.has_data:
            self._receive(time.monotonic() + self._idle_timeout)
        deadline = time.monotonic() + limits.HEADER_TIMEOUT
        while (head := self.exchange.take_head()) is None:
            self._receive(deadline)
        self.has_request = True
        return self.exchange.parse(head)

    def _receive(self, deadline: float) -> None:
        data = self._read(deadline)
        if not data:
            raise ConnectionResetError
        self.exchange.feed(data)

    def _read(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._socket.settimeout(remaining)
        return self._socket.recv(_MAX_READ)

    def send(self, response: AdminResponse) -> None:
        """Send a response; closes the connection after a request with a body or one that could not be read.

        Raises:
            OSError: when the client does not take the response in time, or has disconnected.
        """
        self._socket.settimeout(limits.SEND_TIMEOUT)
        self._socket.sendall(self.exchange.encode(response))
        self._idle_timeout = limits.KEEPALIVE_TIMEOUT
        self.has_request = False
        self.is_open = self.exchange.is_open
        if not self.is_open:
            self._linger()

    def _linger(self) -> None:
        """Let the client read the response: closing at once would reset the connection while it is still sending."""
        self._socket.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + limits.LINGER_TIMEOUT
        while self._read(deadline):
            pass

    def abandon(self) -> None:
        """Make this connection's thread end soon. May be called from any thread."""
        self.abandoned = True
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()


class _Renderer:
    """Renders the metrics, one rendering at a time, and for a bounded share of the time, as ``rendering`` does.

    Clients that request the metrics during a rendering share the next one, so that no client gets numbers from before
    its request.
    """

    def __init__(self, metrics: Exposed, refresh: Callable[[], None], changed: threading.Condition) -> None:
        """``refresh`` is called before each rendering."""
        self._metrics = metrics
        self._refresh = refresh
        self._changed = changed
        self._turn = threading.Lock()
        self._pause_until = 0.0
        self._next: dict[Format, _Rendering] = {}  # those that have not begun

    def render(self, accept: str, abandoned: Callable[[], bool]) -> tuple[bytes, str]:
        """The metrics and their content type, for an Accept header."""
        chosen = format_of(accept)
        with self._changed:
            rendering = self._next.get(chosen)
            is_first = rendering is None
            if rendering is None:
                rendering = self._next[chosen] = _Rendering()
        if is_first:
            self._run(rendering, chosen)
        with self._changed:
            self._changed.wait_for(lambda: rendering.is_done or abandoned())
        if not rendering.is_done:
            raise AbandonedError
        if rendering.result is None:
            raise RuntimeError("another request's rendering of the metrics failed")
        return rendering.result, chosen.content_type

    def _run(self, rendering: _Rendering, chosen: Format) -> None:
        try:
            with self._turn:
                time.sleep(max(self._pause_until - time.monotonic(), 0.0))
                with self._changed:
                    del self._next[chosen]
                started = time.monotonic()
                try:
                    self._refresh()
                    pieces = self._metrics.exposition(openmetrics=chosen.openmetrics)
                    rendering.result = b"".join(piece.encode() for piece in pieces)
                finally:
                    ended = time.monotonic()
                    self._pause_until = ended + pages.pause_after(ended - started)
        finally:
            with self._changed:
                rendering.is_done = True
                self._changed.notify_all()


class _Rendering:
    """One rendering of the metrics, for which several threads may wait."""

    def __init__(self) -> None:
        self.is_done = False
        self.result: bytes | None = None  # None once done if it failed

"""The admin server: three addresses, read only.

Answering must not delay a decision. So the metrics are rendered beside the event loop, once for all who ask meanwhile,
and not all the time; and whoever connects gets little: connections, the size of a request and the time that it may take
are bounded, and where there are too many, the one that has waited longest for its next request makes room. A request's
body is not read. Errors are problem documents (RFC 9457) that name the status and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import h11

from authz_service.core.errors import BadMessage, StartFailed
from authz_service.core.headers import combined
from authz_service.http1 import HeadBuffer, TcpConnection, TurnBudget
from authz_service.telemetry.metrics import content_type_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 1 << 13
MAX_HEAD_LINES: Final = 100
HEADER_TIMEOUT: Final = 5.0  # seconds for a request to be complete, from its first octet or from connecting
KEEPALIVE_TIMEOUT: Final = 75.0  # seconds to the next request: longer than the usual scrape interval of 15 to 60
SEND_TIMEOUT: Final = 10.0  # seconds for an answer to be taken
_CLOSE_TIMEOUT = 1.0  # seconds for answers that are on their way at the end, and for what a client still sends
_RENDERING_SHARE = 0.1  # of the time that renderings may take: as they are expensive, scrapes in a loop must wait
_MAX_PAUSE = 1.0  # seconds between two renderings all the same
_BACKLOG = 128  # connections that are accepted in one turn of the event loop
_METHODS = (b"GET", b"HEAD")

_logger = logging.getLogger("authz.admin")


class Exposed(Protocol):
    """Metrics, of one process or of several."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Theirs and the content type, as the Accept header asks. Called from any thread."""


class _Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}


async def _nothing_to_refresh(_what: str) -> None:
    """There is nobody to ask: one process knows all about itself."""


class AdminServer:
    """Serves ``metrics``, and readiness while ``missing`` names nothing that is still waited for."""

    def __init__(
        self,
        *,
        address: tuple[str, int],
        metrics: Exposed,
        missing: Callable[[], Sequence[str]],
        refresh: Callable[[str], Awaitable[None]] = _nothing_to_refresh,
    ) -> None:
        """``address`` is host and port; port 0 is any free one.

        ``refresh`` updates what is reported next: ``metrics`` or ``missing``.
        """
        self._host, self._wanted_port = address
        self._renderer = _Renderer(metrics, refresh)
        self._missing = missing
        self._refresh = refresh
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._turn_budget = TurnBudget()
        self._clients: dict[_Client, asyncio.Task[None]] = {}  # who has waited longest for the next request comes first

    async def start(self) -> None:
        """Listen.

        Raises:
            StartFailed: when the address cannot be had.
        """
        self._stopping = False
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: TcpConnection(self._welcome), self._host, self._wanted_port, backlog=_BACKLOG
            )
        except (OSError, ValueError) as error:  # ValueError: a host that is no name
            raise StartFailed(
                f"the admin server cannot listen on {self._host} port {self._wanted_port}: {_cause(error)}; "
                "change server.admin_address"
            ) from error

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._server is None:
            return self._wanted_port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the port and its connections. Harmless when not started."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping = True
        server.close()
        for client, task in self._clients.items():
            if not client.is_answered:
                task.cancel()
        if self._clients:
            await asyncio.wait(self._clients.values(), timeout=_CLOSE_TIMEOUT)
        for task in self._clients.values():
            task.cancel()
        await asyncio.gather(*self._clients.values(), return_exceptions=True)
        await self._renderer.close()
        await server.wait_closed()

    def _welcome(self, connection: TcpConnection) -> None:
        """Serve one more; where there are too many, the one that has waited longest makes room."""
        if len(self._clients) >= MAX_CONNECTIONS:
            self._clients.pop(next(iter(self._clients))).cancel()
        client = _Client(connection, self._turn_budget)
        self._clients[client] = task = asyncio.create_task(self._serve(client), name="admin client")
        task.add_done_callback(lambda _: self._ended(client))  # also of one that made room before it began

    def _ended(self, client: _Client) -> None:
        client.abort()
        self._clients.pop(client, None)

    async def _serve(self, client: _Client) -> None:
        with contextlib.suppress(OSError):  # of which TimeoutError is one: whoever is slow or gone needs no answer
            while client.is_open and not self._stopping:
                answer = await self._next_answer(client)
                await client.send(answer)
                if client in self._clients:  # else it has just made room
                    self._clients[client] = self._clients.pop(client)

    async def _next_answer(self, client: _Client) -> _Answer:
        try:
            request = await client.request()
        except BadMessage as error:
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return _problem(too_large if error.too_large else HTTPStatus.BAD_REQUEST)
        except h11.RemoteProtocolError as error:
            return _problem(error.error_status_hint)
        try:
            return await self._answer(request)
        except Exception:
            _logger.exception("the admin server failed")
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _answer(self, request: h11.Request) -> _Answer:
        target = request.target.decode("ascii")
        if not target.startswith("/"):  # what a proxy is asked for (RFC 9112 section 3.2.2)
            target = "/" + target.partition("://")[2].partition("/")[2]
        answer = {"/metrics": self._metrics, "/healthz": _health, "/readyz": self._readiness}.get(
            target.partition("?")[0]
        )
        if answer is None:
            return _problem(HTTPStatus.NOT_FOUND)
        if request.method not in _METHODS:
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET,HEAD")
        return await answer(request)

    async def _metrics(self, request: h11.Request) -> _Answer:
        headers = combined((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers)
        body, content_type = await self._renderer.rendered(headers.get("accept", ""))
        return _Answer(HTTPStatus.OK, content_type, body)

    async def _readiness(self, _request: h11.Request) -> _Answer:
        await self._refresh("missing")
        missing = list(self._missing())
        status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
        return _json(status, {"ready": not missing, "missing": missing})


def _cause(error: OSError | ValueError) -> str:
    """The system's words alone: asyncio puts its own around them."""
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else "no host has such a name"


async def _health(_request: h11.Request) -> _Answer:
    return _json(HTTPStatus.OK, {"status": "ok"})


def _json(status: int, value: object, kind: str = "application/json", **headers: str) -> _Answer:
    return _Answer(status, f"{kind}; charset=utf-8", json.dumps(value).encode(), headers)


def _problem(status: int, **headers: str) -> _Answer:
    value = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status)}
    return _json(status, value, "application/problem+json", **headers)


class _Client:
    """One connection: requests are read from it, one after the other, and answered."""

    def __init__(self, connection: TcpConnection, turn_budget: TurnBudget) -> None:
        self._connection = connection
        self._turn_budget = turn_budget
        self._heads = HeadBuffer(MAX_HEAD_BYTES, MAX_HEAD_LINES)
        self._h11 = h11.Connection(h11.SERVER)
        self._idle_timeout = HEADER_TIMEOUT  # until the next request begins
        self._wants_body = True
        self.is_open = True  # another request may come
        self.is_answered = False  # a request has come, and its answer is on its way

    async def request(self) -> h11.Request:
        """The next request.

        Raises:
            OSError: when none comes in time, or the client is gone.
            BadMessage: when it is too large, or holds what no request may hold.
            h11.RemoteProtocolError: when it is no request.
        """
        self._h11 = h11.Connection(h11.SERVER)
        self._wants_body = True
        if not self._heads:
            async with asyncio.timeout(self._idle_timeout):
                await self._read()
        async with asyncio.timeout(HEADER_TIMEOUT):
            while (head := self._heads.take()) is None:
                await self._read()
        self.is_answered = True
        async with self._turn_budget:
            return self._parsed(head)

    def _parsed(self, head: bytes) -> h11.Request:
        self._h11.receive_data(head)
        request = self._h11.next_event()
        if not isinstance(request, h11.Request) or request.http_version not in {b"1.1", b"1.0"}:
            raise BadMessage("is not HTTP/1.1")
        self._wants_body = request.method != b"HEAD"
        self._h11.next_event()  # its end, where it has no body
        return request

    async def _read(self) -> None:
        octets = await self._connection.receive()
        if not octets:
            raise ConnectionResetError
        self._heads.feed(octets)

    async def send(self, answer: _Answer) -> None:
        """Answer the request; the connection ends with one whose body was not read, or that could not be read.

        Raises:
            OSError: when the answer is not taken in time, or the client is gone.
        """
        async with self._turn_budget:
            self._write(answer)
        async with asyncio.timeout(SEND_TIMEOUT):
            await self._connection.drain()
        self._idle_timeout = KEEPALIVE_TIMEOUT
        self.is_answered = False
        self.is_open = self._h11.our_state is h11.DONE is self._h11.their_state
        if not self.is_open:
            await self._take_leave()

    def _write(self, answer: _Answer) -> None:
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Date": formatdate(usegmt=True),
            "Cache-Control": "no-store",
            **answer.headers,
            **({} if self._h11.their_state is h11.DONE else {"Connection": "close"}),
        }
        head = h11.Response(
            status_code=answer.status, reason=HTTPStatus(answer.status).phrase.encode(), headers=list(headers.items())
        )
        body = [h11.Data(data=answer.body)] if self._wants_body else []
        for event in (head, *body, h11.EndOfMessage()):
            self._connection.send(self._h11.send(event) or b"")

    async def _take_leave(self) -> None:
        """Let the client read its answer before the connection ends: what it still sends would make that a reset."""
        self._connection.send_eof()
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            while await self._connection.receive():
                pass

    def abort(self) -> None:
        """End it now."""
        self._connection.abort()


class _Renderer:
    """Renders the metrics beside the event loop, one at a time, and not all the time.

    Those who ask while one is under way share the next, so that nobody gets what was counted before he asked.
    """

    def __init__(self, metrics: Exposed, refresh: Callable[[str], Awaitable[None]]) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._turn = asyncio.Lock()
        self._pause_until = 0.0
        self._next: dict[str, asyncio.Task[tuple[bytes, str]]] = {}  # not begun yet, by their content types
        self._under_way: set[asyncio.Task[tuple[bytes, str]]] = set()

    async def rendered(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, as this Accept header asks for them."""
        form = content_type_of(accept)
        if form not in self._next:
            self._next[form] = task = asyncio.create_task(self._render(accept, form), name="rendering of the metrics")
            self._under_way.add(task)
            task.add_done_callback(self._ended)
        return await asyncio.shield(self._next[form])

    async def _render(self, accept: str, form: str) -> tuple[bytes, str]:
        async with self._turn:
            await asyncio.sleep(self._pause_until - time.monotonic())
            del self._next[form]
            began = time.monotonic()
            try:
                await self._refresh("metrics")
                return await asyncio.to_thread(self._metrics.exposition, accept)
            finally:
                ended = time.monotonic()
                self._pause_until = ended + min((ended - began) * (1 / _RENDERING_SHARE - 1), _MAX_PAUSE)

    def _ended(self, task: asyncio.Task[tuple[bytes, str]]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # raised where it is waited for, if anybody still does

    async def close(self) -> None:
        """Give up what is under way."""
        self._next.clear()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

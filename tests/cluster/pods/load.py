"""Sends requests at a fixed rate, and counts what becomes of each.

    load.py             reads what to send from standard input, as JSON (see ``Orders``)
    load.py stop NAME   ends the load with this name early

It writes an empty JSON object after the first expected answer, and the result at the end. The rate does not depend on
how soon answers arrive: a late request is sent as soon as a connection is free, and its latency counts from when it
was due.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

_CONNECT_TIMEOUT = 10.0
_READ = 1 << 16
_MAX_FAILURES = 20  # that are reported one by one
_MAX_DETAIL = 200  # characters of an unexpected answer


@dataclass(frozen=True)
class Orders:
    """What to send."""

    name: str
    url: str
    rate: float  # requests per second
    seconds: float
    connections: int
    keep: bool = True  # use a connection for many requests
    expected: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    token: str = ""
    ca: str = ""  # PEM
    timeout: float = 60.0  # seconds for an answer


@dataclass
class Result:
    """What became of the requests."""

    requests: int = 0
    answers: dict[str, int] = field(default_factory=dict)  # by status, or the kind of failure
    lost: int = 0  # without the expected answer
    failures: list[str] = field(default_factory=list)  # the first of them
    connections: int = 0
    announced: int = 0  # connections that the server closed after an answer with `connection: close`
    # Connections that the server closed between two requests without announcing it. A client that does not notice in
    # time loses a request.
    unannounced: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0

    def count(self, kind: str) -> None:
        self.answers[kind] = self.answers.get(kind, 0) + 1

    def lose(self, kind: str, since_start: float, detail: str) -> None:
        """Count a request without the expected answer."""
        self.count(kind)
        self.lost += 1
        if len(self.failures) < _MAX_FAILURES:
            self.failures.append(f"{since_start:.1f} s: {kind}{detail and ': '}{detail}")


class ExchangeError(Exception):
    """A request without a complete answer; the message is the kind of failure."""


class Connection:
    """A connection of a client to the server, for one request after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.used = False

    @property
    def closed_by_server(self) -> bool:
        """Whether the server has closed it between two requests."""
        return self._reader.at_eof() or self._reader.exception() is not None

    async def exchange(self, request: h11.Request) -> tuple[int, bytes, bool]:
        """The status and the body of the answer, and whether the server closes the connection after it."""
        if self.used:
            self._http.start_next_cycle()
        self.used = True
        self._writer.write((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            event = self._next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body, self._http.their_state is not h11.DONE
            elif event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_READ))

    def _next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            kind = "closed before the answer" if self._reader.at_eof() else "invalid answer"
            raise ExchangeError(kind) from error

    def close(self) -> None:
        self._writer.close()


class Load:
    """The requests of one run."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._url = urlsplit(orders.url)
        self._request = _request(orders)
        self._tls = None if self._url.scheme == "http" else ssl.create_default_context(cadata=orders.ca or None)
        self._stop = asyncio.Event()
        self._start = time.monotonic()
        self._sent = 0
        self._latencies: list[float] = []
        self._result = Result()
        self._reported = False

    async def run(self) -> Result:
        """Send until the time has passed, or until another process ends it."""
        # An abstract socket, because the root file system is read-only.
        server = await asyncio.start_unix_server(self._request_stop, path=_socket_name(self._orders.name))
        async with server:
            timer = asyncio.get_running_loop().call_later(self._orders.seconds, self._stop.set)
            await asyncio.gather(*(self._use_connection() for _ in range(self._orders.connections)))
            timer.cancel()
        self._summarize()
        return self._result

    async def _request_stop(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stop.set()
        writer.close()

    async def _use_connection(self) -> None:
        """Send what is due, one request after another."""
        connection: Connection | None = None
        while not self._stop.is_set():
            due = self._start + self._sent / self._orders.rate
            self._sent += 1
            if not await self._wait_until(due):
                break
            connection = await self._send(self._still_open(connection), due)
        if (last := self._still_open(connection)) is not None:
            last.close()

    def _still_open(self, connection: Connection | None) -> Connection | None:
        """The connection, unless the server has closed it since the last answer."""
        if connection is None or not connection.closed_by_server:
            return connection
        self._result.unannounced += 1
        connection.close()
        return None

    async def _wait_until(self, due: float) -> bool:
        """Whether the load still runs then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._stop.wait()
        return not self._stop.is_set()

    async def _send(self, connection: Connection | None, due: float) -> Connection | None:
        """Send a request, and return the connection if it can be used again."""
        which = "new connection" if connection is None else "kept connection"
        self._result.requests += 1
        try:
            if connection is None:
                connection = await self._connect()
            async with asyncio.timeout(self._orders.timeout):
                status, body, closes = await connection.exchange(self._request)
        except (OSError, ExchangeError) as error:  # TimeoutError is an OSError
            kind = str(error) if isinstance(error, ExchangeError) else type(error).__name__
            self._result.lose(f"{kind} ({which})", due - self._start, "")
            if connection is not None:
                connection.close()
            return None
        self._latencies.append(time.monotonic() - due)
        if status == self._orders.expected:
            self._result.count(str(status))
            self._report_start()
        else:
            self._result.lose(str(status), due - self._start, body[:_MAX_DETAIL].decode(errors="replace"))
        if self._orders.keep and closes:
            self._result.announced += 1
        if closes or not self._orders.keep:
            connection.close()
            return None
        return connection

    async def _connect(self) -> Connection:
        port = self._url.port or (443 if self._tls else 80)
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            connection = Connection(*await asyncio.open_connection(self._url.hostname, port, ssl=self._tls))
        self._result.connections += 1
        return connection

    def _report_start(self) -> None:
        if not self._reported:
            self._reported = True
            _write({})

    def _summarize(self) -> None:
        latencies = sorted(self._latencies) or [0.0]
        self._result.p50_ms = round(1000 * latencies[len(latencies) // 2], 1)
        self._result.p99_ms = round(1000 * latencies[len(latencies) * 99 // 100], 1)
        self._result.max_ms = round(1000 * latencies[-1], 1)


def _request(orders: Orders) -> h11.Request:
    url = urlsplit(orders.url)
    headers = {"host": url.netloc, **orders.headers}
    if orders.token:
        headers["authorization"] = f"Bearer {orders.token}"
    if not orders.keep:
        headers["connection"] = "close"
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return h11.Request(method="GET", target=target, headers=list(headers.items()))


def _socket_name(name: str) -> str:
    return f"\0load-{name}"


def _write(value: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def stop(name: str) -> None:
    """End a load of another process early."""
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(_socket_name(name))


async def main() -> None:
    if sys.argv[1:2] == ["stop"]:
        stop(sys.argv[2])
    else:
        _write(asdict(await Load(Orders(**json.load(sys.stdin))).run()))


if __name__ == "__main__":
    asyncio.run(main())

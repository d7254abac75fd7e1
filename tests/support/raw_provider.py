"""A provider that sends the bytes a test chooses, and responses that never end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Self

from authz_service.http1 import MAX_READ, MAX_TURN_TIME
from authz_service.providers.exchange import MAX_FRAMING, MAX_HEAD_BYTES

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MAX_BYTES = 100_000  # of a response body that the tests allow
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY_OBJECT = OK + b"Content-Length: 2\r\n\r\n{}"


class Endless(NamedTuple):
    """A response that never ends."""

    prefix: bytes  # sent once
    repeated: bytes  # sent again and again
    max_read: int  # bytes that the client reads at most


ENDLESS: dict[str, Endless] = {
    "informational responses": Endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 2 * MAX_READ),
    "large informational responses": Endless(
        b"", b"HTTP/1.1 103 X\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 2 * MAX_HEAD_BYTES
    ),
    "a status line": Endless(b"HTTP/1.1 200 ", b"O", MAX_HEAD_BYTES + MAX_READ),
    "header lines": Endless(OK, b"a:\r\n", MAX_HEAD_BYTES + MAX_READ),
    "one header line": Endless(OK + b"a: ", b"b ", MAX_HEAD_BYTES + MAX_READ),
    "empty lines": Endless(b"", b"\r\n", MAX_READ),
    "content": Endless(OK + b"\r\n", b" ", MAX_BYTES + 2 * MAX_READ),
    "content of a length": Endless(OK + b"Content-Length: 99999999999\r\n\r\n", b" ", MAX_READ),
    "one chunk": Endless(CHUNKED + b"fffffffff\r\n", b" ", MAX_BYTES + 2 * MAX_READ),
    "chunks of one byte": Endless(CHUNKED, b"1\r\n \r\n", 2 * MAX_FRAMING),
    "chunk extensions": Endless(CHUNKED + b"1;", b"a=b;", 2 * MAX_READ),
    "chunks with extensions": Endless(CHUNKED, b"1;" + b"a" * 200 + b"\r\n \r\n", 2 * MAX_FRAMING),
    "the size of a chunk": Endless(CHUNKED, b"1", MAX_READ),
    "trailers": Endless(CHUNKED + b"0\r\n", b"a: b\r\n", 2 * MAX_READ),
    "one trailer": Endless(CHUNKED + b"0\r\na: ", b" ", 2 * MAX_READ),
    "compressed content": Endless(OK + b"Content-Encoding: gzip\r\n\r\n", b"\x00", 2 * MAX_READ),
}


class SlowStepTimer:
    """A timer by which every step takes more than a turn's share of time."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.5 * MAX_TURN_TIME
        return self.now


def send(response: bytes) -> Script:
    """Reads a request's head, sends this and closes the connection."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    return run


def send_repeatedly(prefix: bytes, repeated: bytes, *, interval: float | None = None) -> Script:
    """Sends ``prefix`` once and ``repeated`` every ``interval`` seconds until the client closes the connection."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(prefix)
        while True:
            writer.write(repeated)
            await writer.drain()
            if interval is not None:
                await asyncio.sleep(interval)

    return run


def send_endless(kind: str) -> Script:
    """Sends a response of ``ENDLESS``, in large blocks."""
    prefix, repeated, _ = ENDLESS[kind]
    return send_repeatedly(prefix, repeated * (1 + 65_536 // len(repeated)))


class RawProvider:
    """A server on loopback that runs ``script`` on each connection and then closes it."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.connections = 0
        self.origin = ""
        self._tls = tls
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{self.origin}/keys"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        scheme = "https" if self._tls else "http"
        self.origin = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._run(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait([task])

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                await self.script(reader, writer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

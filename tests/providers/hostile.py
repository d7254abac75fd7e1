"""A provider that says what the test wants, octet by octet, and answers that have no end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from authz_service.http1 import MAX_PIECE, MAX_TURN
from authz_service.providers.exchange import MAX_FRAMING, MAX_HEAD_BYTES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MAX_BYTES = 100_000  # that the tests allow an answer
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = OK + b"Content-Length: 2\r\n\r\n{}"

ENDLESS: dict[str, tuple[bytes, bytes, int]] = {
    # what it begins with, what it repeats, and how many octets of it are read at the most
    "informational responses": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 2 * MAX_PIECE),
    "large informational responses": (b"", b"HTTP/1.1 103 X\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 2 * MAX_HEAD_BYTES),
    "a status line": (b"HTTP/1.1 200 ", b"O", MAX_HEAD_BYTES + MAX_PIECE),
    "header lines": (OK, b"a:\r\n", MAX_HEAD_BYTES + MAX_PIECE),
    "one header line": (OK + b"a: ", b"b ", MAX_HEAD_BYTES + MAX_PIECE),
    "empty lines": (b"", b"\r\n", MAX_PIECE),
    "content": (OK + b"\r\n", b" ", MAX_BYTES + 2 * MAX_PIECE),
    "content of a length": (OK + b"Content-Length: 99999999999\r\n\r\n", b" ", MAX_PIECE),
    "one chunk": (CHUNKED + b"fffffffff\r\n", b" ", MAX_BYTES + 2 * MAX_PIECE),
    "chunks of one octet": (CHUNKED, b"1\r\n \r\n", 2 * MAX_FRAMING),
    "chunk extensions": (CHUNKED + b"1;", b"a=b;", 2 * MAX_PIECE),
    "chunks with extensions": (CHUNKED, b"1;" + b"a" * 200 + b"\r\n \r\n", 2 * MAX_FRAMING),
    "the size of a chunk": (CHUNKED, b"1", MAX_PIECE),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n", 2 * MAX_PIECE),
    "one trailer": (CHUNKED + b"0\r\na: ", b" ", 2 * MAX_PIECE),
    "packed content": (OK + b"Content-Encoding: gzip\r\n\r\n", b"\x00", 2 * MAX_PIECE),
}


class CostlySteps:
    """A clock by which each step takes more than its turn's share."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.5 * MAX_TURN
        return self.now


def endless(kind: str) -> Talk:
    """Sends such an answer for as long as somebody reads it."""
    begin, repeated, _ = ENDLESS[kind]
    return repeating(begin, repeated * (1 + 65_536 // len(repeated)))


def repeating(begin: bytes, block: bytes, *, pause: float | None = None) -> Talk:
    """Sends the one once and the other again and again, with so many seconds between, for as long as somebody reads."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        while True:
            writer.write(block)
            await writer.drain()
            if pause is not None:
                await asyncio.sleep(pause)

    return talk


def saying(octets: bytes) -> Talk:
    """Reads a request's head, sends this and ends the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(octets)

    return talk


class RawProvider:
    """A server on loopback that does on each connection what ``talk`` does, and then ends it."""

    def __init__(self, talk: Talk, tls: ssl.SSLContext | None = None) -> None:
        self.talk = talk
        self.connections = 0
        self._tls = tls
        self._talking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        scheme = "https" if self._tls else "http"
        self.origin = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"{self.origin}/keys"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._talking:
            task.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._talking.add(task)
        task.add_done_callback(self._talking.discard)
        await asyncio.wait([task])

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                await self.talk(reader, writer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

"""One connection to a provider, with or without TLS.

TLS runs over memory buffers here, not in asyncio's transports: those decrypt everything that has arrived at once, and a
provider that sends records of one byte can make that ten thousand records.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final

from authz_service.core.errors import BadMessage
from authz_service.http1 import MAX_READ, TcpConnection

if TYPE_CHECKING:
    from authz_service.http1 import TurnBudget
    from authz_service.providers.exchange import Exchange, HttpResponse

MAX_HANDSHAKE: Final = 1 << 18  # bytes; OpenSSL accepts certificate chains of 100 KiB


class ProviderConnection:
    """Sends and receives bytes."""

    def __init__(self, sock: socket.socket, tcp: TcpConnection) -> None:
        """``sock`` is the socket that ``tcp`` reads and closes."""
        self._socket = sock
        self._tcp = tcp
        self._stream: TcpConnection | _TlsConnection = tcp

    @classmethod
    async def over(cls, sock: socket.socket) -> ProviderConnection:
        """Take over a connected socket.

        Raises:
            OSError: if the connection breaks.
        """
        try:
            _, tcp = await asyncio.get_running_loop().create_connection(TcpConnection, sock=sock)
        except BaseException:
            sock.close()
            raise
        return cls(sock, tcp)

    async def start_tls(self, turn_budget: TurnBudget, context: ssl.SSLContext, host: str) -> None:
        """Do a TLS handshake for ``host``. If there is TLS already, with a proxy, the new one runs inside it.

        Raises:
            OSError: if the connection breaks or the handshake fails.
        """
        tls = _TlsConnection(self._stream, turn_budget, context, host)
        await tls.handshake()
        self._stream = tls

    async def receive(self) -> bytes:
        """The next bytes; empty at the end of the stream.

        Raises:
            OSError: if the connection is broken.
        """
        return await self._stream.receive()

    def send(self, data: bytes) -> None:
        """Send data, now or as soon as the provider accepts it."""
        self._stream.send(data)

    async def complete(self, exchange: Exchange, turn_budget: TurnBudget) -> HttpResponse:
        """Send a request and parse the response to it.

        Raises:
            OSError: if the connection is broken.
            BadMessage, h11.ProtocolError: if the response is not valid.
        """
        self.send(exchange.encode_request())
        while exchange.response is None:
            exchange.feed(await self.receive())
            await _parse(exchange, turn_budget)
        return exchange.response

    def begin_idle(self) -> None:
        """Detect what arrives before the next request: see ``is_idle``."""
        self._tcp.read_ahead()

    @property
    def is_idle(self) -> bool:
        """Whether nothing has arrived since ``begin_idle``, neither read nor in the socket's buffer.

        Data that arrives before a request would be taken for the response to it (response splitting).
        """
        if not self._tcp.is_idle:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection once everything is sent, with TLS's close_notify."""
        if isinstance(self._stream, _TlsConnection):
            self._stream.send_close_notify()
        self._tcp.close()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._tcp.wait_closed()

    def abort(self) -> None:
        """Close the connection now."""
        self._tcp.abort()


async def _parse(exchange: Exchange, turn_budget: TurnBudget) -> None:
    while True:
        async with turn_budget:
            if not exchange.advance():
                return


class _TlsConnection:
    """TLS over a TCP connection, or over TLS with a proxy, decrypted in small steps."""

    def __init__(
        self, lower: TcpConnection | _TlsConnection, turn_budget: TurnBudget, context: ssl.SSLContext, host: str
    ) -> None:
        self._lower = lower
        self._turn_budget = turn_budget
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host.rstrip("."))

    async def handshake(self) -> None:
        received = 0
        while True:
            try:
                async with self._turn_budget:
                    self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
                self._flush()  # the alert, from which the provider can log the cause
                raise
            else:
                self._flush()
                return
            data = await self._lower.receive()
            received += len(data)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "during the TLS handshake")
            if received > MAX_HANDSHAKE:
                raise BadMessage(f"has a TLS handshake of more than {MAX_HANDSHAKE} bytes", too_large=True)
            self._incoming.write(data)

    async def receive(self) -> bytes:
        while True:
            async with self._turn_budget:
                data, at_eof = self._decrypt()
            self._flush()  # TLS's own replies
            if data or at_eof:
                return data
            encrypted = await self._lower.receive()
            if not encrypted:  # without close_notify: harmless, since an incomplete response is refused anyway
                return b""
            self._incoming.write(encrypted)

    def _decrypt(self) -> tuple[bytes, bool]:
        """The data that has arrived, which is hardly longer than one read, and whether close_notify follows it."""
        data = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            while decrypted := self._tls.read(MAX_READ):
                data += decrypted
            return bytes(data), True
        return bytes(data), False

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def send_close_notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._lower.send(self._outgoing.read())

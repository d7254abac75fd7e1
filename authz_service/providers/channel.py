"""One connection to a provider, with or without TLS.

TLS is worked off here, over buffers in memory, and not by asyncio's transports: those decrypt at once all that has
come, which a provider that sends records of one octet each can make some ten thousand.
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

MAX_HANDSHAKE: Final = 1 << 18  # bytes; OpenSSL takes a chain of certificates of 100 KiB


class Channel:
    """A connection over which octets come and go."""

    def __init__(self, link: socket.socket, wire: TcpConnection, tls: _Tls | None = None) -> None:
        """``link`` is the socket that ``wire`` reads and closes."""
        self._link = link
        self._wire = wire
        self._tls = tls

    @classmethod
    async def over(cls, link: socket.socket, pace: TurnBudget, context: ssl.SSLContext | None, host: str) -> Channel:
        """A channel over a connected socket, which is the channel's to close from now on; with TLS where ``context``.

        Raises:
            OSError: when the connection breaks, or TLS does not come about.
        """
        try:
            _, wire = await asyncio.get_running_loop().create_connection(TcpConnection, sock=link)
        except BaseException:
            link.close()
            raise
        if context is None:
            return cls(link, wire)
        try:
            tls = _Tls(wire, pace, context, host)
            await tls.shake_hands()
        except BaseException:
            wire.abort()
            raise
        return cls(link, wire, tls)

    async def receive(self) -> bytes:
        """The next octets; none once the provider sends no more.

        Raises:
            OSError: when the connection is broken.
        """
        return await (self._wire if self._tls is None else self._tls).receive()

    def send(self, octets: bytes) -> None:
        """Send it, now or as soon as the provider takes it."""
        (self._wire if self._tls is None else self._tls).send(octets)

    def rest(self) -> None:
        """Nothing is expected until the next request. What comes all the same is not forgotten: see ``is_quiet``."""
        self._wire.read_ahead()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come since, neither read nor waiting in the system's buffer.

        What has come would be taken for the answer to the next request, and is none: it was sent before that.
        """
        if not self._wire.is_idle:
            return False
        try:
            self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it, with a word of leave where TLS has one."""
        if self._tls is not None:
            self._tls.take_leave()
        self._wire.close()

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        await self._wire.wait_closed()

    def abort(self) -> None:
        """Close it now, whatever is still to be sent."""
        self._wire.abort()


class _Tls:
    """TLS over a wire, worked off in steps."""

    def __init__(self, wire: TcpConnection, pace: TurnBudget, context: ssl.SSLContext, host: str) -> None:
        self._wire = wire
        self._pace = pace
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host.rstrip("."))

    async def shake_hands(self) -> None:
        read = 0
        while True:
            try:
                async with self._pace:
                    self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
                self._flush()  # the alert, so that the other side's log tells why as well
                raise
            else:
                self._flush()
                return
            octets = await self._wire.receive()
            read += len(octets)
            if not octets:
                raise ConnectionResetError(errno.ECONNRESET, "amid a TLS handshake")
            if read > MAX_HANDSHAKE:
                raise BadMessage(f"has a TLS handshake of more than {MAX_HANDSHAKE} bytes", too_large=True)
            self._incoming.write(octets)

    async def receive(self) -> bytes:
        while True:
            async with self._pace:
                data, ended = self._decrypted()
            self._flush()  # answers of TLS itself
            if data or ended:
                return data
            octets = await self._wire.receive()
            if not octets:  # without leave, which does no harm: what is read must be whole by itself
                return b""
            self._incoming.write(octets)

    def _decrypted(self) -> tuple[bytes, bool]:
        """What has come, which is not much longer than the piece that was read; and whether the provider took leave."""
        data = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            while octets := self._tls.read(MAX_READ):
                data += octets
            return bytes(data), True
        return bytes(data), False

    def send(self, octets: bytes) -> None:
        view = memoryview(octets)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def take_leave(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._wire.send(self._outgoing.read())

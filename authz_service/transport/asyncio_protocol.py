"""One connection of the asyncio server: an HTTP/2 connection on a socket.

Invariants: nothing is read from a peer that does not read, and what is buffered for it is counted in its share of
memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.telemetry.connection_log import address_of
from authz_service.transport.http2.connection import Http2Connection
from authz_service.transport.http2.memory import Share

if TYPE_CHECKING:
    from authz_service.telemetry.connection_log import ConnectionLog
    from authz_service.transport.grpc_methods import GrpcMethods
    from authz_service.transport.peers import Peers

# Octets. Beyond it nothing is read from the peer, and the buffer is counted in its share of memory.
MAX_WRITE_BUFFER: Final = 32 << 10
CLOSE_TIMEOUT: Final = 5  # ticks, for the peer to read what was written before the close


class PeerProtocol(asyncio.Protocol):
    """The protocol of one connection."""

    def __init__(self, methods: GrpcMethods, peers: Peers, log: ConnectionLog) -> None:
        self._methods = methods
        self._peers = peers
        self._log = log
        self._share = Share(peers.memory)
        self._transport = asyncio.Transport()  # until connection_made
        self._connection = Http2Connection(methods, self._share, self._on_open, self._on_close, self._on_pause)
        self.data_received = self._connection.receive  # type: ignore[method-assign] # saves a call
        self._buffered = 0  # octets, while the write buffer is too large; then nothing is read
        self._counted = False  # how it began
        self.closing = False  # draining or closed
        self.closed_ticks = 0  # since it was closed
        self.host = self._address = ""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start HTTP/2, if there is room for the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self.host, self._address = address_of(transport.get_extra_info("peername"))
        if self._methods.stopped:  # during the TLS handshake
            self._transport.abort()
        elif self._peers.admit(self):
            self._transport.set_write_buffer_limits(high=MAX_WRITE_BUFFER)
            self._connection.start(self._transport.write)
        else:
            self._counted = True
            self._log.refused(self._address)
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Cancel every stream."""
        self._peers.discard(self)
        if not self._counted:
            self._count_beginning()
        self._connection.lost()
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """Read nothing more: the responses would have to be buffered."""
        self._connection.pause()
        self._transport.pause_reading()
        self._count_buffers()

    def resume_writing(self) -> None:
        """Read again."""
        self._share.add(-self._buffered)
        self._buffered = 0
        self._resume()

    # The connection's callbacks.

    def _on_pause(self) -> None:
        """Let other connections have their turn."""
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._resume)

    def _on_open(self) -> None:
        self._counted = True
        self._log.accepted()

    def _on_close(self, reason: ConnectionFailure | None, cause: str) -> None:
        """Write nothing more. The peer closes after it has read everything; else ``tick`` aborts."""
        self.closing = True
        if reason is None:
            self._log.drained(self._address)
        else:
            self._failed(reason, cause)
        if self._transport.can_write_eof():
            self._transport.write_eof()  # not close: with unread data, that would discard what was written
        else:
            self._transport.close()

    def _failed(self, failure: ConnectionFailure, cause: str) -> None:
        if self._counted:
            self._log.failed(failure, cause, self._address)
        else:
            self._counted = True
            self._log.not_accepted(failure, cause, self._address)

    def _count_beginning(self) -> None:
        """It ended before the HTTP/2 preface."""
        if self._connection.has_begun and not self.closing:
            cause = "the peer closed the connection within the HTTP/2 connection preface"
            self._failed(ConnectionFailure.UNFINISHED, cause)
        else:
            self._counted = True
            self._log.empty()

    def _resume(self) -> None:
        if not self._buffered:
            self._connection.resume()
            if self._connection.closed or not self._connection.paused:
                self._transport.resume_reading()  # after a close, to notice that the peer closes

    def _count_buffers(self) -> None:
        more = self._transport.get_write_buffer_size() + self._connection.buffered - self._buffered
        has_room = self._share.has_room(more)
        self._share.add(more)
        self._buffered += more
        if not has_room:
            cause = "the peer does not read, and the memory for its responses is used up"
            self._failed(ConnectionFailure.FLOOD, cause)
            self.abort()

    # The server's requests.

    def tick(self) -> None:
        """A second has passed."""
        if self._buffered:
            self._count_buffers()
        self._connection.tick(writing=self._buffered > 0)
        if self._connection.closed:
            self.closed_ticks += 1
            if self.closed_ticks > CLOSE_TIMEOUT:
                self.abort()

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return self._connection.idle

    @property
    def silent(self) -> int:
        """For how many ticks nothing was received."""
        return self._connection.silent

    def drain(self) -> None:
        """Accept no new streams, and close after the last response."""
        self.closing = True
        self._connection.drain()

    def displace(self) -> None:
        """Make room for another connection. An idle one still answers the requests that are on their way."""
        cause = "too many connections, and most of them from this host"
        if self.idle:
            self._failed(ConnectionFailure.TOO_MANY, cause)
            self.drain()
        else:
            self._connection.close(ConnectionFailure.TOO_MANY, cause)

    def abort(self) -> None:
        """Close immediately, and discard what was not written."""
        self._peers.discard(self)
        self._connection.lost()  # so that nothing writes to it
        self._transport.abort()

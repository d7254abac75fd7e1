"""One connection of the supervisor's admin server: as ``connection``, on a blocking socket."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final

from authz_service.admin import limits
from authz_service.admin.exchange import AdminExchange

if TYPE_CHECKING:
    import h11

    from authz_service.admin.exchange import AdminResponse

_MAX_READ: Final = 8192  # bytes


class ThreadedConnection:
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

"""One call: a stream as who serves it sees it.

Law: a call is ended once. What is said to it after that, or after the peer took it back, is dropped without a word,
since whoever answers late can not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.transport.http2.connection import Connection
    from authz_service.transport.http2.headers import Head, Status


class Call:
    """A request that has arrived, and the way to answer it."""

    __slots__ = (
        "_connection", "cancelled", "ending", "head", "head_sent", "opened", "parts", "receive_window", "received",
        "remote_closed", "stream", "streamed", "to_send", "window",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, stream: int, head: Head, window: int, receive_window: int, opened: int
    ) -> None:
        self._connection: Connection | None = connection
        self.stream = stream
        self.head = head
        self.window = window  # octets that we may send on it
        self.receive_window = receive_window  # octets that the peer may
        self.opened = opened  # at which tick
        self.parts: list[bytes] = []  # of the request, as far as it is kept
        self.received = 0  # octets of it, kept or not
        self.remote_closed = False
        self.streamed = False  # whether messages were served before the request's end
        self.head_sent = False
        self.to_send = bytearray()  # what flow control holds back
        self.ending: bytes | None = None  # the trailers, once everything is said
        self.cancelled: Callable[[], object] | None = None  # to be told when nobody waits any more

    @property
    def open(self) -> bool:
        """Whether anybody still waits to hear more."""
        return self._connection is not None and self.ending is None

    def close(self) -> None:
        """Forget the connection."""
        self._connection = None

    def answer(self, message: bytes) -> None:
        """Send the one message, and end the call with success."""
        if self._connection is not None and self.ending is None:
            self._connection.answer(self, message)

    def send(self, message: bytes) -> None:
        """Send a message, and leave the call open."""
        if self._connection is not None and self.ending is None:
            self._connection.send(self, message)

    def refuse(self, status: Status, message: str) -> None:
        """End the call with a status that is no success."""
        if self._connection is not None and self.ending is None:
            self._connection.refuse(self, status, message)

"""One call: a stream as who serves it sees it.

Invariants: a call is ended once. What is said to it after that, or after the peer took it back, is dropped without a
word, since whoever answers late cannot know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.headers import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.transport.http2.connection import Connection
    from authz_service.transport.http2.headers import Head


class Unserved(NamedTuple):
    """Why a call is not served."""

    cause: str  # it holds nothing that the peer sent
    status: Status = Status.INTERNAL  # how the call ends, where its service has no answer for it
    temporary: bool = False  # whether the same call may be served at another time


HEADERS_TOO_LONG: Final = Unserved("a header list that is too long")
NOT_POST: Final = Unserved("the method is not POST")
NOT_ONE_MESSAGE: Final = Unserved("the request is not one whole message")
COMPRESSED: Final = Unserved("compressed messages are not read", Status.UNIMPLEMENTED)
COMPRESSED_SOMEHOW: Final = Unserved("the message says that it is compressed, and not how")
WRONG_LENGTH: Final = Unserved("content-length is not the length")
TOO_LONG: Final = Unserved("the message is longer than is read", Status.RESOURCE_EXHAUSTED)
NO_ROOM: Final = Unserved("no room is left for what this connection asks", Status.RESOURCE_EXHAUSTED, temporary=True)
NOT_IN_TIME: Final = Unserved("the request did not end in time", Status.DEADLINE_EXCEEDED, temporary=True)
CONNECTION_ENDED: Final = Unserved("its connection is ended", Status.UNAVAILABLE, temporary=True)


class Call:
    """A request that has arrived, and the way to answer it."""

    __slots__ = (
        "_connection", "body", "cancelled", "ending", "fault", "head", "head_sent", "held", "opened", "receive_window",
        "received", "remote_closed", "reset", "stream", "streamed", "to_send", "window",
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
        self.fault: Unserved | None = None  # why its request is not kept any more, and will not be served
        self.body = bytearray()  # of the request, as far as it has come
        self.received = 0  # octets of it, kept or not
        self.held = 0  # octets of it and of what flow control holds back, as they are counted
        self.remote_closed = False
        # How its stream is reset when everything is said: for the request need not have ended. None: not at all.
        self.reset: ErrorCode | None = ErrorCode.NO_ERROR
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

    def refuse_http(self) -> None:
        """End the call as HTTP does, since it is no gRPC."""
        if self._connection is not None and self.ending is None:
            self._connection.refuse_http(self)

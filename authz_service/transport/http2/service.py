"""What serves the requests of a connection, and the reasons for which a request is not served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from authz_service.transport.http2.grpc_framing import Status

if TYPE_CHECKING:
    from collections.abc import Container

    from authz_service.transport.http2.stream import Stream


class Unserved(NamedTuple):
    """Why a request is not served."""

    cause: str  # it holds nothing that the peer sent
    status: Status = Status.INTERNAL  # where the service has no denial for the request
    temporary: bool = False  # whether the same request may be served at another time


HEADERS_TOO_LONG: Final = Unserved("a header list that is too long")
NOT_POST: Final = Unserved("the method is not POST")
NOT_ONE_MESSAGE: Final = Unserved("the request is not one whole message")
COMPRESSED: Final = Unserved("compressed messages are not supported", Status.UNIMPLEMENTED)
COMPRESSED_WITHOUT_ENCODING: Final = Unserved("the message is flagged as compressed without a grpc-encoding")
WRONG_CONTENT_LENGTH: Final = Unserved("content-length is not the length of the body")
MESSAGE_TOO_LONG: Final = Unserved("the message exceeds the size limit", Status.RESOURCE_EXHAUSTED)
OUT_OF_MEMORY: Final = Unserved("the connection uses up its memory", Status.RESOURCE_EXHAUSTED, temporary=True)
REQUEST_TIMED_OUT: Final = Unserved("the request did not end in time", Status.DEADLINE_EXCEEDED, temporary=True)
CONNECTION_CLOSED: Final = Unserved("the connection was closed", Status.UNAVAILABLE, temporary=True)


class Service(Protocol):
    """The gRPC methods behind a connection."""

    @property
    def max_message_bytes(self) -> int:
        """The longest message that is buffered. A message that fits in a single frame is not buffered."""

    @property
    def streaming_paths(self) -> Container[bytes]:
        """The methods whose requests are streams of messages, each of which is served when it is complete."""

    def serve(self, stream: Stream, message: bytes) -> None:
        """Respond to a message, now or later. Must not raise."""

    def denial(self, stream: Stream, why: Unserved) -> bytes | None:
        """The message that answers a request which is not served; None for a gRPC status. Must not raise."""

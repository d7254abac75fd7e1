"""Streams (RFC 9113 section 5.1): one request and its response each.

A stream ends once. A response after that, or after the peer reset the stream, is dropped silently: the service that
responds late cannot prevent it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_service.transport.http2.frames import MAX_STREAM_ID, ErrorCode, Http2ConnectionError
from authz_service.transport.http2.limits import MAX_CONCURRENT_STREAMS, STREAM_OCTETS, UNCOUNTED_STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.transport.http2.grpc_framing import Status
    from authz_service.transport.http2.headers import RequestHeaders
    from authz_service.transport.http2.memory import Share
    from authz_service.transport.http2.response import ResponseWriter
    from authz_service.transport.http2.service import Unserved

NO_LAST_STREAM: Final = MAX_STREAM_ID + 1  # as the last stream that is served, until a GOAWAY names one
_MAX_REMEMBERED_RESETS: Final = 1000  # streams whose frames may still arrive after we reset them


class Stream:
    """A request, the way to respond to it, and the stream's windows."""

    __slots__ = (
        "_writer", "body", "body_octets", "counted_octets", "end_frame", "headers", "headers_sent", "on_cancel",
        "on_writable", "opened_at", "receive_window", "remote_closed", "reset_code", "send_buffer", "send_window",
        "stream_id", "unserved",
    )  # fmt: skip

    def __init__(
        self,
        writer: ResponseWriter,
        stream_id: int,
        headers: RequestHeaders,
        send_window: int,
        receive_window: int,
        opened_at: int,
    ) -> None:
        self._writer: ResponseWriter | None = writer  # None once the stream is closed
        self.stream_id = stream_id
        self.headers = headers
        self.send_window = send_window
        self.receive_window = receive_window
        self.opened_at = opened_at  # tick
        self.unserved: Unserved | None = None  # why the request will not be served, and is buffered no longer
        self.body = bytearray()  # of the request, as far as it is buffered
        self.body_octets = 0  # of the request, buffered or not
        self.counted_octets = 0  # of both buffers, as last counted in the connection's share of memory
        self.remote_closed = False  # half-closed (remote): the request has ended
        # Of the RST_STREAM that follows the response. NO_ERROR if the request has not ended by then; None for no reset.
        self.reset_code: ErrorCode | None = ErrorCode.NO_ERROR
        self.headers_sent = False
        self.send_buffer = bytearray()  # of the response, until the windows allow it
        self.end_frame: bytes | None = None  # of the response, behind the buffer
        self.on_cancel: Callable[[], object] | None = None  # called when the response is no longer needed
        # Called when the buffered response has gone out; set once a message was served before the request's end.
        self.on_writable: Callable[[Stream], None] | None = None

    @property
    def open(self) -> bool:
        """Whether the response can go on."""
        return self._writer is not None and self.end_frame is None

    @property
    def streamed(self) -> bool:
        """Whether a message was served before the request's end."""
        return self.on_writable is not None

    def close(self) -> None:
        """Drop every response from now on."""
        self._writer = None

    def answer(self, message: bytes) -> None:
        """Respond with one message and success."""
        if self._writer is not None and self.end_frame is None:
            self._writer.answer(self, message)

    def send(self, message: bytes) -> None:
        """Send a message and leave the stream open."""
        if self._writer is not None and self.end_frame is None:
            self._writer.send(self, message)

    def refuse(self, status: Status, message: str) -> None:
        """End the stream with a gRPC status other than OK."""
        if self._writer is not None and self.end_frame is None:
            self._writer.refuse(self, status, message)

    def refuse_http(self) -> None:
        """End the stream with an HTTP status, because the request is not gRPC."""
        if self._writer is not None and self.end_frame is None:
            self._writer.refuse_http(self)


class StreamTable:
    """The streams of one connection: those that are open, and what is relevant of closed ones."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.open: dict[int, Stream] = {}
        self.blocked: dict[int, Stream] = {}  # those whose response waits for a flow control window
        self.last_stream_id = 0  # the highest that the client has opened
        self.max_stream_id = NO_LAST_STREAM  # the highest that is served, after the final GOAWAY
        self._reset: dict[int, None] = {}  # those that we reset, oldest first

    def has_room(self) -> bool:
        """Whether the stream that was opened last may stay open. It is counted until it is closed in any case."""
        room = len(self.open) <= MAX_CONCURRENT_STREAMS and self.share.has_room(STREAM_OCTETS)
        self.share.add(STREAM_OCTETS)
        return room

    def count_buffers(self, stream: Stream) -> None:
        """Count what is buffered for a stream in the connection's share of memory."""
        octets = len(stream.body) + len(stream.send_buffer)
        self.share.add(octets - stream.counted_octets)
        stream.counted_octets = octets

    def close(self, stream: Stream) -> None:
        """Remove a stream and release its memory."""
        del self.open[stream.stream_id]
        if len(self.open) >= UNCOUNTED_STREAMS:
            self.share.add(-STREAM_OCTETS)
        if stream.counted_octets:
            self.share.add(-stream.counted_octets)
        if self.blocked:
            self.blocked.pop(stream.stream_id, None)
        stream.close()

    def cancel(self, stream: Stream) -> None:
        """Close a stream whose peer no longer waits for the response."""
        self.close(stream)
        if stream.on_cancel is not None:
            stream.on_cancel()

    def record_reset(self, stream_id: int) -> None:
        """We reset this stream: ignore the frames that the peer sent before it received the RST_STREAM."""
        self._reset[stream_id] = None
        if len(self._reset) > _MAX_REMEMBERED_RESETS:
            del self._reset[next(iter(self._reset))]

    def is_idle(self, stream_id: int) -> bool:
        """Whether the client has not opened it. The client opens odd ones, and we open none."""
        return not stream_id & 1 or stream_id > self.last_stream_id

    def require_not_idle(self, stream_id: int) -> None:
        """Most frames must not be sent on an idle stream (section 5.1).

        Raises:
            Http2ConnectionError: when it is idle.
        """
        if self.is_idle(stream_id):
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame on an idle stream")

    def require_ignorable(self, stream_id: int) -> None:
        """A frame on a stream that is not open is ignored if the peer may have sent it before our RST_STREAM or GOAWAY.

        Raises:
            Http2ConnectionError: when it may not.
        """
        if stream_id > self.max_stream_id or stream_id in self._reset:
            return
        self.require_not_idle(stream_id)
        raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, "a frame on a closed stream")

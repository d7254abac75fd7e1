"""Flow control (RFC 9113 section 5.2): the windows of a connection, in both directions.

The windows of a stream are attributes of ``Stream``. This module decides how many octets may pass, and what
WINDOW_UPDATE and SETTINGS_INITIAL_WINDOW_SIZE change; which responses can go out as a consequence is decided in
``response.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_service.transport.http2 import frames
from authz_service.transport.http2.frames import (
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    ErrorCode,
    Http2ConnectionError,
    Http2StreamError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.transport.http2.stream import Stream

DEFAULT_WINDOW: Final = 65_535  # octets, of connections and streams (section 6.9.2)
STREAM_WINDOW: Final = 1 << 20  # what we let the peer send ahead of our reading
CONNECTION_WINDOW: Final = 16 << 20


class FlowControl:
    """The windows of one connection, and of the streams that it opens next."""

    def __init__(self, out: list[bytes]) -> None:
        """``out`` takes the frames to send."""
        self._out = out
        self.send_window = DEFAULT_WINDOW
        self.initial_send_window = DEFAULT_WINDOW  # of a new stream
        self.receive_window = CONNECTION_WINDOW

    # Requests.

    def receive(self, size: int) -> None:
        """The payload of a DATA frame, padding included, uses up the connection's window.

        Raises:
            Http2ConnectionError: when it is larger than that.
        """
        if size > self.receive_window:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the connection's window")
        self.receive_window -= size
        if self.receive_window <= CONNECTION_WINDOW // 2:
            self._out.append(frames.window_update(0, CONNECTION_WINDOW - self.receive_window))
            self.receive_window = CONNECTION_WINDOW

    def replenish(self, stream: Stream) -> None:
        """Let the peer send more of an unfinished request, once half of the stream's window is used up."""
        if stream.receive_window <= STREAM_WINDOW // 2:
            self._out.append(frames.window_update(stream.stream_id, STREAM_WINDOW - stream.receive_window))
            stream.receive_window = STREAM_WINDOW

    # Responses.

    def send_buffered(self, stream: Stream) -> None:
        """Send as much of a stream's buffer as both windows allow."""
        buffer = stream.send_buffer
        while buffer and (size := min(len(buffer), MAX_FRAME_SIZE, self.send_window, stream.send_window)) > 0:
            self._out.append(frames.frame(frames.DATA, 0, stream.stream_id, bytes(buffer[:size])))
            del buffer[:size]
            self.send_window -= size
            stream.send_window -= size

    def widen(self, increment: int) -> None:
        """WINDOW_UPDATE on the connection.

        Raises:
            Http2ConnectionError: when the increment is 0, or the window would become too large.
        """
        if increment == 0:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
        self.send_window += increment
        if self.send_window > MAX_WINDOW:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window exceeds 2^31-1")

    def resize(self, initial_send_window: int, streams: Iterable[Stream]) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE changes the windows of open streams by the same amount (section 6.9.2).

        Raises:
            Http2ConnectionError: when one would become too large. It may become negative.
        """
        change = initial_send_window - self.initial_send_window
        self.initial_send_window = initial_send_window
        for stream in streams:
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window exceeds 2^31-1")


def require_increment(increment: int) -> None:
    """WINDOW_UPDATE on a stream.

    Raises:
        Http2StreamError: when the increment is 0.
    """
    if increment == 0:
        raise Http2StreamError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")


def widen_stream(stream: Stream, increment: int) -> None:
    """WINDOW_UPDATE on an open stream.

    Raises:
        Http2StreamError: when its window would become too large.
    """
    stream.send_window += increment
    if stream.send_window > MAX_WINDOW:
        raise Http2StreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window exceeds 2^31-1")

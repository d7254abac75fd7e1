"""Responses: how they become frames, and how they go out under the peer's flow control.

Invariants: every request is answered, by the service wherever it has an answer. If the stream must be reset, the reset
follows the response (RFC 9113 section 8.1.1). Everything that was received together is answered with one write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.transport.http2 import flow_control, frames
from authz_service.transport.http2.frames import MAX_FRAME_SIZE, MAX_WINDOW, ErrorCode, Http2StreamError
from authz_service.transport.http2.grpc_framing import (
    DATA_START,
    PREFIX_BYTES,
    RESPONSE,
    RESPONSE_START,
    SUCCESS,
    SUCCESS_START,
    Status,
    http_response,
    prefixed,
    trailers,
)
from authz_service.transport.http2.limits import MAX_RESETS
from authz_service.transport.http2.service import Unserved
from authz_service.transport.http2.stream import NO_LAST_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.transport.http2.flow_control import FlowControl
    from authz_service.transport.http2.limits import Limits
    from authz_service.transport.http2.service import Service
    from authz_service.transport.http2.stream import Stream, StreamTable

_OK = 200
_NOT_GRPC = b"This is a gRPC service.\n"


class ResponseWriter:
    """The sending half of one connection."""

    def __init__(
        self,
        service: Service,
        streams: StreamTable,
        flow_control: FlowControl,
        limits: Limits,
        out: list[bytes],
        on_drained_stream: Callable[[], None],
    ) -> None:
        """``out`` holds the frames of the next write.

        ``on_drained_stream`` is called when a stream was closed after the final GOAWAY.
        """
        self._service = service
        self._streams = streams
        self._flow_control = flow_control
        self._limits = limits
        self._out = out
        self._on_drained_stream = on_drained_stream
        self._write: Callable[[bytes], None] = _discard
        self.corked = False  # while the frames of one read are handled

    def start(self, write: Callable[[bytes], None]) -> None:
        """Write to this from now on."""
        self._write = write

    def stop(self) -> None:
        """Write to nothing from now on."""
        self._write = _discard

    def flush(self) -> None:
        """Write the frames, unless more are about to follow."""
        if self._out and not self.corked:
            self.write_out()

    def write_out(self) -> None:
        """Write the frames."""
        out = self._out
        if out:
            octets = b"".join(out)
            out.clear()
            self._write(octets)

    # Responses.

    def answer(self, stream: Stream, message: bytes) -> None:
        """Headers, one message and success: at once where the windows allow it."""
        size = len(message) + PREFIX_BYTES
        flow = self._flow_control
        if (
            size <= MAX_FRAME_SIZE
            and size <= flow.send_window
            and size <= stream.send_window
            and not stream.headers_sent
        ):
            stream_id = stream.stream_id.to_bytes(4, "big")
            flow.send_window -= size
            self._out += (
                RESPONSE_START, stream_id, RESPONSE,
                size.to_bytes(3, "big"), DATA_START, stream_id, b"\0", len(message).to_bytes(4, "big"), message,
                SUCCESS_START, stream_id, SUCCESS,
            )  # fmt: skip
            self._finish(stream)
        else:
            self._buffer(stream, message)
            if stream.open:
                self.end(stream, SUCCESS)
        if not self.corked:
            self.write_out()

    def send(self, stream: Stream, message: bytes) -> None:
        """Headers unless they have been sent, and a message."""
        self._buffer(stream, message)
        self.flush()

    def refuse(self, stream: Stream, status: Status, message: str) -> None:
        """A gRPC status other than OK: in trailers, or in a trailers-only response."""
        block = trailers(status, message)
        self.end(stream, block if stream.headers_sent else RESPONSE + block)
        self.flush()

    def refuse_http(self, stream: Stream) -> None:
        """An HTTP status, for a request that is not gRPC."""
        block = http_response(stream.headers.http_status)
        self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.stream_id, block))
        stream.send_buffer += _NOT_GRPC
        stream.end_frame = frames.frame(frames.DATA, frames.END_STREAM, stream.stream_id)
        self._release(stream)
        self.flush()

    def reject(self, stream: Stream, why: Unserved, reset_code: ErrorCode | None) -> None:
        """Answer a request that is not served, then reset its stream if there is a code for that.

        A stream that is reset is closed now, even if the windows do not let the answer out.
        """
        if stream.on_cancel is not None:
            stream.on_cancel()
        stream.reset_code = reset_code
        if stream.end_frame is None:
            self._deny(stream, why)
        if reset_code is not None and stream.stream_id in self._streams.open:
            self._finish(stream)

    def reset(self, stream_id: int, error: Http2StreamError) -> None:
        """A stream error (section 5.4.2).

        Raises:
            Http2ConnectionError: when there were too many.
        """
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self.reject(stream, Unserved(str(error)), error.code)
        else:
            self._rst_stream(stream_id, error.code)
        self._limits.count_reset()

    def end(self, stream: Stream, block: bytes) -> None:
        """End the response with this field block, behind what is buffered."""
        flags = frames.END_HEADERS | frames.END_STREAM
        stream.end_frame = frames.frame(frames.HEADERS, flags, stream.stream_id, block)
        self._release(stream)

    # Flow control.

    def window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """A WINDOW_UPDATE frame (section 6.9)."""
        self._limits.count_frame()
        frames.require_size(payload, frames.CODE_BYTES, "WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream_id == 0:
            self._flow_control.widen(increment)
            self._release_blocked()
            return
        self._streams.require_not_idle(stream_id)
        flow_control.require_increment(increment)
        if (stream := self._streams.open.get(stream_id)) is not None:
            flow_control.widen_stream(stream, increment)
            if stream_id in self._streams.blocked:
                self._release(stream)

    def resize_windows(self, initial_send_window: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE."""
        if initial_send_window != self._flow_control.initial_send_window:
            streams = self._streams.open
            self._limits.count_visits(len(streams))
            self._flow_control.resize(initial_send_window, streams.values())
            self._release_blocked()

    def _release_blocked(self) -> None:
        """Send what the windows allow now of every blocked stream."""
        blocked = self._streams.blocked
        self._limits.count_visits(len(blocked))
        for stream in list(blocked.values()):
            if self._flow_control.send_window <= 0:
                return
            self._release(stream)

    def _release(self, stream: Stream) -> None:
        """Send what the windows allow of one stream, and finish it if that is all."""
        self._flow_control.send_buffered(stream)
        if stream.send_buffer or stream.counted_octets:
            self._streams.count_buffers(stream)
        if stream.send_buffer:
            self._streams.blocked[stream.stream_id] = stream
        elif stream.end_frame is not None:
            self._out.append(stream.end_frame)
            self._finish(stream)
        else:
            was_blocked = self._streams.blocked.pop(stream.stream_id, None) is not None
            if was_blocked and stream.on_writable is not None and not stream.remote_closed:
                stream.on_writable(stream)

    # One stream.

    def _buffer(self, stream: Stream, message: bytes) -> None:
        if not stream.headers_sent:
            stream.headers_sent = True
            self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.stream_id, RESPONSE))
        has_room = self._streams.share.has_room(len(message) + PREFIX_BYTES)
        stream.send_buffer += prefixed(message)
        self._release(stream)
        if stream.send_buffer and not has_room:  # the peer's windows hold back too much
            stream.reset_code = ErrorCode.ENHANCE_YOUR_CALM
            self._finish(stream)

    def _deny(self, stream: Stream, why: Unserved) -> None:
        if not stream.headers_sent and (denial := self._service.denial(stream, why)) is not None:
            self.answer(stream, denial)
        elif stream.headers.http_status != _OK and not stream.headers_sent:
            self.refuse_http(stream)
        else:
            self.refuse(stream, why.status, why.cause)

    def _finish(self, stream: Stream) -> None:
        """Close the stream, whose response is complete or given up."""
        streams, limits = self._streams, self._limits
        streams.close(stream)
        if stream.reset_code is not None:
            self._rst_stream(stream.stream_id, stream.reset_code)
        elif limits.resets_left < MAX_RESETS:
            limits.resets_left += 1
        if streams.max_stream_id != NO_LAST_STREAM:
            self._on_drained_stream()

    def _rst_stream(self, stream_id: int, code: ErrorCode) -> None:
        self._out.append(frames.rst_stream(stream_id, code))
        self._streams.record_reset(stream_id)


def _discard(_octets: bytes) -> None:
    """Drops octets before there is a socket."""

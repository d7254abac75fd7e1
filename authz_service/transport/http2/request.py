"""Requests: HEADERS, CONTINUATION and DATA frames become messages that are served.

Invariants: field blocks are decoded in the order of their arrival, and no other frame comes between their parts. A
request that will not be served is no longer buffered, but it is received until it ends, then answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from authz_service.transport.http2 import frames
from authz_service.transport.http2.flow_control import STREAM_WINDOW
from authz_service.transport.http2.frames import MAX_FRAME_SIZE, ErrorCode, Http2ConnectionError, Http2StreamError
from authz_service.transport.http2.grpc_framing import PREFIX_BYTES, SUCCESS, Status, message_length
from authz_service.transport.http2.headers import HeadersReader, RequestHeaders, require_trailers
from authz_service.transport.http2.limits import (
    FIELD_BLOCK_OCTETS,
    FRAMES_PER_REQUEST,
    MAX_CONTINUATIONS,
    MAX_FIELD_BLOCK,
    MAX_WORK,
    REQUEST_WORK,
    UNCOUNTED_STREAMS,
)
from authz_service.transport.http2.service import (
    COMPRESSED,
    COMPRESSED_WITHOUT_ENCODING,
    MESSAGE_TOO_LONG,
    NOT_ONE_MESSAGE,
    NOT_POST,
    OUT_OF_MEMORY,
    REQUEST_TIMED_OUT,
    WRONG_CONTENT_LENGTH,
    Unserved,
)
from authz_service.transport.http2.stream import Stream
from authz_service.transport.http2.timeouts import REQUEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.transport.http2.compression import FieldBlock
    from authz_service.transport.http2.flow_control import FlowControl
    from authz_service.transport.http2.limits import Limits
    from authz_service.transport.http2.response import ResponseWriter
    from authz_service.transport.http2.service import Service
    from authz_service.transport.http2.stream import StreamTable
    from authz_service.transport.http2.timeouts import Timers

_METHOD_NOT_ALLOWED = 405


class _IncompleteBlock(NamedTuple):
    """A field block of which CONTINUATION frames must follow."""

    stream_id: int
    flags: int
    block: FieldBlock
    since: int


class RequestReader:
    """The receiving half of one connection, as far as requests are concerned."""

    def __init__(
        self,
        service: Service,
        streams: StreamTable,
        flow_control: FlowControl,
        limits: Limits,
        timers: Timers,
        writer: ResponseWriter,
        pause: Callable[[], None],
    ) -> None:
        """``pause`` is called when enough was done in this turn."""
        self._service = service
        self._streams = streams
        self._flow_control = flow_control
        self._limits = limits
        self._timers = timers
        self._writer = writer
        self._pause = pause
        self._headers_reader = HeadersReader()
        self.incomplete: _IncompleteBlock | None = None
        self._block_octets = self._block_frames = 0  # of that block

    # Field blocks.

    def headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A HEADERS frame (section 6.2)."""
        if not stream_id & 1:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that a client cannot open")
        if flags & (frames.PADDED | frames.PRIORITY_FLAG):
            payload = frames.without_priority(frames.without_padding(payload, flags), flags, stream_id)
        if not flags & frames.END_HEADERS:
            self._streams.share.add(FIELD_BLOCK_OCTETS)
            self.incomplete = _IncompleteBlock(stream_id, flags, self._headers_reader.begin(), self._timers.now)
            self._block_octets = self._block_frames = 0
            self._append(self.incomplete.block, payload)
        elif stream_id > self._streams.last_stream_id:
            self._open(flags, stream_id, self._headers_reader.read(payload))
            limits = self._limits
            limits.work += REQUEST_WORK + len(payload)
            if limits.work > MAX_WORK:
                self._pause()
        else:
            self._trailers(flags, stream_id, self._headers_reader.decode(payload))

    def continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A CONTINUATION frame (section 6.10)."""
        incomplete = self.incomplete
        if incomplete is None:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without an incomplete field block")
        self._append(incomplete.block, payload)
        if flags & frames.END_HEADERS:
            self.incomplete = None
            self._streams.share.add(-FIELD_BLOCK_OCTETS)
            block = self._headers_reader.finish(incomplete.block)
            if stream_id > self._streams.last_stream_id:
                self._open(incomplete.flags, stream_id, self._headers_reader.headers_of(block))
            else:
                self._trailers(incomplete.flags, stream_id, block)

    def _append(self, block: FieldBlock, fragment: bytes) -> None:
        self._block_octets += len(fragment)
        self._block_frames += 1
        if self._block_octets > MAX_FIELD_BLOCK or self._block_frames > MAX_CONTINUATIONS:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a field block is too long")
        block.feed(fragment)
        self._limits.work += len(fragment)
        if self._limits.work > MAX_WORK:
            self._pause()

    def _open(self, flags: int, stream_id: int, headers: RequestHeaders) -> None:
        streams = self._streams
        streams.last_stream_id = stream_id
        if stream_id > streams.max_stream_id:
            return  # after the final GOAWAY, by which the peer knows that it is not served
        self._limits.frames_left += FRAMES_PER_REQUEST
        flow = self._flow_control
        stream = Stream(self._writer, stream_id, headers, flow.initial_send_window, STREAM_WINDOW, self._timers.now)
        if headers.error:
            stream.unserved = Unserved(headers.error)
        streams.open[stream_id] = stream
        if len(streams.open) > UNCOUNTED_STREAMS and not streams.has_room():
            self._writer.reject(stream, OUT_OF_MEMORY, ErrorCode.REFUSED_STREAM)
        elif flags & frames.END_STREAM:
            self._complete(stream, b"")

    def _trailers(self, flags: int, stream_id: int, block: FieldBlock) -> None:
        self._limits.count_frame()
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.require_ignorable(stream_id)
        elif stream.remote_closed:
            raise Http2StreamError(ErrorCode.STREAM_CLOSED, "HEADERS after the end of the request")
        elif not flags & frames.END_STREAM:
            raise Http2StreamError(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the request")
        else:
            require_trailers(block)
            self._complete(stream, b"")

    def priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """A PRIORITY frame (section 6.3), which is deprecated and ignored."""
        self._limits.count_frame()
        if stream_id == 0:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on the connection")
        if len(payload) != frames.PRIORITY_BYTES:
            error = Http2ConnectionError if self._streams.is_idle(stream_id) else Http2StreamError  # section 5.1
            raise error(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} octets instead of 5")
        frames.require_other_dependency(stream_id, payload)

    # Bodies.

    def data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A DATA frame (section 6.1)."""
        size = len(payload)
        self._flow_control.receive(size)
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._limits.count_frame()
            self._streams.require_ignorable(stream_id)
            return
        if stream.remote_closed:
            raise Http2StreamError(ErrorCode.STREAM_CLOSED, "DATA after the end of the request")
        if size > stream.receive_window:
            raise Http2StreamError(ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the stream's window")
        stream.receive_window -= size
        if flags & frames.PADDED:
            payload = frames.without_padding(payload, flags)
        stream.body_octets += len(payload)
        if flags & frames.END_STREAM:
            self._complete(stream, payload)
        else:
            self._buffer(stream, payload)

    def _buffer(self, stream: Stream, payload: bytes) -> None:
        """Buffer a part of a request, unless the request will not be served anyway.

        A request that exceeds the memory will not be: to stop the peer instead could prevent it from ending any.
        """
        if stream.unserved is None and stream.body_octets > self._service.max_message_bytes + PREFIX_BYTES:
            stream.unserved = MESSAGE_TOO_LONG
        if stream.unserved is None and not self._streams.share.has_room(len(payload)):
            stream.unserved = OUT_OF_MEMORY
        if stream.unserved is None:
            stream.body += payload
        else:
            stream.body.clear()
        self._streams.count_buffers(stream)
        if len(payload) < MAX_FRAME_SIZE // 2:
            self._limits.count_frame()  # a flood of small frames is a flood, too
        self._flow_control.replenish(stream)
        if stream.headers.path in self._service.streaming_paths:
            self.serve_streamed(stream)

    # Messages.

    def _complete(self, stream: Stream, last: bytes) -> None:
        """The request has ended with this payload: serve it, or answer why it cannot be served."""
        headers, octets = stream.headers, last
        stream.remote_closed = True
        stream.reset_code = ErrorCode.PROTOCOL_ERROR if headers.malformed else None
        if stream.body:
            octets = b"".join((stream.body, last))
            stream.body.clear()
            self._streams.count_buffers(stream)
            if len(octets) > self._service.max_message_bytes + PREFIX_BYTES:
                stream.unserved = MESSAGE_TOO_LONG
        if stream.unserved is not None:
            self._writer.reject(stream, stream.unserved, stream.reset_code)
        elif headers.content_length is not None and headers.content_length != stream.body_octets:
            self._writer.reject(stream, WRONG_CONTENT_LENGTH, ErrorCode.PROTOCOL_ERROR)
        elif headers.http_status == _METHOD_NOT_ALLOWED:
            self._writer.reject(stream, NOT_POST, stream.reset_code)
        elif int.from_bytes(octets[:PREFIX_BYTES], "big") == len(octets) - PREFIX_BYTES:  # one message, uncompressed
            self._service.serve(stream, octets[PREFIX_BYTES:])
        elif stream.streamed and not octets:
            self._writer.end(stream, SUCCESS)
        else:
            self._writer.reject(stream, _why_no_message(octets, headers), stream.reset_code)

    def serve_streamed(self, stream: Stream) -> None:
        """Serve every message of an unfinished request that is complete, as long as no response waits for a window."""
        body = stream.body
        if stream.open and stream.unserved is not None:
            stream.refuse(Status.UNIMPLEMENTED, stream.unserved.cause)
        while stream.open and not stream.send_buffer and len(body) >= PREFIX_BYTES:
            end = PREFIX_BYTES + message_length(body)
            if body[0] != 0 or end - PREFIX_BYTES > self._service.max_message_bytes:
                stream.refuse(Status.UNIMPLEMENTED, "a message that is compressed or too long")
            elif len(body) < end:
                break
            else:
                stream.on_writable = self.serve_streamed
                self._limits.count_frame()  # a response may be much longer than the message
                message = bytes(body[PREFIX_BYTES:end])
                del body[:end]
                self._service.serve(stream, message)
        if stream.stream_id in self._streams.open:
            stream.body_octets = len(body)
            self._streams.count_buffers(stream)

    def reject_overdue(self) -> None:
        """Deny the requests that have not ended in time. Streaming ones may take as long as they like."""
        for stream in list(self._streams.open.values()):
            if not (stream.remote_closed or stream.streamed) and self._timers.now - stream.opened_at > REQUEST_TIMEOUT:
                self._writer.reject(stream, REQUEST_TIMED_OUT, ErrorCode.NO_ERROR)


def _why_no_message(octets: bytes, headers: RequestHeaders) -> Unserved:
    if message_length(octets) != len(octets) - PREFIX_BYTES:
        return NOT_ONE_MESSAGE
    return COMPRESSED if octets[0] == 1 and headers.encoding != b"identity" else COMPRESSED_WITHOUT_ENCODING

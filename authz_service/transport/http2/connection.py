"""One HTTP/2 connection, seen from the server (RFC 9113).

Law: ``receive`` takes whatever bytes come and never raises. What it wants to say goes to ``write``, once for all the
frames that it was given. A peer that breaks the protocol, or makes work without end, ends its own connection and no
other.

Time is told by ``tick``, once a second: every limit on how much a peer may ask for is for the time between two of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from authz_service.transport.http2 import frames
from authz_service.transport.http2.call import Call
from authz_service.transport.http2.frames import (
    FRAME_BYTES,
    HEADER,
    HEADER_BYTES,
    MOST_STREAM,
    MOST_WINDOW,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from authz_service.transport.http2.headers import (
    MOST_LIST,
    RESPONSE,
    HeaderBlocks,
    Status,
    not_grpc,
    require_trailers,
    trailers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container

# What the peer may have in flight.
MOST_STREAMS: Final = 1000  # at once; Envoy opens another connection for more
STREAM_WINDOW: Final = 1 << 20  # octets of a request ahead of our reading
CONNECTION_WINDOW: Final = 16 << 20
MOST_KEPT: Final = 64 << 20  # octets of requests that are not there in full; beyond it the beginning of each

# What a peer may do between two ticks beside calling. A proxy does a few of each a call; each call lends it some more.
MOST_FRAMES: Final = 2000  # that are no call: WINDOW_UPDATE, PING, SETTINGS, PRIORITY, empty DATA...
FRAMES_A_CALL: Final = 10
_LOOKS_A_FRAME = 100  # a frame that makes us look at every call counts once more for so many of them
# Of streams, by it or because of it (CVE-2023-44487, CVE-2025-8671). Each call that was answered lends one more.
MOST_RESETS: Final = 1000
MOST_CONTINUATIONS: Final = MOST_LIST // FRAME_BYTES + 100  # of one header block (CVE-2024-27316)

# In ticks.
QUIET: Final = 30  # after which a PING asks whether anybody is there, or a write must have gone on
GRACE: Final = 20  # in which it must be answered
OPENING: Final = 10  # for the preface and for a header block
REQUEST: Final = 60  # for the whole of a request
DRAINING: Final = 2  # between the announcement that it ends and the end of new streams

_RESPONSE = len(RESPONSE).to_bytes(3, "big") + bytes((frames.HEADERS, frames.END_HEADERS))
_SUCCESS = trailers(Status.OK)
_TRAILERS = len(_SUCCESS).to_bytes(3, "big") + bytes((frames.HEADERS, frames.END_HEADERS | frames.END_STREAM))
_UNKNOWN = frames.CONTINUATION + 1
_OK = 200
_DATA = bytes((frames.DATA, 0))
_ALIVE, _DRAIN = b"alive?\0\0", b"drain..."
_PREFIX = 5  # octets before a gRPC message: whether it is compressed, and its length
_PRIORITY_BYTES = 5
_CODE_BYTES, _PING_BYTES, _SETTING_BYTES = 4, 8, 6
_NOT_TOLD = MOST_STREAM + 1  # instead of the last stream that is served, as long as it may be any
_REMEMBERED_RESETS = 1000  # streams of which frames may still be on their way when we have ended them


class Service(Protocol):
    """Who answers."""

    @property
    def max_message_bytes(self) -> int:
        """How much of a message is worth keeping. Of a longer one a part that is longer than this is handed over."""

    @property
    def streamed(self) -> Container[bytes]:
        """The paths of calls that may have several messages, each of which is served as it comes."""

    def serve(self, call: Call, message: bytes) -> None:
        """Answer a call, now or later. Must not raise."""


class _Block:
    """A header block of which more is to come."""

    __slots__ = ("count", "flags", "parts", "since", "size", "stream")

    def __init__(self, stream: int, flags: int, part: bytes, since: int) -> None:
        self.stream = stream
        self.flags = flags
        self.parts = [part]
        self.size = len(part)
        self.count = 0
        self.since = since


class Connection:
    """What a peer's bytes mean."""

    def __init__(self, service: Service, closed: Callable[[str], None]) -> None:
        """``closed`` is called once, with the reason, when nothing more is to be read or written."""
        self._service = service
        self._closed = closed
        self._headers = HeaderBlocks()
        self._calls: dict[int, Call] = {}
        self._reset: dict[int, None] = {}  # streams that we have ended before the peer did, in order
        self._last_stream = 0
        self._out: list[bytes] = []
        self._buffer = b""
        self._greeted = False  # whether the preface has come
        self._set = False  # whether the first SETTINGS has
        self._block: _Block | None = None
        self._partial: int | None = None  # since which tick a frame has been there in part
        self._receiving = False
        self._window = 65_535  # octets that we may send
        self._initial_window = 65_535  # the same of a stream that begins
        self._held: dict[int, Call] = {}  # those whose answers flow control holds back
        self._receive_window = CONNECTION_WINDOW  # octets that the peer may send
        self._kept = 0  # octets of requests of which the rest has not come
        self._ticks = 0
        self._heard = 0  # at which tick
        self._asked = False  # whether anybody is there
        self._drain: int | None = None  # at which tick it began
        self._most_stream = _NOT_TOLD  # the last one that is served
        self._frames_left, self._resets_left = MOST_FRAMES, MOST_RESETS
        self.over = False
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data, self._head, self._priority, self._rst_stream, self._settings, self._push_promise, self._ping,
            self._goaway, self._window_update, self._continuation, self._unknown,
        )  # fmt: skip

    def start(self, write: Callable[[bytes], None]) -> None:
        """Say the server's preface (section 3.4)."""
        self._write = write
        self._out += (
            frames.settings(
                {
                    frames.SETTINGS_MAX_CONCURRENT_STREAMS: MOST_STREAMS,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: MOST_LIST,
                }
            ),
            frames.window_update(0, CONNECTION_WINDOW - 65_535),
        )
        self._flush()

    def receive(self, data: bytes) -> None:
        """Take what came."""
        if self.over:
            return
        self._heard, self._asked = self._ticks, False
        self._receiving = True
        try:
            self._frames(self._buffer + data if self._buffer else data)
        except ConnectionFault as fault:
            self._end(fault.code, str(fault))
        finally:
            self._receiving = False
        self._flush()

    def tick(self, *, writing: bool = False) -> None:
        """A second has passed. ``writing`` says that what was written has not gone out yet, so that nothing is read."""
        if self.over:
            return
        self._ticks += 1
        self._frames_left = MOST_FRAMES
        self._resets_left = min(self._resets_left + MOST_RESETS // 10, MOST_RESETS)
        silent = self._ticks - self._heard
        if not writing and (opening := self._opening()) is not None and self._ticks - opening > OPENING:
            self._end(ErrorCode.PROTOCOL_ERROR, "what was begun was not finished in time")
        elif silent > QUIET + GRACE:
            self._end(ErrorCode.NO_ERROR, "nobody reads what we write" if writing else "nobody is there")
        else:
            if silent > QUIET and not self._asked and not writing:
                self._asked = True
                self._out.append(frames.frame(frames.PING, 0, 0, _ALIVE))
            self._expire()
            if self._drain is not None and self._ticks - self._drain > DRAINING:
                self._drained()
        self._flush()

    def drain(self) -> None:
        """Take no new calls, and close when those in flight are answered (section 6.8).

        Said twice, since calls may be on their way that the peer made before it heard of it.
        """
        if self._drain is None and not self.over:
            self._drain = self._ticks
            self._out += (frames.goaway(MOST_STREAM, ErrorCode.NO_ERROR), frames.frame(frames.PING, 0, 0, _DRAIN))
            self._flush()

    def lost(self) -> None:
        """The peer is gone: whoever still works for it need not."""
        if not self.over:
            self.over = True
            self._cancel_all()

    # What comes in.

    def _frames(self, data: bytes) -> None:
        """Every frame that is there in full."""
        at, end = self._greeting(data), len(data)
        if not self._greeted:
            self._buffer = data
            return
        handlers = self._handlers
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, stream = HEADER.unpack_from(data, at)
            size = high << 16 | low
            if size > FRAME_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is too long")
            start = at + HEADER_BYTES
            if end - start < size:
                break
            at = start + size
            stream &= MOST_STREAM
            if self._block is not None or not self._set:
                self._in_turn(kind, stream)
            try:
                handlers[min(kind, _UNKNOWN)](flags, stream, data[start:at])
            except StreamFault as fault:
                self._reset_stream(stream, fault.code)
            if self.over:
                return
        self._buffer = data[at:] if at < end else b""
        if at == end:
            self._partial = None
        elif at or self._partial is None:
            self._partial = self._ticks

    def _greeting(self, data: bytes) -> int:
        """Where the frames begin: after the preface, if this is the connection's beginning."""
        if self._greeted:
            return 0
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        if len(data) < len(PREFACE):
            return 0
        self._greeted = True
        return len(PREFACE)

    def _in_turn(self, kind: int, stream: int) -> None:
        block = self._block
        if block is not None and (kind, stream) != (frames.CONTINUATION, block.stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if not self._set and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")

    def _head(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that no client may begin")
        if flags & (frames.PADDED | frames.PRIORITIZED):
            payload = frames.unpadded(payload, flags)
            if flags & frames.PRIORITIZED:
                if len(payload) < _PRIORITY_BYTES:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
                _require_other(stream, payload)
                payload = payload[_PRIORITY_BYTES:]
        if flags & frames.END_HEADERS:
            self._headers_done(flags, stream, payload)
        else:
            self._block = _Block(stream, flags, payload, self._ticks)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block goes on that has not begun")
        block.parts.append(payload)
        block.size += len(payload)
        block.count += 1
        if block.size > MOST_LIST or block.count > MOST_CONTINUATIONS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & frames.END_HEADERS:
            self._block = None
            self._headers_done(block.flags, stream, b"".join(block.parts))

    def _headers_done(self, flags: int, stream: int, block: bytes) -> None:
        if stream <= self._last_stream:
            self._trailers(flags, stream, block)
            return
        self._last_stream = stream
        try:
            head = self._headers.head(block)
        except StreamFault:
            self._frames_left += FRAMES_A_CALL
            raise
        if stream > self._most_stream:
            return  # after our last GOAWAY: the peer knows that it is not served
        if len(self._calls) >= MOST_STREAMS:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "more streams than are allowed")
        self._frames_left += FRAMES_A_CALL
        call = Call(self, stream, head, self._initial_window, STREAM_WINDOW, self._ticks)
        self._calls[stream] = call
        if flags & frames.END_STREAM:
            self._requested(call)

    def _trailers(self, flags: int, stream: int, block: bytes) -> None:
        self._tolerate()
        fields = self._headers.decoded(block)
        call = self._calls.get(stream)
        if call is None:
            self._after_the_end(stream)
        elif call.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        elif not flags & frames.END_STREAM:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "HEADERS amid a request")
        else:
            require_trailers(fields)
            self._requested(call)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._use_window(size)
        call = self._calls.get(stream)
        if call is None:
            self._tolerate()
            self._after_the_end(stream)
            return
        if call.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA after the end")
        if size > call.receive_window:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
        call.receive_window -= size
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, flags)
        if call.received < _PREFIX or self._worth_keeping(call):
            call.parts.append(payload)
            self._kept += len(payload)
        call.received += len(payload)
        if flags & frames.END_STREAM:
            self._requested(call)
        else:
            self._more_wanted(call, len(payload))

    def _worth_keeping(self, call: Call) -> bool:
        """A message that is too long is denied by who serves it, which needs no more of it than that.

        So is one for which no room is left: to hold the peer back instead could leave it unable to finish any.
        """
        return call.received <= self._service.max_message_bytes + _PREFIX and self._kept < MOST_KEPT

    def _use_window(self, size: int) -> None:
        if size > self._receive_window:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
        self._receive_window -= size
        if self._receive_window <= CONNECTION_WINDOW // 2:
            self._out.append(frames.window_update(0, CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW

    def _more_wanted(self, call: Call, size: int) -> None:
        if size < FRAME_BYTES // 2:
            self._tolerate()  # many small frames are as good as a flood
        if call.receive_window <= STREAM_WINDOW // 2:
            self._out.append(frames.window_update(call.stream, STREAM_WINDOW - call.receive_window))
            call.receive_window = STREAM_WINDOW
        if call.head.path in self._service.streamed:
            self._stream_in(call)

    def _stream_in(self, call: Call) -> None:
        """Serve every message that is there in full, as long as what was answered before has gone out."""
        data = b"".join(call.parts)
        kept = len(data)
        if call.open and kept < call.received:
            self.refuse(call, Status.UNIMPLEMENTED, "more calls than there is room for")
        while call.open and not call.to_send and len(data) >= _PREFIX:
            size = int.from_bytes(data[1:_PREFIX], "big")
            if data[0] != 0 or size > self._service.max_message_bytes:
                self.refuse(call, Status.UNIMPLEMENTED, "a message that is compressed or too long")
            elif len(data) < _PREFIX + size:
                break
            else:
                call.streamed = True
                self._tolerate()  # many small messages are as good as a flood, and ask for more than they are
                message, data = data[_PREFIX : _PREFIX + size], data[_PREFIX + size :]
                self._service.serve(call, message)
        if call.stream in self._calls:  # else it has been answered
            call.parts, call.received = [data], len(data)
            self._kept -= kept - call.received
        if call.open and call.received > self._service.max_message_bytes + _PREFIX:
            self.refuse(call, Status.UNIMPLEMENTED, "more messages than are answered")

    def _after_the_end(self, stream: int) -> None:
        """A frame of a stream that is no call any more, or not yet (section 5.1)."""
        if stream > self._most_stream or stream in self._reset:
            return  # it was on its way
        self._require_begun(stream)
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, "a frame of a stream that has ended")

    def _require_begun(self, stream: int) -> None:
        """The client begins the odd ones, and we none."""
        if not stream & 1 or stream > self._last_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that has not begun")

    def _requested(self, call: Call) -> None:
        """The request is there in full."""
        call.remote_closed = True
        head = call.head
        if head.content_length is not None and head.content_length != call.received:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "content-length is not the length")
        if head.http_status != _OK:
            self._refuse_http(call)
            return
        data = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
        call.parts.clear()
        self._kept -= len(data)
        if len(data) < call.received:  # cut, and it must not pass for whole if the limit has been raised meanwhile
            data = data.ljust(self._service.max_message_bytes + _PREFIX + 1, b"\0")
        if call.received < _PREFIX or int.from_bytes(data[1:_PREFIX], "big") != call.received - _PREFIX:
            if call.streamed and not data:
                self._end_with(call, _SUCCESS)
            else:
                self.refuse(call, Status.INTERNAL, "the request is not one whole message")
        elif data[0] == 0:
            self._service.serve(call, data[_PREFIX:])
        elif data[0] == 1 and head.encoding != b"identity":
            self.refuse(call, Status.UNIMPLEMENTED, "compressed messages are not read")
        else:
            self.refuse(call, Status.INTERNAL, "the message says that it is compressed, and not how")

    def _priority(self, _flags: int, stream: int, payload: bytes) -> None:
        self._tolerate()
        if stream == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != _PRIORITY_BYTES:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length")
        _require_other(stream, payload)

    def _rst_stream(self, _flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != _CODE_BYTES:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another length")
        self._require_begun(stream)
        call = self._calls.get(stream)
        if call is None:
            self._tolerate()
        else:
            self._count_reset()
            self._cancel(call)
            self._close_if_drained()

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._tolerate()
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % _SETTING_BYTES or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of another length")
        if flags & frames.ACK:
            if not self._set:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
            return
        self._set = True
        window = self._initial_window  # of several in one frame, the last one holds
        for at in range(0, len(payload), _SETTING_BYTES):
            name, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            _require_allowed(name, value)
            if name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
                window = value
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))  # before what it makes us send
        self._resize(window)

    def _resize(self, window: int) -> None:
        """Section 6.9.2: the windows of open streams change by as much as that of new ones."""
        change, self._initial_window = window - self._initial_window, window
        if change:
            self._frames_left -= len(self._calls) // _LOOKS_A_FRAME
            for call in self._calls.values():
                call.window += change
                if call.window > MOST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
            self._release()

    def _unknown(self, _flags: int, _stream: int, _payload: bytes) -> None:
        self._tolerate()  # section 4.1: ignored

    def _push_promise(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client pushes nothing")

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._tolerate()
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != _PING_BYTES:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of another length")
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAIN and self._drain is not None:
            self._drained()

    def _goaway(self, _flags: int, stream: int, payload: bytes) -> None:
        self._tolerate()
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 2 * _CODE_BYTES:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of another length")
        # It will begin no more streams, and closes when it has its answers.

    def _window_update(self, _flags: int, stream: int, payload: bytes) -> None:
        self._tolerate()
        if len(payload) != _CODE_BYTES:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another length")
        increment = int.from_bytes(payload, "big") & MOST_WINDOW
        if stream == 0:
            self._widen(increment)
        else:
            self._widen_stream(stream, increment)

    def _widen(self, increment: int) -> None:
        if increment == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self._window += increment
        if self._window > MOST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self._release()

    def _widen_stream(self, stream: int, increment: int) -> None:
        self._require_begun(stream)
        if increment == 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        if (call := self._calls.get(stream)) is not None:
            call.window += increment
            if call.window > MOST_WINDOW:
                raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
            if stream in self._held:
                self._release_of(call)

    # What goes out.

    def answer(self, call: Call, message: bytes) -> None:
        """Head, message and success, in one go where the windows allow it."""
        size = len(message) + _PREFIX
        if size <= FRAME_BYTES and size <= self._window and size <= call.window and not call.head_sent:
            stream = call.stream.to_bytes(4, "big")
            self._window -= size
            self._out += (
                _RESPONSE, stream, RESPONSE,
                size.to_bytes(3, "big"), _DATA, stream, b"\0", len(message).to_bytes(4, "big"), message,
                _TRAILERS, stream, _SUCCESS,
            )  # fmt: skip
            self._finish(call)
        else:
            self._queue(call, message)
            self._end_with(call, _SUCCESS)
        self._flush()

    def send(self, call: Call, message: bytes) -> None:
        """Head if it has not been sent, and a message."""
        self._queue(call, message)
        self._flush()

    def refuse(self, call: Call, status: Status, message: str) -> None:
        """A status that is no success, in trailers alone where nothing was sent before."""
        self._end_with(call, trailers(status, message) if call.head_sent else RESPONSE + trailers(status, message))
        self._flush()

    def _queue(self, call: Call, message: bytes) -> None:
        if not call.head_sent:
            call.head_sent = True
            self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, call.stream, RESPONSE))
        call.to_send += b"\0" + len(message).to_bytes(4, "big") + message
        self._release_of(call)

    def _end_with(self, call: Call, block: bytes) -> None:
        """End it with these trailers, after what is still to be sent."""
        call.ending = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, call.stream, block)
        self._release_of(call)

    def _refuse_http(self, call: Call) -> None:
        """Answer what is no gRPC as HTTP does."""
        self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, call.stream, not_grpc(call.head.http_status)))
        call.to_send += b"This is a gRPC service.\n"
        call.ending = frames.frame(frames.DATA, frames.END_STREAM, call.stream)
        self._release_of(call)

    def _release(self) -> None:
        """Send what was held back, as far as the windows have grown."""
        self._frames_left -= len(self._held) // _LOOKS_A_FRAME
        for call in list(self._held.values()):
            if self._window <= 0:
                return
            self._release_of(call)

    def _release_of(self, call: Call) -> None:
        held = call.to_send
        while held and (size := min(len(held), FRAME_BYTES, self._window, call.window)) > 0:
            self._out.append(frames.frame(frames.DATA, 0, call.stream, bytes(held[:size])))
            del held[:size]
            self._window -= size
            call.window -= size
        if held:
            self._held[call.stream] = call
        elif call.ending is None:
            if self._held.pop(call.stream, None) is not None and call.streamed and not call.remote_closed:
                self._stream_in(call)
        else:
            self._out.append(call.ending)
            self._finish(call)

    def _finish(self, call: Call) -> None:
        """Everything is said."""
        self._forget(call)
        if not call.remote_closed:  # section 8.1: the rest of the request is not wanted
            self._out.append(frames.reset(call.stream, ErrorCode.NO_ERROR))
            self._remember_reset(call.stream)
        if self._resets_left < MOST_RESETS:
            self._resets_left += 1
        if self._most_stream != _NOT_TOLD:
            self._close_if_drained()

    def _forget(self, call: Call) -> None:
        del self._calls[call.stream]
        if call.parts:
            self._kept -= sum(map(len, call.parts))
        if self._held:
            self._held.pop(call.stream, None)
        call.close()

    def _cancel(self, call: Call) -> None:
        self._forget(call)
        if call.cancelled is not None:
            call.cancelled()

    def _reset_stream(self, stream: int, code: ErrorCode) -> None:
        """End a stream because of what the peer did, which counts as if it had done so (CVE-2025-8671)."""
        self._out.append(frames.reset(stream, code))
        self._remember_reset(stream)
        if (call := self._calls.get(stream)) is not None:
            self._cancel(call)
        self._count_reset()
        self._close_if_drained()

    def _remember_reset(self, stream: int) -> None:
        self._reset[stream] = None
        if len(self._reset) > _REMEMBERED_RESETS:
            del self._reset[next(iter(self._reset))]

    def _count_reset(self) -> None:
        self._resets_left -= 1
        if self._resets_left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "streams are begun to be reset")

    def _tolerate(self) -> None:
        self._frames_left -= 1
        if self._frames_left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "frames without end that are no calls")

    # Its time, and its end.

    def _opening(self) -> int | None:
        """Since which tick something has been begun that must be finished soon."""
        if not self._set:
            return 0
        return self._partial if self._block is None else self._block.since

    def _expire(self) -> None:
        for call in list(self._calls.values()):
            if not (call.remote_closed or call.streamed) and self._ticks - call.opened > REQUEST:
                self._out.append(frames.reset(call.stream, ErrorCode.CANCEL))
                self._remember_reset(call.stream)
                self._cancel(call)

    def _drained(self) -> None:
        """What was on its way when the peer heard that we drain has come."""
        if self._most_stream == _NOT_TOLD:
            self._most_stream = self._last_stream
            self._out.append(frames.goaway(self._last_stream, ErrorCode.NO_ERROR))
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._most_stream != _NOT_TOLD and not self._calls and not self.over:
            self.over = True
            self._write_out()
            self._closed("drained")

    def _end(self, code: ErrorCode, why: str) -> None:
        self.over = True
        self._out.append(frames.goaway(min(self._last_stream, self._most_stream), code))
        self._write_out()
        self._cancel_all()
        self._closed(why)

    def _cancel_all(self) -> None:
        for call in list(self._calls.values()):
            self._cancel(call)

    def _flush(self) -> None:
        """Write what is to be said; amid frames that came together, when all of them have been read."""
        if self._out and not self._receiving:
            self._write_out()

    def _write_out(self) -> None:
        out, self._out = self._out, []
        if out:
            self._write(b"".join(out))


def _require_other(stream: int, priority: bytes) -> None:
    """A stream does not depend on itself (RFC 7540 section 5.3.1); beyond that, priorities say nothing to us."""
    if int.from_bytes(priority[:_CODE_BYTES], "big") & MOST_STREAM == stream:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")


def _require_allowed(name: int, value: int) -> None:
    """Section 6.5.2. What is not here may be anything: we index nothing, and our frames are never longer."""
    if name == frames.SETTINGS_ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
    if name == frames.SETTINGS_MAX_FRAME_SIZE and not FRAME_BYTES <= value < 1 << 24:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE that may not be")
    if name == frames.SETTINGS_INITIAL_WINDOW_SIZE and value > MOST_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")

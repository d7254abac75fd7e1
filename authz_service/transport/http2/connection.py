"""One HTTP/2 connection, seen from the server (RFC 9113).

Invariants: ``receive`` takes whatever bytes come and never raises. What it wants to say goes to ``write``, once for all
the frames that it was given. A peer that breaks the protocol, or makes work without end, ends its own connection and no
other.

A call is answered, whatever is wrong with it: by its service where that has an answer for it. If the protocol wants the
stream to be reset, that comes after the answer (RFC 9113 section 8.1.1). A connection is ended when it has lost its
meaning, and for work without end that no proxy makes: header fields, cancellations and numbers of calls, by which a
proxy passes on what its clients do, never count against it.

Time is told by ``tick``, once a second: every limit on how much a peer may ask for is for the time between two of them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from authz_service.transport.http2 import frames
from authz_service.transport.http2.call import (
    COMPRESSED,
    COMPRESSED_SOMEHOW,
    CONNECTION_ENDED,
    NO_ROOM,
    NOT_IN_TIME,
    NOT_ONE_MESSAGE,
    NOT_POST,
    TOO_LONG,
    WRONG_LENGTH,
    Call,
    Unserved,
)
from authz_service.transport.http2.compression import MAX_STRING, Block
from authz_service.transport.http2.frames import (
    FRAME_BYTES,
    HEADER,
    HEADER_BYTES,
    MAX_STREAM,
    MAX_WINDOW,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from authz_service.transport.http2.headers import (
    RESPONSE,
    Head,
    HeaderBlocks,
    Status,
    not_grpc,
    require_trailers,
    trailers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from authz_service.transport.http2.memory import Share

# What the peer may have in flight.
MAX_STREAMS: Final = 1000  # at once; Envoy opens another connection for more
STREAM_WINDOW: Final = 1 << 20  # octets of a request ahead of our reading
CONNECTION_WINDOW: Final = 16 << 20
FREE_STREAMS: Final = 64  # those beyond count by what they take, as what they bring does; see memory.py
STREAM_OCTETS: Final = 1024
_BLOCK_OCTETS = 2 * MAX_STRING  # of a header block that comes in parts

# What a peer may do between two ticks beside calling. A proxy does a few of each a call; each call lends it some more.
MAX_FRAMES: Final = 2000  # that are no call: WINDOW_UPDATE, PING, SETTINGS, PRIORITY, empty DATA...
FRAMES_A_CALL: Final = 10
_LOOKS_A_FRAME = 100  # a frame that makes us look at every call counts once more for so many of them
# Of streams that we reset because it broke the protocol (CVE-2025-8671). Each call that was answered lends one more.
MAX_RESETS: Final = 1000
# Of one header block (CVE-2024-27316): beyond the 8 MiB of a client's headers that Envoy can be made to take.
MAX_HEADER_BLOCK: Final = 16 << 20
MAX_CONTINUATIONS: Final = MAX_HEADER_BLOCK // FRAME_BYTES + 100

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
_OK, _NOT_ALLOWED = 200, 405
_DATA = bytes((frames.DATA, 0))
_ALIVE, _DRAIN = b"alive?\0\0", b"drain..."
_PREFIX = 5  # octets before a gRPC message: whether it is compressed, and its length
_PRIORITY_BYTES = 5
_CODE_BYTES, _PING_BYTES, _SETTING_BYTES = 4, 8, 6
_NOT_TOLD = MAX_STREAM + 1  # instead of the last stream that is served, as long as it may be any
_CALL_WORK, _MAX_WORK = 256, 32 << 10  # of one turn: a hundred calls, or so many octets of header blocks
_REMEMBERED_RESETS = 1000  # streams of which frames may still be on their way when we have ended them


class Service(Protocol):
    """Who answers."""

    @property
    def max_message_bytes(self) -> int:
        """How long a message may be for which room is made. One that comes in a single frame needs none."""

    @property
    def streamed(self) -> Container[bytes]:
        """The paths of calls that may have several messages, each of which is served as it comes."""

    def serve(self, call: Call, message: bytes) -> None:
        """Answer a call, now or later. Must not raise."""

    def denial(self, call: Call, why: Unserved) -> bytes | None:
        """The message that answers a call which is not served; None where only a status can. Must not raise."""


class End(StrEnum):
    """Why we end a connection."""

    DRAINED = "drained"  # as we were asked to
    NOT_HTTP2 = "not_http2"
    PROTOCOL_ERROR = "protocol_error"
    FLOOD = "flood"  # work without end
    UNFINISHED = "unfinished"  # something that it began and did not finish
    IDLE = "idle"  # it does not answer, or does not read what we answer
    DISPLACED = "displaced"  # by others, as there are too many


class _Incoming(NamedTuple):
    """A header block of which more is to come."""

    stream: int
    flags: int
    block: Block
    since: int


class Connection:
    """What a peer's bytes mean."""

    def __init__(
        self, service: Service, share: Share, closed: Callable[[End, str], None], yielded: Callable[[], None]
    ) -> None:
        """``closed`` is called once, with the reason and the cause, when nothing more is to be read or written.

        ``yielded`` is called when so much was done that others should have their turn, before ``resume`` goes on.
        """
        self._service = service
        self._share = share
        self._closed = closed
        self._yielded = yielded
        self._headers = HeaderBlocks()
        self._calls: dict[int, Call] = {}
        self._reset: dict[int, None] = {}  # streams that we have ended before the peer did, in order
        self._last_stream = 0
        self._out: list[bytes] = []
        self._buffer = b""
        self._greeted = False  # whether the preface has come
        self._set = False  # whether the first SETTINGS has
        self._block: _Incoming | None = None
        self._block_octets = self._block_frames = 0
        self._partial: int | None = None  # since which tick a frame has been there in part
        self._receiving = False
        self._window = 65_535  # octets that we may send
        self._initial_window = 65_535  # the same of a stream that begins
        self._held: dict[int, Call] = {}  # those whose answers flow control holds back
        self._receive_window = CONNECTION_WINDOW  # octets that the peer may send
        self._ticks = 0
        self._heard = 0  # at which tick
        self._asked = False  # whether anybody is there
        self._drain: int | None = None  # at which tick it began
        self._most_stream = _NOT_TOLD  # the last one that is served
        self._frames_left, self._resets_left = MAX_FRAMES, MAX_RESETS
        self.over = False
        self.stopped = False  # whether nothing is taken, now or any more
        self._work = 0  # done in this turn
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
                    frames.SETTINGS_MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    # What we can take in, not what we read: a longer list is answered here, and must not fail there.
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: MAX_HEADER_BLOCK,
                }
            ),
            frames.window_update(0, CONNECTION_WINDOW - 65_535),
        )
        self._flush()

    def receive(self, data: bytes) -> None:
        """Take what came."""
        if self.stopped:
            if not self.over:
                self._buffer += data
            return
        self._heard, self._asked = self._ticks, False
        self._receiving = True
        self._work = 0
        try:
            self._frames(self._buffer + data if self._buffer else data)
        except ConnectionFault as fault:
            self._end(fault.code, self._reason_of(fault), str(fault))
        finally:
            self._receiving = False
        self._flush()

    def stop(self) -> None:
        """Take nothing for a while."""
        self.stopped = True

    def resume(self) -> None:
        """Take what has come meanwhile."""
        if not self.over:
            self.stopped = False
            self.receive(b"")

    @property
    def waiting(self) -> int:
        """Octets that have come and were not taken."""
        return len(self._buffer)

    def tick(self, *, writing: bool = False) -> None:
        """A second has passed. ``writing`` says that what was written has not gone out yet, so that nothing is read."""
        if self.over:
            return
        self._ticks += 1
        self._frames_left = MAX_FRAMES
        self._resets_left = min(self._resets_left + MAX_RESETS // 10, MAX_RESETS)
        silent = self._ticks - self._heard
        if not writing and (opening := self._opening()) is not None and self._ticks - opening > OPENING:
            self._end(ErrorCode.PROTOCOL_ERROR, End.UNFINISHED, "what was begun was not finished in time")
        elif silent > QUIET + GRACE:
            self._end(ErrorCode.NO_ERROR, End.IDLE, "nobody reads what we write" if writing else "nobody is there")
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
            self._out += (frames.goaway(MAX_STREAM, ErrorCode.NO_ERROR), frames.frame(frames.PING, 0, 0, _DRAIN))
            self._flush()

    def lost(self) -> None:
        """The peer is gone: whoever still works for it need not."""
        if not self.over:
            self._over()
            self._cancel_all()
        self._share.close()

    def end(self, reason: End, cause: str) -> None:
        """Take nothing more, and close at once: what is not answered yet is denied."""
        if not self.over:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, reason, cause)

    @property
    def idle(self) -> bool:
        """Whether nothing is asked."""
        return not self._calls

    @property
    def silent(self) -> int:
        """For how many ticks nothing has come."""
        return self._ticks - self._heard

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
            stream &= MAX_STREAM
            if self._block is not None or not self._set:
                self._in_turn(kind, stream)
            try:
                handlers[min(kind, _UNKNOWN)](flags, stream, data[start:at])
            except StreamFault as fault:
                self._break(stream, fault)
            if self.stopped:
                break
        self._buffer = data[at:] if at < end else b""
        if at == end or self.stopped:
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
        if not flags & frames.END_HEADERS:
            self._share.hold(_BLOCK_OCTETS)
            self._block = _Incoming(stream, flags, self._headers.begun(), self._ticks)
            self._block_octets = self._block_frames = 0
            self._more_headers(self._block, payload)
        elif stream > self._last_stream:
            self._begin(flags, stream, self._headers.head(payload))
            self._work += _CALL_WORK + len(payload)
            if self._work > _MAX_WORK:
                self._yield()
        else:
            self._trailers(flags, stream, self._headers.decoded(payload))

    def _yield(self) -> None:
        """Let others have their turn."""
        if not self.stopped:
            self.stopped = True
            self._yielded()

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        incoming = self._block
        if incoming is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block goes on that has not begun")
        self._more_headers(incoming, payload)
        if flags & frames.END_HEADERS:
            self._block = None
            self._share.hold(-_BLOCK_OCTETS)
            block = self._headers.ended(incoming.block)
            if stream > self._last_stream:
                self._begin(incoming.flags, stream, self._headers.head_of(block))
            else:
                self._trailers(incoming.flags, stream, block)

    def _more_headers(self, incoming: _Incoming, part: bytes) -> None:
        self._block_octets += len(part)
        self._block_frames += 1
        if self._block_octets > MAX_HEADER_BLOCK or self._block_frames > MAX_CONTINUATIONS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        incoming.block.feed(part)
        self._work += len(part)
        if self._work > _MAX_WORK:
            self._yield()

    def _begin(self, flags: int, stream: int, head: Head) -> None:
        self._last_stream = stream
        if stream > self._most_stream:
            return  # after our last GOAWAY: the peer knows that it is not served
        self._frames_left += FRAMES_A_CALL
        call = Call(self, stream, head, self._initial_window, STREAM_WINDOW, self._ticks)
        if head.fault:
            call.fault = Unserved(head.fault)
        self._calls[stream] = call
        if len(self._calls) > FREE_STREAMS and not self._has_room_for_streams():
            self._dismiss(call, NO_ROOM, ErrorCode.REFUSED_STREAM)
        elif flags & frames.END_STREAM:
            self._requested(call, b"")

    def _has_room_for_streams(self) -> bool:
        """Whether the last one can be kept, which counts as long as it is."""
        room = len(self._calls) <= MAX_STREAMS and self._share.fits(STREAM_OCTETS)
        self._share.hold(STREAM_OCTETS)
        return room

    def _trailers(self, flags: int, stream: int, block: Block) -> None:
        self._tolerate()
        call = self._calls.get(stream)
        if call is None:
            self._after_the_end(stream)
        elif call.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        elif not flags & frames.END_STREAM:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "HEADERS amid a request")
        else:
            require_trailers(block)
            self._requested(call, b"")

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
        call.received += len(payload)
        if flags & frames.END_STREAM:
            self._requested(call, payload)
        else:
            self._keep(call, payload)
            self._more_wanted(call, len(payload))

    def _keep(self, call: Call, payload: bytes) -> None:
        """Keep a part of a request, unless the request will not be served anyway.

        One for which no room is left will not be: to hold the peer back instead could leave it unable to finish any.
        """
        if call.fault is None and call.received > self._service.max_message_bytes + _PREFIX:
            call.fault = TOO_LONG
        if call.fault is None and not self._share.fits(len(payload)):
            call.fault = NO_ROOM
        if call.fault is None:
            call.body += payload
        else:
            call.body.clear()
        self._count(call)

    def _count(self, call: Call) -> None:
        """Count what is kept of a call, and for it."""
        octets = len(call.body) + len(call.to_send)
        self._share.hold(octets - call.held)
        call.held = octets

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
        body = call.body
        if call.open and call.fault is not None:
            self.refuse(call, Status.UNIMPLEMENTED, call.fault.cause)
        while call.open and not call.to_send and len(body) >= _PREFIX:
            end = _PREFIX + int.from_bytes(body[1:_PREFIX], "big")
            if body[0] != 0 or end - _PREFIX > self._service.max_message_bytes:
                self.refuse(call, Status.UNIMPLEMENTED, "a message that is compressed or too long")
            elif len(body) < end:
                break
            else:
                call.streamed = True
                self._tolerate()  # many small messages are as good as a flood, and ask for more than they are
                message = bytes(body[_PREFIX:end])
                del body[:end]
                self._service.serve(call, message)
        if call.stream in self._calls:  # else it has been answered
            call.received = len(body)
            self._count(call)

    def _after_the_end(self, stream: int) -> None:
        """A frame of a stream that is no call any more, or not yet (section 5.1)."""
        if stream > self._most_stream or stream in self._reset:
            return  # it was on its way
        self._require_begun(stream)
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, "a frame of a stream that has ended")

    def _has_begun(self, stream: int) -> bool:
        """The client begins the odd ones, and we none."""
        return bool(stream & 1) and stream <= self._last_stream

    def _require_begun(self, stream: int) -> None:
        if not self._has_begun(stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that has not begun")

    def _requested(self, call: Call, last: bytes) -> None:
        """The request is there in full, ``last`` included."""
        head, data = call.head, last
        call.remote_closed = True
        call.reset = ErrorCode.PROTOCOL_ERROR if head.malformed else None
        if call.body:
            data = b"".join((call.body, last))
            call.body.clear()
            self._count(call)
            if len(data) > self._service.max_message_bytes + _PREFIX:
                call.fault = TOO_LONG
        if call.fault is not None:
            self._dismiss(call, call.fault, call.reset)
        elif head.content_length is not None and head.content_length != call.received:
            self._dismiss(call, WRONG_LENGTH, ErrorCode.PROTOCOL_ERROR)
        elif head.http_status == _NOT_ALLOWED:
            self._dismiss(call, NOT_POST, call.reset)
        elif int.from_bytes(data[:_PREFIX], "big") == len(data) - _PREFIX:  # not compressed, and all of it
            self._service.serve(call, data[_PREFIX:])
        elif call.streamed and not data:
            self._end_with(call, _SUCCESS)
        else:
            self._dismiss(call, _why_no_message(data, head), call.reset)

    def _priority(self, _flags: int, stream: int, payload: bytes) -> None:
        self._tolerate()
        if stream == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != _PRIORITY_BYTES:
            fault = StreamFault if self._has_begun(stream) else ConnectionFault  # an idle stream is not reset (6.4)
            raise fault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length")
        _require_other(stream, payload)

    def _rst_stream(self, _flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != _CODE_BYTES:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another length")
        self._require_begun(stream)
        self._tolerate()  # what it cost has been paid for by its call; and each client that goes away is one
        if (call := self._calls.get(stream)) is not None:
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
                if call.window > MAX_WINDOW:
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
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream == 0:
            self._widen(increment)
        else:
            self._widen_stream(stream, increment)

    def _widen(self, increment: int) -> None:
        if increment == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self._window += increment
        if self._window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self._release()

    def _widen_stream(self, stream: int, increment: int) -> None:
        self._require_begun(stream)
        if increment == 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        if (call := self._calls.get(stream)) is not None:
            call.window += increment
            if call.window > MAX_WINDOW:
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
            if call.open:
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
        fits = self._share.fits(len(message) + _PREFIX)
        call.to_send += b"\0" + len(message).to_bytes(4, "big") + message
        self._release_of(call)
        if call.to_send and not fits:  # the peer lets out no answers
            call.reset = ErrorCode.ENHANCE_YOUR_CALM
            self._finish(call)

    def _end_with(self, call: Call, block: bytes) -> None:
        """End it with these trailers, after what is still to be sent."""
        call.ending = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, call.stream, block)
        self._release_of(call)

    def refuse_http(self, call: Call) -> None:
        """Answer what is no gRPC as HTTP does."""
        self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, call.stream, not_grpc(call.head.http_status)))
        call.to_send += b"This is a gRPC service.\n"
        call.ending = frames.frame(frames.DATA, frames.END_STREAM, call.stream)
        self._release_of(call)
        self._flush()

    def _dismiss(self, call: Call, why: Unserved, reset: ErrorCode | None) -> None:
        """Answer a call that is not served, and then reset its stream (section 8.1.1).

        Where it is reset it is over at once, also if the windows do not let the answer out.
        """
        if (cancelled := call.cancelled) is not None:
            cancelled()
        call.reset = reset
        if call.ending is not None:
            pass  # it has been answered, and that has not gone out
        elif not call.head_sent and (answer := self._service.denial(call, why)) is not None:
            self.answer(call, answer)
        elif call.head.http_status != _OK and not call.head_sent:
            self.refuse_http(call)
        else:
            self.refuse(call, why.status, why.cause)
        if reset is not None and call.stream in self._calls:
            self._finish(call)

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
        if held or call.held:
            self._count(call)
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
        if call.reset is not None:  # section 8.1: the rest of the request is not wanted
            self._out.append(frames.reset(call.stream, call.reset))
            self._remember_reset(call.stream)
        elif self._resets_left < MAX_RESETS:
            self._resets_left += 1
        if self._most_stream != _NOT_TOLD:
            self._close_if_drained()

    def _forget(self, call: Call) -> None:
        del self._calls[call.stream]
        if len(self._calls) >= FREE_STREAMS:
            self._share.hold(-STREAM_OCTETS)
        if call.held:
            self._share.hold(-call.held)
        if self._held:
            self._held.pop(call.stream, None)
        call.close()

    def _cancel(self, call: Call) -> None:
        self._forget(call)
        if call.cancelled is not None:
            call.cancelled()

    def _break(self, stream: int, fault: StreamFault) -> None:
        """End a stream because of what the peer did wrong, of which there may be so much (CVE-2025-8671)."""
        if (call := self._calls.get(stream)) is not None:
            self._dismiss(call, Unserved(str(fault)), fault.code)
        else:
            self._out.append(frames.reset(stream, fault.code))
            self._remember_reset(stream)
        self._resets_left -= 1
        if self._resets_left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "streams are broken again and again")

    def _remember_reset(self, stream: int) -> None:
        self._reset[stream] = None
        if len(self._reset) > _REMEMBERED_RESETS:
            del self._reset[next(iter(self._reset))]

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
                self._dismiss(call, NOT_IN_TIME, ErrorCode.NO_ERROR)

    def _drained(self) -> None:
        """What was on its way when the peer heard that we drain has come."""
        if self._most_stream == _NOT_TOLD:
            self._most_stream = self._last_stream
            self._out.append(frames.goaway(self._last_stream, ErrorCode.NO_ERROR))
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._most_stream != _NOT_TOLD and not self._calls and not self.over:
            self._over()
            self._write_out()
            self._closed(End.DRAINED, "drained")

    def _reason_of(self, fault: ConnectionFault) -> End:
        if not self._greeted:
            return End.NOT_HTTP2
        return End.FLOOD if fault.code == ErrorCode.ENHANCE_YOUR_CALM else End.PROTOCOL_ERROR

    def _over(self) -> None:
        self.over = self.stopped = True

    def _end(self, code: ErrorCode, reason: End, cause: str) -> None:
        self._over()
        for call in list(self._calls.values()):
            self._dismiss(call, CONNECTION_ENDED, ErrorCode.NO_ERROR)
        self._out.append(frames.goaway(min(self._last_stream, self._most_stream), code))
        self._write_out()
        self._share.close()
        self._closed(reason, cause)

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


def _why_no_message(data: bytes, head: Head) -> Unserved:
    """What is wrong with octets that are not one message which can be read."""
    if int.from_bytes(data[1:_PREFIX], "big") != len(data) - _PREFIX:
        return NOT_ONE_MESSAGE
    return COMPRESSED if data[0] == 1 and head.encoding != b"identity" else COMPRESSED_SOMEHOW


def _require_other(stream: int, priority: bytes) -> None:
    """A stream does not depend on itself (RFC 7540 section 5.3.1); beyond that, priorities say nothing to us."""
    if int.from_bytes(priority[:_CODE_BYTES], "big") & MAX_STREAM == stream:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")


def _require_allowed(name: int, value: int) -> None:
    """Section 6.5.2. What is not here may be anything: we index nothing, and our frames are never longer."""
    if name == frames.SETTINGS_ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
    if name == frames.SETTINGS_MAX_FRAME_SIZE and not FRAME_BYTES <= value < 1 << 24:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE that may not be")
    if name == frames.SETTINGS_INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")

"""One HTTP/2 connection, as a server (RFC 9113): the preface, frame dispatch, keepalive, draining and closing.

Invariants: ``receive`` accepts any octets and never raises. A peer that violates the protocol or causes endless work
closes its own connection and no other. Before a connection is closed, every request on it is answered.

There is no clock: ``tick`` is called once per second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.transport.http2 import frames, settings
from authz_service.transport.http2.flow_control import FlowControl
from authz_service.transport.http2.frames import (
    HEADER,
    HEADER_BYTES,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    PREFACE,
    ErrorCode,
    Http2ConnectionError,
    Http2StreamError,
)
from authz_service.transport.http2.limits import Limits
from authz_service.transport.http2.preface import NotHttp2Error
from authz_service.transport.http2.request import RequestReader
from authz_service.transport.http2.response import ResponseWriter
from authz_service.transport.http2.service import CONNECTION_CLOSED
from authz_service.transport.http2.stream import NO_LAST_STREAM, StreamTable
from authz_service.transport.http2.timeouts import PREFACE_TIMEOUT, Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.transport.http2.memory import Share
    from authz_service.transport.http2.service import Service

KEEPALIVE_PING: Final = b"alive?\0\0"
DRAIN_PING: Final = b"drain..."
_UNKNOWN = frames.CONTINUATION + 1  # the index of the handler for every other type


class Http2Connection:
    """The server's side of one connection."""

    def __init__(
        self,
        service: Service,
        share: Share,
        on_open: Callable[[], None],
        on_close: Callable[[ConnectionFailure | None, str], None],
        on_pause: Callable[[], None],
    ) -> None:
        """``on_open`` is called once, when the client's preface has arrived.

        ``on_close`` is called once, when nothing more is to be read or written, with the reason and the cause; without
        a reason, the connection was drained. ``on_pause`` is called when other connections should have their turn; then
        call ``resume``.
        """
        self._share = share
        self._on_open = on_open
        self._on_close = on_close
        self._on_pause = on_pause
        self._buffer = b""  # received, not handled yet
        self._preface_received = False
        self._settings_received = False
        self.closed = False
        self.paused = False  # whether received octets are only buffered; always true once it is closed
        self._out: list[bytes] = []
        self._limits = Limits()
        self._timers = Timers()
        self._streams = StreamTable(share)
        self._flow_control = FlowControl(self._out)
        self._writer = writer = ResponseWriter(
            service, self._streams, self._flow_control, self._limits, self._out, self._close_if_drained
        )
        self._reader = reader = RequestReader(
            service, self._streams, self._flow_control, self._limits, self._timers, writer, self._pause
        )
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (  # by frame type
            reader.data, reader.headers, reader.priority, self._rst_stream, self._settings, _push_promise,
            self._ping, self._goaway, writer.window_update, reader.continuation, self._unknown,
        )  # fmt: skip

    def start(self, write: Callable[[bytes], None]) -> None:
        """Send the server's preface (section 3.4)."""
        self._writer.start(write)
        self._out.append(settings.SERVER_PREFACE)
        self._writer.flush()

    # Octets.

    def receive(self, data: bytes) -> None:
        """Handle what the peer sent."""
        if self.paused:
            if not self.closed:
                self._buffer += data
            return
        timers, writer = self._timers, self._writer
        timers.last_received, timers.ping_pending = timers.now, False
        self._limits.work = 0
        writer.corked = True
        try:
            self._handle(self._buffer + data if self._buffer else data)
        except Http2ConnectionError as error:
            self._close(error.code, _reason_for(error), str(error))
        finally:
            writer.corked = False
        writer.flush()

    def pause(self) -> None:
        """Only buffer what is received from now on."""
        self.paused = True

    def resume(self) -> None:
        """Handle what was buffered, and what is received from now on."""
        if not self.closed:
            self.paused = False
            self.receive(b"")

    @property
    def buffered(self) -> int:
        """Octets that were received and not handled yet."""
        return len(self._buffer)

    def _handle(self, data: bytes) -> None:
        """Handle every complete frame."""
        at, end = self._after_preface(data), len(data)
        if not self._preface_received:
            self._buffer = data
            return
        handlers, reader = self._handlers, self._reader
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, stream_id = HEADER.unpack_from(data, at)
            size = high << 16 | low
            if size > MAX_FRAME_SIZE:
                raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame is too long")
            start = at + HEADER_BYTES
            if end - start < size:
                break
            at = start + size
            stream_id &= MAX_STREAM_ID
            if reader.incomplete is not None or not self._settings_received:
                self._require_order(kind, stream_id)
            try:
                handlers[min(kind, _UNKNOWN)](flags, stream_id, data[start:at])
            except Http2StreamError as error:
                self._writer.reset(stream_id, error)
            if self.paused:
                break
        self._buffer = data[at:] if at < end else b""
        if at == end or self.paused:
            self._timers.partial_frame_since = None
        elif at or self._timers.partial_frame_since is None:
            self._timers.partial_frame_since = self._timers.now

    def _after_preface(self, data: bytes) -> int:
        """Where the first frame begins."""
        if self._preface_received:
            return 0
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise NotHttp2Error(data)
        if len(data) < len(PREFACE):
            return 0
        self._preface_received = True
        self._on_open()
        return len(PREFACE)

    def _require_order(self, kind: int, stream_id: int) -> None:
        incomplete = self._reader.incomplete
        if incomplete is not None and (kind, stream_id) != (frames.CONTINUATION, incomplete.stream_id):
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "another frame within a field block")
        if not self._settings_received and kind != frames.SETTINGS:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")

    def _pause(self) -> None:
        """Enough was done in this turn."""
        if not self.paused:
            self.paused = True
            self._on_pause()

    # Frames that concern the connection; those of requests are in request.py, WINDOW_UPDATE in response.py.

    def _rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.require_size(payload, frames.CODE_BYTES, "RST_STREAM")
        self._streams.require_not_idle(stream_id)
        self._limits.count_frame()  # not more: its request has raised the limit, and any client may cancel
        if (stream := self._streams.open.get(stream_id)) is not None:
            self._streams.cancel(stream)
            self._close_if_drained()

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._limits.count_frame()
        settings.require_valid_frame(flags, stream_id, payload)
        if flags & frames.ACK:
            if not self._settings_received:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame acknowledges SETTINGS")
            return
        self._settings_received = True
        window = settings.initial_window_of(payload, self._flow_control.initial_send_window)
        self._out.append(settings.ACKNOWLEDGMENT)  # before the frames that they allow
        self._writer.resize_windows(window)

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._limits.count_frame()
        frames.require_connection_frame(stream_id, "PING")
        frames.require_size(payload, frames.PING_BYTES, "PING")
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == DRAIN_PING and self._timers.drain_since is not None:
            self._send_final_goaway()

    def _goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """The peer opens no more streams, and closes the connection after the last response."""
        self._limits.count_frame()
        frames.require_connection_frame(stream_id, "GOAWAY")
        if len(payload) < 2 * frames.CODE_BYTES:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} octets")

    def _unknown(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        self._limits.count_frame()  # section 4.1: ignored

    # Timeouts.

    def tick(self, *, writing: bool = False) -> None:
        """A second has passed. ``writing`` means that earlier writes are still in progress, so nothing is received."""
        if self.closed:
            return
        timers = self._timers
        timers.now += 1
        self._limits.tick()
        if not writing and self._is_overdue():
            cause = "the preface, a frame or a field block was not completed in time"
            self._close(ErrorCode.PROTOCOL_ERROR, ConnectionFailure.UNFINISHED, cause)
        elif timers.keepalive_expired:
            cause = "the peer does not read" if writing else "the keepalive PING was not acknowledged"
            self._close(ErrorCode.NO_ERROR, ConnectionFailure.IDLE, cause)
        else:
            if timers.keepalive_due and not writing:
                timers.ping_pending = True
                self._out.append(frames.frame(frames.PING, 0, 0, KEEPALIVE_PING))
            self._reader.reject_overdue()
            if timers.drain_expired:
                self._send_final_goaway()
        self._writer.flush()

    def _is_overdue(self) -> bool:
        """Whether something that was begun should be complete by now."""
        incomplete = self._reader.incomplete
        since = self._timers.partial_frame_since if incomplete is None else incomplete.since
        if not self._settings_received:
            since = 0
        return since is not None and self._timers.now - since > PREFACE_TIMEOUT

    @property
    def has_begun(self) -> bool:
        """Whether anything was received."""
        return self._preface_received or bool(self._buffer)

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return not self._streams.open

    @property
    def silent(self) -> int:
        """For how many ticks nothing was received."""
        return self._timers.idle

    # The end.

    def drain(self) -> None:
        """Accept no new streams, and close after the last response (section 6.8).

        There are two GOAWAYs, because the peer may open streams before it receives the first one.
        """
        if self._timers.drain_since is None and not self.closed:
            self._timers.drain_since = self._timers.now
            ping = frames.frame(frames.PING, 0, 0, DRAIN_PING)
            self._out += (frames.goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR), ping)
            self._writer.flush()

    def lost(self) -> None:
        """The transport is gone: cancel every stream, and call and write to nothing any more.

        References to the transport's side would be cycles, and keep the memory of TLS until the garbage collector runs.
        """
        if not self.closed:
            self.closed = self.paused = True
            for stream in list(self._streams.open.values()):
                self._streams.cancel(stream)
        self._share.close()
        self._on_open = self._on_close = self._on_pause = _nothing
        self._writer.stop()

    def close(self, reason: ConnectionFailure, cause: str) -> None:
        """Receive nothing more, deny what has no response yet, and close."""
        if not self.closed:
            self._close(ErrorCode.ENHANCE_YOUR_CALM, reason, cause)

    def _send_final_goaway(self) -> None:
        """The peer has received the first GOAWAY, or had the time to: ignore the streams that it opens from now on."""
        streams = self._streams
        if streams.max_stream_id == NO_LAST_STREAM:
            streams.max_stream_id = streams.last_stream_id
            self._out.append(frames.goaway(streams.last_stream_id, ErrorCode.NO_ERROR))
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._streams.max_stream_id != NO_LAST_STREAM and not self._streams.open and not self.closed:
            self.closed = self.paused = True
            self._writer.write_out()
            self._on_close(None, "drained")

    def _close(self, code: ErrorCode, reason: ConnectionFailure, cause: str) -> None:
        self.closed = self.paused = True
        streams = self._streams
        for stream in list(streams.open.values()):
            self._writer.reject(stream, CONNECTION_CLOSED, ErrorCode.NO_ERROR)
        self._out.append(frames.goaway(min(streams.last_stream_id, streams.max_stream_id), code))
        self._writer.write_out()
        self._share.close()
        self._on_close(reason, cause)


def _reason_for(error: Http2ConnectionError) -> ConnectionFailure:
    if isinstance(error, NotHttp2Error):
        return error.failure
    is_flood = error.code == ErrorCode.ENHANCE_YOUR_CALM
    return ConnectionFailure.FLOOD if is_flood else ConnectionFailure.PROTOCOL_ERROR


def _nothing(*_: object) -> None:
    """What is called once the transport is gone."""


def _push_promise(_flags: int, _stream_id: int, _payload: bytes) -> None:
    raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

"""The client's half of HTTP/2: it sends the frames that a test composes, and collects the responses."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hpack

from authz_service.transport.http2 import frames
from authz_service.transport.http2.connection import Http2Connection
from authz_service.transport.http2.memory import Memory, Share

if TYPE_CHECKING:
    from authz_service.core.connection_failure import ConnectionFailure
    from authz_service.transport.http2.service import Unserved
    from authz_service.transport.http2.stream import Stream

STATIC_ENTRIES = 61  # RFC 7541 appendix A
CHECK = "/a.Service/Check"
DENIED = b"denied"
HEAD = ((":method", "POST"), (":scheme", "http"), (":path", CHECK), (":authority", "authz"))
GRPC = (("te", "trailers"), ("content-type", "application/grpc"))


def dynamic_table(decoder: hpack.Decoder) -> list[tuple[bytes, bytes]]:
    """The dynamic table of an hpack decoder, the newest entry first (RFC 7541 section 2.3.3)."""
    entries = list[tuple[bytes, bytes]]()
    with contextlib.suppress(hpack.HPACKError):  # there is no such index
        while True:
            name, value = decoder.header_table.get_by_index(STATIC_ENTRIES + 1 + len(entries))
            entries.append((bytes(name), bytes(value)))
    return entries


@dataclass
class StreamResponse:
    """What was received on one stream."""

    headers: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        """The gRPC status, or an empty string before the trailers."""
        return self.headers[-1].get("grpc-status", "") if self.headers else ""

    @property
    def messages(self) -> list[bytes]:
        found, remaining = [], self.data
        while remaining:
            size = int.from_bytes(remaining[1:5], "big")
            found.append(remaining[5 : 5 + size])
            remaining = remaining[5 + size :]
        return found


class EchoService:
    """Answers each message with itself, or, if it is ``manual``, leaves the streams for the test to answer.

    ``denied`` are the paths for which it has a denial.
    """

    def __init__(self, *, manual: bool = False, max_message_bytes: int = 1 << 20, denied: tuple[str, ...] = ()) -> None:
        self.manual = manual
        self.denied = {path.encode() for path in denied}
        self.denials: list[Unserved] = []
        self.max_message_bytes = max_message_bytes
        self.streaming_paths: frozenset[bytes] = frozenset()
        self.served: list[bytes] = []
        self.streams: list[Stream] = []

    def serve(self, stream: Stream, message: bytes) -> None:
        self.served.append(message)
        self.streams.append(stream)
        if not self.manual:
            stream.answer(message)

    def denial(self, stream: Stream, why: Unserved) -> bytes | None:
        if stream.headers.path not in self.denied:
            return None
        self.denials.append(why)
        return DENIED


class ClientHalf:
    """Encodes requests and decodes responses; the octets are carried by others."""

    def __init__(self) -> None:
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.responses: dict[int, StreamResponse] = {}
        self.frames: list[tuple[int, int, int, bytes]] = []  # type, flags, stream identifier, payload
        self.goaways: list[tuple[int, int]] = []  # last stream identifier, error code
        self.next_stream = 1
        self._buffer = b""

    def receive(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= frames.HEADER_BYTES:
            high, low, kind, flags, stream_id = frames.HEADER.unpack_from(self._buffer)
            end = frames.HEADER_BYTES + (high << 16 | low)
            if len(self._buffer) < end:
                return
            payload, self._buffer = self._buffer[frames.HEADER_BYTES : end], self._buffer[end:]
            self.frames.append((kind, flags, stream_id, payload))
            self._handle(kind, flags, stream_id, payload)

    def _handle(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        response = self.responses.setdefault(stream_id, StreamResponse())
        if kind == frames.HEADERS:
            response.headers.append({str(name): str(value) for name, value in self.decoder.decode(payload)})
        elif kind == frames.DATA:
            response.data += payload
        elif kind == frames.RST_STREAM:
            response.reset = int.from_bytes(payload, "big")
        elif kind == frames.GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")))
        if kind in {frames.HEADERS, frames.DATA} and flags & frames.END_STREAM:
            response.ended = True

    def block(self, *more: tuple[str, str], head: Any = HEAD, plain: Any = GRPC) -> bytes:
        """A field block."""
        return self.encoder.encode([*head, *plain, *more])

    def headers(self, stream_id: int, block: bytes | None = None, flags: int = frames.END_HEADERS) -> bytes:
        """A HEADERS frame; the next request is on the stream after it."""
        self.next_stream = max(self.next_stream, stream_id + 2)
        return frames.frame(frames.HEADERS, flags, stream_id, self.block() if block is None else block)

    def request(self, message: bytes = b"m", *more: tuple[str, str], stream_id: int | None = None) -> bytes:
        """The frames of a whole request on the next stream."""
        stream_id = stream_id or self.next_stream
        return self.headers(stream_id, self.block(*more)) + data(stream_id, framed(message))


class Client(ClientHalf):
    """A client that is connected to an ``Http2Connection`` without sockets."""

    def __init__(
        self,
        service: EchoService | None = None,
        *,
        settings: dict[int, int] | None = None,
        memory: Memory | None = None,
    ) -> None:
        super().__init__()
        self.service = service or EchoService()
        self.memory = memory or Memory()
        self.closed: list[tuple[ConnectionFailure | None, str]] = []
        self.opened = 0
        self.writes = self.pauses = 0
        self.connect()
        self.connection.receive(frames.PREFACE + frames.settings(settings or {}))

    def connect(self) -> None:
        """Start a new connection."""
        self.share = Share(self.memory)
        self.connection = Http2Connection(self.service, self.share, self._on_open, self._on_close, self._on_pause)
        self.connection.start(self._on_write)

    def _on_pause(self) -> None:
        self.pauses += 1

    def _on_open(self) -> None:
        self.opened += 1

    def _on_close(self, reason: ConnectionFailure | None, cause: str) -> None:
        self.closed.append((reason, cause))

    def _on_write(self, data: bytes) -> None:
        self.writes += 1
        self.receive(data)

    def send(self, *parts: bytes) -> None:
        """Send these together."""
        self.connection.receive(b"".join(parts))
        while self.connection.paused and not self.connection.closed:
            self.connection.resume()

    def call(self, message: bytes = b"m", *more: tuple[str, str]) -> StreamResponse:
        """Send a request and return its response."""
        stream_id = self.next_stream
        self.send(self.request(message, *more))
        return self.responses.get(stream_id, StreamResponse())

    @property
    def error_code(self) -> int | None:
        """The code with which the server closed the connection."""
        return self.goaways[-1][1] if self.goaways and self.connection.closed else None


def framed(message: bytes, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


def data(stream_id: int, payload: bytes, flags: int = frames.END_STREAM) -> bytes:
    """DATA frames for the payload, the last one with the flags."""
    size = frames.MAX_FRAME_SIZE
    chunks = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    last = len(chunks) - 1
    return b"".join(
        frames.frame(frames.DATA, flags if n == last else 0, stream_id, chunk) for n, chunk in enumerate(chunks)
    )


def field_block_frames(stream_id: int, block: bytes) -> bytes:
    """HEADERS and CONTINUATION frames for a field block of any length."""
    parts = [block[at : at + frames.MAX_FRAME_SIZE] for at in range(0, len(block), frames.MAX_FRAME_SIZE)]
    last = len(parts) - 1
    return b"".join(
        frames.frame(frames.CONTINUATION if n else frames.HEADERS, frames.END_HEADERS * (n == last), stream_id, part)
        for n, part in enumerate(parts)
    )

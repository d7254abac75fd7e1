"""The other side of a connection: a client that says what it is told to, and reads what is answered."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hpack

from authz_service.transport.http2 import frames
from authz_service.transport.http2.connection import Connection

if TYPE_CHECKING:
    from authz_service.transport.http2.call import Call

STATIC_ENTRIES = 61  # RFC 7541 appendix A
CHECK = "/a.Service/Check"
HEAD = ((":method", "POST"), (":scheme", "http"), (":path", CHECK), (":authority", "authz"))
GRPC = (("te", "trailers"), ("content-type", "application/grpc"))


def table_of(decoder: hpack.Decoder) -> list[tuple[bytes, bytes]]:
    """What a decoder of hpack's keeps, as an index would find it: the newest entry first (RFC 7541 section 2.3.3)."""
    entries = list[tuple[bytes, bytes]]()
    with contextlib.suppress(hpack.HPACKError):  # there is no such index
        while True:
            name, value = decoder.header_table.get_by_index(STATIC_ENTRIES + 1 + len(entries))
            entries.append((bytes(name), bytes(value)))
    return entries


@dataclass
class Answer:
    """What came back on one stream."""

    headers: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        """That of gRPC, once it was told."""
        return self.headers[-1].get("grpc-status", "") if self.headers else ""

    @property
    def messages(self) -> list[bytes]:
        """The messages in it."""
        found, rest = [], self.data
        while rest:
            size = int.from_bytes(rest[1:5], "big")
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


class Service:
    """Answers each message with itself, or keeps the calls for the test to answer."""

    def __init__(self, *, keep: bool = False, max_message_bytes: int = 1 << 20) -> None:
        self.keep = keep
        self.max_message_bytes = max_message_bytes
        self.streamed: frozenset[bytes] = frozenset()
        self.served: list[bytes] = []
        self.calls: list[Call] = []

    def serve(self, call: Call, message: bytes) -> None:
        self.served.append(message)
        self.calls.append(call)
        if not self.keep:
            call.answer(message)


class Speaker:
    """Speaks a client's HTTP/2, whatever carries it."""

    def __init__(self) -> None:
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.answers: dict[int, Answer] = {}
        self.frames: list[tuple[int, int, int, bytes]] = []  # type, flags, stream, payload
        self.goaways: list[tuple[int, int]] = []  # last stream, code
        self.next_stream = 1
        self._buffer = b""

    def hear(self, data: bytes) -> None:
        """Take what the server says."""
        self._buffer += data
        while len(self._buffer) >= frames.HEADER_BYTES:
            high, low, kind, flags, stream = frames.HEADER.unpack_from(self._buffer)
            end = frames.HEADER_BYTES + (high << 16 | low)
            if len(self._buffer) < end:
                return
            payload, self._buffer = self._buffer[frames.HEADER_BYTES : end], self._buffer[end:]
            self.frames.append((kind, flags, stream, payload))
            self._take(kind, flags, stream, payload)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        answer = self.answers.setdefault(stream, Answer())
        if kind == frames.HEADERS:
            answer.headers.append({str(name): str(value) for name, value in self.decoder.decode(payload)})
        elif kind == frames.DATA:
            answer.data += payload
        elif kind == frames.RST_STREAM:
            answer.reset = int.from_bytes(payload, "big")
        elif kind == frames.GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")))
        if kind in {frames.HEADERS, frames.DATA} and flags & frames.END_STREAM:
            answer.ended = True

    def block(self, *more: tuple[str, str], head: Any = HEAD, plain: Any = GRPC) -> bytes:
        """A header block."""
        return self.encoder.encode([*head, *plain, *more])

    def headers(self, stream: int, block: bytes | None = None, flags: int = frames.END_HEADERS) -> bytes:
        """A HEADERS frame; the next call is on the stream after it."""
        self.next_stream = max(self.next_stream, stream + 2)
        return frames.frame(frames.HEADERS, flags, stream, self.block() if block is None else block)

    def request(self, message: bytes = b"m", *more: tuple[str, str], stream: int | None = None) -> bytes:
        """The frames of a whole call on the next stream."""
        stream = stream or self.next_stream
        return self.headers(stream, self.block(*more)) + data(stream, framed(message))


class Client(Speaker):
    """A connection's two sides without sockets: what is sent goes straight to the server."""

    def __init__(self, service: Service | None = None, *, settings: dict[int, int] | None = None) -> None:
        super().__init__()
        self.service = service or Service()
        self.closed: list[str] = []
        self.connection = Connection(self.service, self.closed.append)
        self.writes = 0
        self.connection.start(self._read)
        self.connection.receive(frames.PREFACE + frames.settings(settings or {}))

    def _read(self, data: bytes) -> None:
        self.writes += 1
        self.hear(data)

    def send(self, *parts: bytes) -> None:
        """Send these together."""
        self.connection.receive(b"".join(parts))

    def call(self, message: bytes = b"m", *more: tuple[str, str]) -> Answer:
        """Make a call, and look at its answer."""
        stream = self.next_stream
        self.send(self.request(message, *more))
        return self.answers.get(stream, Answer())

    @property
    def fault(self) -> int | None:
        """The code with which the server ended the connection."""
        return self.goaways[-1][1] if self.goaways and self.connection.over else None


def framed(message: bytes, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


def data(stream: int, payload: bytes, flags: int = frames.END_STREAM) -> bytes:
    """DATA frames for the payload, the last one with the flags."""
    size = frames.FRAME_BYTES
    chunks = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    last = len(chunks) - 1
    return b"".join(frames.frame(frames.DATA, flags if n == last else 0, stream, each) for n, each in enumerate(chunks))

"""Any octets that a peer sends, in any pieces, end in responses or in a closed connection.

The first octet is flags for how the others are sent (see ``_Way``), after the preface and a first SETTINGS frame.

* Nothing is raised, and the server sends valid HTTP/2: whole frames, field blocks that can be decoded, and no frame on
  a stream after its end.
* The pieces in which the octets arrive make no difference to what is served and sent.
* A closed connection was closed once, with a GOAWAY as its last frame, and does nothing more.
* Each message that is served consists of octets that the peer sent, in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transport.http2.client import CHECK, Client, EchoService

from authz_service.transport.http2 import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.transport.http2.stream import Stream

OUTCOMES = {"served", "over", "nothing"}
MAX_BYTES = 8192
_PIECES = (1, 3, 9, 10, 50, 1000)
_MAX_MESSAGE = 1000  # octets


class _Way:
    """How the octets are sent."""

    def __init__(self, octet: int) -> None:
        self.answers_late = bool(octet & 1)  # at the end, instead of immediately
        self.ticks = bool(octet & 2)  # a second passes between two pieces
        self.drains = bool(octet & 4)  # the connection is drained before the last piece
        self.piece = _PIECES[(octet >> 3 & 7) % len(_PIECES)]  # octets
        self.streams = bool(octet & 64)  # a request may have several messages, each of which is answered

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The octets in pieces, at most some two hundred."""
        size = max(self.piece, len(data) // 200)
        for at in range(0, len(data), size):
            yield data[at : at + size]


class _Service(EchoService):
    """Answers each message with itself."""

    def __init__(self, way: _Way) -> None:
        super().__init__(manual=way.answers_late, max_message_bytes=_MAX_MESSAGE)
        self.streaming_paths = frozenset({CHECK.encode()} if way.streams else ())

    def serve(self, stream: Stream, message: bytes) -> None:
        self.served.append(message)
        self.streams.append(stream)
        if not self.manual:
            self.answer(stream, message)

    def answer(self, stream: Stream, message: bytes) -> None:
        (stream.send if stream.headers.path in self.streaming_paths else stream.answer)(message)


def run(data: bytes) -> str:
    way, octets = _Way(data[0] if data else 0), data[1:]
    client = _sent(way, octets)
    if not way.ticks and not way.drains:
        whole = _sent(way, octets, whole=True)
        assert whole.frames == client.frames
        assert whole.service.served == client.service.served
    _require_well_formed(client)
    served = client.service.served
    assert all(_is_within(message, octets) for message in served if len(message) <= _MAX_MESSAGE)
    if client.connection.closed:
        _require_closed(client)
        return "over"
    assert client.closed == []
    return "served" if served else "nothing"


def _is_within(message: bytes, octets: bytes) -> bool:
    """Whether these are some of the octets, in their order: frame headers may be between them."""
    remaining = iter(octets)
    return all(octet in remaining for octet in message)


def _sent(way: _Way, octets: bytes, *, whole: bool = False) -> Client:
    service = _Service(way)
    client = Client(service)
    pieces = [octets] if whole else list(way.pieces(octets))
    for index, piece in enumerate(pieces):
        if way.drains and index == len(pieces) - 1:
            client.connection.drain()
        client.send(piece)
        if way.ticks:
            client.connection.tick()
    if way.answers_late:
        for stream, message in zip(list(service.streams), list(service.served), strict=True):
            service.answer(stream, message)
    return client


def _require_well_formed(client: Client) -> None:
    assert client._buffer == b""  # whole frames; an invalid field block raises in the client
    ended: set[int] = set()
    for index, (kind, flags, stream_id, payload) in enumerate(client.frames):
        assert len(payload) <= frames.MAX_FRAME_SIZE
        assert index or kind == frames.SETTINGS
        if stream_id:
            assert stream_id & 1
            # A RST_STREAM after the response stops an unfinished request (RFC 9113 section 8.1).
            assert stream_id not in ended or kind == frames.RST_STREAM
        if kind == frames.RST_STREAM or (kind in {frames.HEADERS, frames.DATA} and flags & frames.END_STREAM):
            ended.add(stream_id)


def _require_closed(client: Client) -> None:
    assert len(client.closed) == 1
    assert client.frames[-1][0] == frames.GOAWAY
    sent = len(client.frames)
    client.send(frames.frame(frames.PING, 0, 0, b"12345678"))
    client.connection.tick()
    for stream in client.service.streams:
        stream.answer(b"too late")
    assert len(client.frames) == sent
    assert len(client.closed) == 1

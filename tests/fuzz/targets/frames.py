"""Whatever a peer sends on a connection, in whatever pieces, ends in answers or in the end of that connection.

The first octet says how the rest is sent (see ``_Way``), after the preface and a first SETTINGS frame.

* Nothing is raised, and the server's side is HTTP/2: whole frames, header blocks that can be decoded, and no frame on
  a stream after its end.
* The pieces in which the octets arrive make no difference to what is served and sent.
* A connection that is over was closed once, with a GOAWAY as its last frame, and does nothing more.
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
        self.keeps_calls = bool(octet & 1)  # they are answered at the end, and not at once
        self.ticks = bool(octet & 2)  # a second passes between two pieces
        self.drains = bool(octet & 4)  # the server is shut down before the last piece
        self.piece = _PIECES[(octet >> 3 & 7) % len(_PIECES)]  # octets
        self.streams = bool(octet & 64)  # a call may have several messages, each of which is answered

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The octets, no more than some hundred pieces of them."""
        size = max(self.piece, len(data) // 200)
        for at in range(0, len(data), size):
            yield data[at : at + size]


class _Service(EchoService):
    """Answers each message with itself."""

    def __init__(self, way: _Way) -> None:
        super().__init__(manual=way.keeps_calls, max_message_bytes=_MAX_MESSAGE)
        self.streaming_paths = frozenset({CHECK.encode()} if way.streams else ())

    def serve(self, call: Stream, message: bytes) -> None:
        self.served.append(message)
        self.streams.append(call)
        if not self.manual:
            self.answer(call, message)

    def answer(self, call: Stream, message: bytes) -> None:
        (call.send if call.headers.path in self.streaming_paths else call.answer)(message)


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
        _require_silence(client)
        return "over"
    assert client.closed == []
    return "served" if served else "nothing"


def _is_within(message: bytes, octets: bytes) -> bool:
    """Whether these are some of the octets in their order: frames' headers may stand between them."""
    rest = iter(octets)
    return all(octet in rest for octet in message)


def _sent(way: _Way, octets: bytes, *, whole: bool = False) -> Client:
    service = _Service(way)
    client = Client(service)
    pieces = [octets] if whole else list(way.pieces(octets))
    for place, piece in enumerate(pieces):
        if way.drains and place == len(pieces) - 1:
            client.connection.drain()
        client.send(piece)
        if way.ticks:
            client.connection.tick()
    if way.keeps_calls:
        for call, message in zip(list(service.streams), list(service.served), strict=True):
            service.answer(call, message)
    return client


def _require_well_formed(client: Client) -> None:
    assert client._buffer == b""  # whole frames; that header blocks are decoded fails in the client
    ended: set[int] = set()
    for place, (kind, flags, stream, payload) in enumerate(client.frames):
        assert len(payload) <= frames.MAX_FRAME_SIZE
        assert place or kind == frames.SETTINGS
        if stream:
            assert stream & 1
            # A reset after the end says that the rest of the request is not wanted (RFC 9113 section 8.1).
            assert stream not in ended or kind == frames.RST_STREAM
        if kind == frames.RST_STREAM or (kind in {frames.HEADERS, frames.DATA} and flags & frames.END_STREAM):
            ended.add(stream)


def _require_silence(client: Client) -> None:
    assert len(client.closed) == 1
    assert client.frames[-1][0] == frames.GOAWAY
    sent = len(client.frames)
    client.send(frames.frame(frames.PING, 0, 0, b"anybody?"))
    client.connection.tick()
    for call in client.service.streams:
        call.answer(b"too late")
    assert len(client.frames) == sent
    assert len(client.closed) == 1

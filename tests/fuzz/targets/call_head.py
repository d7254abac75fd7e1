"""Every call to Check is answered, whatever its header fields, and does not affect other calls on its connection.

The first octet is flags for how the fields are sent (see ``_Way``). The others are lines, each a field ``name: value``
that is added to an ordinary call.

* The response is a message with the gRPC status OK: the service's own, or a denial. A reset may follow it.
* The connection stays open, and the next call on it is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hpack
from transport.http2.client import CHECK, DENIED, GRPC, HEAD, Client, EchoService, data, framed

from authz_service.transport.http2 import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTCOMES = {"served", "denied"}
MAX_BYTES = 2048
_MESSAGE = framed(b"message")


class _Way:
    """How the fields are sent."""

    def __init__(self, octet: int) -> None:
        self.huffman = bool(octet & 1)
        self.indexed = bool(octet & 2)  # added to the dynamic table
        self.first = bool(octet & 4)  # before the others, pseudo-header fields included
        self.last = bool(octet & 8)  # as trailers
        self.continued = bool(octet & 16)  # in CONTINUATION frames


def run(octets: bytes) -> str:
    way = _Way(octets[0] if octets else 0)
    fields = list(_fields(octets[1:]))
    if any(name == b":path" for name, _ in fields):  # then the method is ambiguous
        return "another path"
    client = Client(EchoService(denied=(CHECK,)))
    own = [(name.encode(), value.encode()) for name, value in (*HEAD, *GRPC)]
    head = own if way.last else [*fields, *own] if way.first else [*own, *fields]
    client.send(*_headers(1, _block(client.encoder, head, way), way, 0))
    if way.last:
        client.send(data(1, _MESSAGE, 0), *_headers(1, _block(client.encoder, fields, way), way, frames.END_STREAM))
    else:
        client.send(data(1, _MESSAGE))
    response = client.responses[1]
    assert not client.connection.closed
    assert response.ended
    assert response.status == "0"
    client.next_stream = 3
    assert client.call(b"next").messages == [b"next"]
    (message,) = response.messages
    assert message in {b"message", DENIED}
    return "denied" if message == DENIED else "served"


def _fields(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in text.split(b"\n"):
        name, _, value = line.partition(b": ")
        yield name, value


def _block(encoder: hpack.Encoder, fields: list[tuple[bytes, bytes]], way: _Way) -> bytes:
    made = [hpack.HeaderTuple(*each) if way.indexed else hpack.NeverIndexedHeaderTuple(*each) for each in fields]
    return encoder.encode(made, huffman=way.huffman)


def _headers(stream_id: int, block: bytes, way: _Way, flags: int) -> Iterator[bytes]:
    size = 10 if way.continued else frames.MAX_FRAME_SIZE
    parts = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
    for index, part in enumerate(parts):
        kind = frames.CONTINUATION if index else frames.HEADERS
        end = frames.END_HEADERS if index == len(parts) - 1 else 0
        yield frames.frame(kind, end | (0 if index else flags), stream_id, part)

"""gRPC over HTTP/2: length-prefixed messages, and the field blocks of responses.

Responses add nothing to the peer's dynamic table, so the same response is always the same octets.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from authz_service.transport.http2 import frames
from authz_service.transport.http2.compression import encode

PREFIX_BYTES: Final = 5  # in front of a message: whether it is compressed, and its length


class Status(IntEnum):
    """The gRPC status codes in use."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


def prefixed(message: bytes) -> bytes:
    """An uncompressed message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def message_length(octets: bytes | bytearray) -> int:
    """The length in a prefix."""
    return int.from_bytes(octets[1:PREFIX_BYTES], "big")


def trailers(status: Status, message: str = "") -> bytes:
    """The field block of a response's trailers. gRPC requires a percent-encoded message."""
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", b"".join(map(_percent_encoded, message.encode()))))
    return encode(*fields)


def _percent_encoded(octet: int) -> bytes:
    return bytes((octet,)) if ord(" ") <= octet <= ord("~") and octet != ord("%") else b"%%%02X" % octet


def http_response(status: int) -> bytes:
    """The field block that answers a request which is not gRPC."""
    return encode((b":status", b"%d" % status))


# A successful response is three frames with constant field blocks. These are their headers up to the stream identifier.
RESPONSE: Final = b"\x88" + encode((b"content-type", b"application/grpc"))  # 0x88 is ":status: 200" of the static table
SUCCESS: Final = trailers(Status.OK)
RESPONSE_START: Final = len(RESPONSE).to_bytes(3, "big") + bytes((frames.HEADERS, frames.END_HEADERS))
SUCCESS_START: Final = len(SUCCESS).to_bytes(3, "big") + bytes((frames.HEADERS, frames.END_HEADERS | frames.END_STREAM))
DATA_START: Final = bytes((frames.DATA, 0))  # behind the length

"""The layout of frames (RFC 9113 sections 4 and 6), their numbers, and the two kinds of error.

It encodes frames and checks their layout. Their effect on a connection is elsewhere.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4
HEADER: Final = Struct(">BHBBI")  # length (its high octet, then the other two), type, flags, stream identifier
HEADER_BYTES: Final = 9
MAX_FRAME_SIZE: Final = 16_384  # the default, which we neither raise nor exceed
MAX_WINDOW: Final = (1 << 31) - 1
MAX_STREAM_ID: Final = (1 << 31) - 1

# Types (section 6). Plain integers: comparing an IntEnum member costs more, and every received frame is compared.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# Flags.
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20  # of HEADERS; the RFC calls it PRIORITY, as the frame type

# Settings (section 6.5.2).
SETTINGS_HEADER_TABLE_SIZE: Final = 0x1
SETTINGS_ENABLE_PUSH: Final = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 0x4
SETTINGS_MAX_FRAME_SIZE: Final = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 0x6

# Sizes of payloads, in octets.
CODE_BYTES: Final = 4  # an error code, and the increment of a WINDOW_UPDATE
PING_BYTES: Final = 8
PRIORITY_BYTES: Final = 5
SETTING_BYTES: Final = 6


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Http2ConnectionError(Exception):
    """A connection error (section 5.4.1). It never leaves this package."""

    def __init__(self, code: ErrorCode, cause: str) -> None:
        """``cause`` goes to the log, so it holds nothing that the peer sent."""
        super().__init__(cause)
        self.code = code


class Http2StreamError(Exception):
    """A stream error (section 5.4.2). It never leaves this package."""

    def __init__(self, code: ErrorCode, cause: str) -> None:
        """``cause`` as above."""
        super().__init__(cause)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(
        SETTINGS, 0, 0, b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items())
    )


def goaway(last_stream_id: int, code: ErrorCode) -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def without_padding(payload: bytes, flags: int) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding (sections 6.1 and 6.2).

    Raises:
        Http2ConnectionError: when the padding is as long as the payload or longer.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def without_priority(payload: bytes, flags: int, stream_id: int) -> bytes:
    """The payload of a HEADERS frame without its priority fields, which are deprecated and ignored (section 6.2).

    Raises:
        Http2ConnectionError: when the payload is too short for them, or they are malformed.
    """
    if not flags & PRIORITY_FLAG:
        return payload
    if len(payload) < PRIORITY_BYTES:
        raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority fields")
    require_other_dependency(stream_id, payload)
    return payload[PRIORITY_BYTES:]


def require_other_dependency(stream_id: int, priority: bytes) -> None:
    """A stream cannot depend on itself (RFC 7540 section 5.3.1).

    Raises:
        Http2ConnectionError: when it does.
    """
    if int.from_bytes(priority[:4], "big") & MAX_STREAM_ID == stream_id:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")


def require_connection_frame(stream_id: int, name: str) -> None:
    """SETTINGS, PING and GOAWAY concern the whole connection: their stream identifier is 0.

    Raises:
        Http2ConnectionError: when it is another one.
    """
    if stream_id:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"{name} on a stream")


def require_size(payload: bytes, size: int, name: str) -> None:
    """Some frames have one size only.

    Raises:
        Http2ConnectionError: when the payload has another one.
    """
    if len(payload) != size:
        raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"{name} of {len(payload)} octets instead of {size}")

"""SETTINGS (RFC 9113 section 6.5): the ones that we send, and validation of the peer's.

Of the peer's, only INITIAL_WINDOW_SIZE changes anything: we push nothing, add nothing to its dynamic table, and send no
frame longer than the default.
"""

from __future__ import annotations

from typing import Final

from authz_service.transport.http2 import frames
from authz_service.transport.http2.flow_control import CONNECTION_WINDOW, DEFAULT_WINDOW, STREAM_WINDOW
from authz_service.transport.http2.frames import MAX_FRAME_SIZE, MAX_WINDOW, ErrorCode, Http2ConnectionError
from authz_service.transport.http2.limits import MAX_CONCURRENT_STREAMS, MAX_FIELD_BLOCK

SERVER_PREFACE: Final = frames.settings(
    {
        frames.SETTINGS_MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
        frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        # More than we decode: the peer should send a longer list, so that we can deny the request, not fail itself.
        frames.SETTINGS_MAX_HEADER_LIST_SIZE: MAX_FIELD_BLOCK,
    }
) + frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
ACKNOWLEDGMENT: Final = frames.frame(frames.SETTINGS, frames.ACK, 0)


def require_valid_frame(flags: int, stream_id: int, payload: bytes) -> None:
    """Section 6.5.

    Raises:
        Http2ConnectionError: when a SETTINGS frame is not laid out as it must be.
    """
    frames.require_connection_frame(stream_id, "SETTINGS")
    if len(payload) % frames.SETTING_BYTES or (flags & frames.ACK and payload):
        raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} octets")


def initial_window_of(payload: bytes, current: int) -> int:
    """The initial window of new streams after these settings; of several in one frame, the last one applies.

    Raises:
        Http2ConnectionError: when a setting has a value that it cannot have.
    """
    window = current
    for at in range(0, len(payload), frames.SETTING_BYTES):
        name, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
        _require_valid(name, value)
        if name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
            window = value
    return window


def _require_valid(name: int, value: int) -> None:
    """Section 6.5.2. Settings that are not listed here may have any value."""
    if name == frames.SETTINGS_ENABLE_PUSH and value > 1:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
    if name == frames.SETTINGS_MAX_FRAME_SIZE and not MAX_FRAME_SIZE <= value < 1 << 24:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
    if name == frames.SETTINGS_INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is out of range")

"""The layout of frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.transport.http2 import frames
from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError


def test_frames_have_the_layout_of_the_rfc() -> None:
    """Sections 4.1, 6.4, 6.5, 6.8 and 6.9 of RFC 9113."""
    assert frames.frame(0x6, 0x1, 0, b"12345678").hex() == "000008060100000000" + b"12345678".hex()
    assert frames.rst_stream(5, ErrorCode.CANCEL).hex() == "00000403000000000500000008"
    assert frames.settings({4: 1 << 20}).hex() == "000006040000000000000400100000"
    assert frames.goaway(7, ErrorCode.ENHANCE_YOUR_CALM).hex() == "000008070000000000000000070000000b"
    assert frames.window_update(3, 1).hex() == "00000408000000000300000001"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, (1 << 24) - 1])
def test_a_length_has_three_octets(size: int) -> None:
    assert int.from_bytes(frames.frame(0, 0, 1, bytes(size))[:3], "big") == size


@given(st.binary(max_size=300), st.integers(0, 255))
def test_padding_is_removed_and_nothing_else(payload: bytes, padding: int) -> None:
    assert frames.without_padding(bytes((padding,)) + payload + bytes(padding), frames.PADDED) == payload
    assert frames.without_padding(payload, 0) == payload


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd", b"\xff" * 255])
def test_padding_as_long_as_the_frame_is_a_connection_error(payload: bytes) -> None:
    with pytest.raises(Http2ConnectionError) as error:
        frames.without_padding(payload, frames.PADDED)
    assert error.value.code == ErrorCode.PROTOCOL_ERROR

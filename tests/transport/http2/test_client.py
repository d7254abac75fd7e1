"""The client of one call: it accepts a response of gRPC and nothing else, in any pieces, within bounds."""

from __future__ import annotations

import itertools

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.transport.http2 import frames
from authz_service.transport.http2.client import CallFailedError, StatusError, UnaryCall
from authz_service.transport.http2.compression import encode
from authz_service.transport.http2.frames import frame
from authz_service.transport.http2.grpc_framing import RESPONSE, Status, http_response, prefixed, trailers

END = frames.END_HEADERS | frames.END_STREAM
SETTINGS = frames.settings({frames.SETTINGS_MAX_CONCURRENT_STREAMS: 1})
HEAD = frame(frames.HEADERS, frames.END_HEADERS, 1, RESPONSE)
DATA = frame(frames.DATA, 0, 1, prefixed(b"message"))
SUCCESS = frame(frames.HEADERS, END, 1, trailers(Status.OK))
GOOD = SETTINGS + HEAD + DATA + SUCCESS
HUFFMAN = hpack.Encoder().encode(
    [(b":status", b"200"), (b"content-type", b"application/grpc+proto"), (b"x", b"y" * 99)]
)


def new_call() -> UnaryCall:
    return UnaryCall(b"/a.B/C", b"request", encrypted=False)


def received(*parts: bytes) -> bytes | None:
    call = new_call()
    for part in parts:
        call.receive(part)
    return call.response


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_request_is_a_call_of_grpc(*, encrypted: bool) -> None:
    request = UnaryCall(b"/a.B/C", b"request", encrypted=encrypted).request
    assert request.startswith(frames.PREFACE)
    at, found = len(frames.PREFACE), []
    while at < len(request):
        high, low, kind, flags, stream = frames.HEADER.unpack_from(request, at)
        start = at + frames.HEADER_BYTES
        at = start + (high << 16 | low)
        found.append((kind, flags, stream, request[start:at]))
    (settings, headers, data) = found
    assert settings[:3] == (frames.SETTINGS, 0, 0)
    assert (headers[:3], data) == ((1, frames.END_HEADERS, 1), (0, frames.END_STREAM, 1, prefixed(b"request")))
    fields = dict(hpack.Decoder().decode(headers[3]))
    assert (
        fields.items()
        >= {
            ":method": "POST",
            ":scheme": "https" if encrypted else "http",
            ":path": "/a.B/C",
            "te": "trailers",
            "content-type": "application/grpc",
        }.items()
    )


@given(st.lists(st.integers(1, len(GOOD) - 1), max_size=5))
def test_a_response_is_read_in_any_pieces(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(GOOD)]
    assert received(*(GOOD[a:b] for a, b in itertools.pairwise(bounds))) == b"message"


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD, DATA, frame(frames.SETTINGS, frames.ACK, 0), SUCCESS],
        [
            frame(frames.PING, 0, 0, bytes(8)),
            HEAD,
            frames.window_update(0, 5),
            frames.window_update(1, 5),
            DATA,
            SUCCESS,
        ],
        [frame(0xBE, 0xFF, 77, b"unknown"), HEAD, DATA, SUCCESS],
        [frames.goaway(frames.MAX_STREAM_ID, frames.ErrorCode.NO_ERROR), HEAD, DATA, SUCCESS],  # it drains
        [frame(frames.HEADERS, 0, 1, RESPONSE[:3]), frame(frames.CONTINUATION, 4, 1, RESPONSE[3:]), DATA, SUCCESS],
        [frame(frames.HEADERS, frames.END_HEADERS, 1, HUFFMAN), DATA, SUCCESS],
        [frame(frames.HEADERS, frames.END_HEADERS, 1, encode((b":status", b"103"))), HEAD, DATA, SUCCESS],
        [HEAD, *(frame(frames.DATA, 0, 1, part) for part in (b"\0\0", b"\0\0\x07mess", b"age")), SUCCESS],
        [HEAD, frame(frames.DATA, frames.PADDED, 1, b"\x03" + prefixed(b"message") + bytes(3)), SUCCESS],
        [frame(frames.HEADERS, frames.END_HEADERS | frames.PRIORITY_FLAG, 1, bytes(5) + RESPONSE), DATA, SUCCESS],
    ],
)
def test_whatever_a_server_may_send_besides_is_accepted(parts: list[bytes]) -> None:
    assert received(SETTINGS, *parts) == b"message"


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD, DATA, SUCCESS],
        [frame(frames.SETTINGS, frames.ACK, 0), HEAD, DATA, SUCCESS],
        [b"HTTP/1.1 200 OK\r\n\r\n"],
        [SETTINGS, HEAD, SUCCESS],
        [SETTINGS, HEAD, DATA, DATA, SUCCESS],
        [SETTINGS, HEAD, frame(frames.DATA, 0, 1, prefixed(b"message")[:-1]), SUCCESS],
        [SETTINGS, HEAD, frame(frames.DATA, 0, 1, b"\x01" + prefixed(b"message")[1:]), SUCCESS],  # compressed
        [SETTINGS, HEAD, frame(frames.DATA, frames.END_STREAM, 1, prefixed(b"message"))],
        [SETTINGS, DATA, SUCCESS],
        [SETTINGS, frame(frames.HEADERS, END, 1, http_response(200))],
        [SETTINGS, frame(frames.HEADERS, frames.END_HEADERS, 1, http_response(404)), DATA, SUCCESS],
        [SETTINGS, HEAD, DATA, frame(frames.HEADERS, END, 1, encode((b"grpc-status", b"zero")))],
        [SETTINGS, HEAD, DATA, frame(frames.HEADERS, END, 1, encode((b"grpc-status", b"\xb2")))],
        [SETTINGS, HEAD, DATA, frame(frames.HEADERS, END, 1, encode((b"a", b"0")))],
        [SETTINGS, frame(frames.HEADERS, 0, 1, RESPONSE), DATA],
        [SETTINGS, frame(frames.CONTINUATION, 4, 1, RESPONSE)],
        [SETTINGS, frame(frames.HEADERS, frames.END_HEADERS, 3, RESPONSE)],
        [SETTINGS, frame(frames.SETTINGS, 0, 1)],
        [SETTINGS, frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff" * 9)],
        [SETTINGS, frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\xff")],
        [SETTINGS, frame(frames.PUSH_PROMISE, 4, 1, bytes(9))],
        [SETTINGS, frames.rst_stream(1, frames.ErrorCode.NO_ERROR)],
        [SETTINGS, frames.goaway(0, frames.ErrorCode.NO_ERROR)],
        [SETTINGS, frames.goaway(1, frames.ErrorCode.ENHANCE_YOUR_CALM)],
        [SETTINGS, frame(0xBE, 0, 0, bytes(16_385))],
        [SETTINGS * 10_000],
        [SETTINGS, frame(frames.HEADERS, 0, 1, b""), frame(frames.CONTINUATION, 0, 1, bytes(16_384)) * 5],
    ],
)
def test_anything_else_is_a_failure(parts: list[bytes]) -> None:
    with pytest.raises(CallFailedError) as failed:
        received(*parts)
    assert not isinstance(failed.value, StatusError)


@pytest.mark.parametrize("head", [[HEAD, DATA], []])
def test_a_status_other_than_ok_is_a_failure_that_names_it(head: list[bytes]) -> None:
    block = trailers(Status.UNIMPLEMENTED) if head else RESPONSE + trailers(Status.UNIMPLEMENTED)
    with pytest.raises(StatusError, match="gRPC status 12"):
        received(SETTINGS, *head, frame(frames.HEADERS, END, 1, block))


@given(st.binary(max_size=200), st.integers(0, len(GOOD)))
def test_octets_of_any_kind_end_in_a_response_or_a_failure(octets: bytes, intact: int) -> None:
    call = new_call()
    try:
        call.receive(GOOD[:intact])
        call.receive(octets)
    except CallFailedError:
        assert call.response is None
    else:
        assert call.response == b"message" or intact < len(GOOD)

"""The preface, protocol errors, keepalive, draining and closing."""

from __future__ import annotations

import pytest

from authz_service.core.connection_failure import ConnectionFailure
from authz_service.transport.http2 import frames, limits, timeouts
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.service import (
    CONNECTION_CLOSED,
    OUT_OF_MEMORY,
)
from transport.http2.client import CHECK, DENIED, Client, EchoService, data

OK = "0"
PING, ACK = b"12345678", 1


# The preface and SETTINGS.


def test_the_preface_may_arrive_octet_by_octet_and_anything_else_closes_the_connection() -> None:
    client = Client()
    for octets, over in ((frames.PREFACE, False), (b"GET / HTTP/1.1\r\n\r\n", True), (b"\x16\x03\x01", True)):
        client.connect()
        for octet in octets:
            client.send(bytes((octet,)))
        assert client.connection.closed is over
    assert client.closed == [
        (ConnectionFailure.NOT_HTTP2, "the HTTP/2 connection preface is missing"),
        (ConnectionFailure.TLS, "TLS instead of the HTTP/2 connection preface"),
    ]
    assert client.opened == 2  # the client's own, and the one octet by octet


@pytest.mark.parametrize(
    ("octets", "failure"),
    [
        (b"POST /envoy.service.auth.v3.Authorization/Check HTTP/1.1\r\n", ConnectionFailure.HTTP1),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", ConnectionFailure.HTTP1),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ConnectionFailure.TLS),
        (b"\x16\x02\x01", ConnectionFailure.NOT_HTTP2),
        (b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n", ConnectionFailure.NOT_HTTP2),
        (b"get / http/1.1\r\n\r\n", ConnectionFailure.NOT_HTTP2),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", ConnectionFailure.NOT_HTTP2),
        (b"\0", ConnectionFailure.NOT_HTTP2),
    ],
)
def test_what_a_client_speaks_instead_of_http2_is_recognized(octets: bytes, failure: ConnectionFailure) -> None:
    client = Client()
    client.connect()
    client.send(octets)
    assert [reason for reason, _ in client.closed] == [failure]


def test_the_first_frame_must_be_settings() -> None:
    client = Client()
    for first in (frames.frame(frames.PING, 0, 0, PING), frames.frame(frames.SETTINGS, ACK, 0)):
        client.connect()
        client.send(frames.PREFACE, first)
        assert client.error_code == ErrorCode.PROTOCOL_ERROR


def test_settings_are_acknowledged_before_the_data_that_they_allow() -> None:
    """Section 6.5.3."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(client.request())
    before = len(client.frames)
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1}))
    assert [kind for kind, *_ in client.frames[before:]] == [frames.SETTINGS, frames.DATA]


# Protocol errors. (h2spec, in tests/end_to_end, covers all of RFC 9113.)


REFUSED = frames.frame(frames.HEADERS, 5, 5, b"")  # a request without header fields or a body

CONNECTION_ERRORS = {
    "a frame that is too long": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + b"x" * 16_385, ErrorCode.FRAME_SIZE_ERROR),
    "DATA on the connection": (frames.frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream": (frames.frame(frames.DATA, 0, 9, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on the connection": (frames.frame(frames.HEADERS, 4, 0, b""), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on a server's stream": (frames.frame(frames.HEADERS, 4, 2, b""), ErrorCode.PROTOCOL_ERROR),
    "HEADERS too short for its priority": (frames.frame(frames.HEADERS, 0x24, 1, b"xx"), ErrorCode.FRAME_SIZE_ERROR),
    "padding beyond the frame": (frames.frame(frames.HEADERS, 0x0C, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "an invalid field block": (
        frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "CONTINUATION without HEADERS": (frames.frame(frames.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "an interrupted field block": (
        frames.frame(frames.HEADERS, 0, 1, b"") + frames.frame(frames.PING, 0, 0, PING),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a stream that depends on itself": (
        frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\x03\x10"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PRIORITY of the wrong length on an idle stream": (
        REFUSED + frames.frame(frames.PRIORITY, 0, 7, b"\0\0\0\x03"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "PRIORITY of the wrong length on a server's stream": (
        REFUSED + frames.frame(frames.PRIORITY, 0, 2, b"\0\0\0\x03"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "PRIORITY on the connection": (frames.frame(frames.PRIORITY, 0, 0, b"\0\0\0\x03\x10"), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of the wrong length": (frames.frame(frames.RST_STREAM, 0, 1, b"xxx"), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM on an idle stream": (frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on the connection": (frames.rst_stream(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS on a stream": (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of the wrong length": (frames.frame(frames.SETTINGS, 0, 0, b"xxxxx"), ErrorCode.FRAME_SIZE_ERROR),
    "an acknowledgment with settings": (
        frames.frame(frames.SETTINGS, 1, 0, b"xxxxxx"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "ENABLE_PUSH of 2": (frames.settings({2: 2}), ErrorCode.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE beyond the maximum": (frames.settings({4: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE that is too small": (frames.settings({5: 16_383}), ErrorCode.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE that is too large": (frames.settings({5: 1 << 24}), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frames.frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), ErrorCode.PROTOCOL_ERROR),
    "PING on a stream": (frames.frame(frames.PING, 0, 1, PING), ErrorCode.PROTOCOL_ERROR),
    "PING of the wrong length": (frames.frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frames.frame(frames.GOAWAY, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of the wrong length": (frames.frame(frames.GOAWAY, 0, 0, b"\0" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of the wrong length": (frames.frame(frames.WINDOW_UPDATE, 0, 0, b"xxx"), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by 0": (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond the maximum": (frames.window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an idle stream": (frames.window_update(7, 1), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE on a server's stream": (REFUSED + frames.window_update(2, 1), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on a server's stream": (REFUSED + frames.rst_stream(2, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_connection_error_closes_the_connection_with_its_code(name: str) -> None:
    octets, code = CONNECTION_ERRORS[name]
    client = Client(EchoService(manual=True))
    client.send(octets)
    assert client.error_code == code
    assert len(client.closed) == 1
    before = client.writes
    client.send(client.request())
    client.connection.tick()
    client.connection.drain()
    assert (client.writes, client.service.served) == (before, [])


def test_a_connection_error_cancels_every_stream() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    cancelled: list[int] = []
    client.service.streams[0].on_cancel = lambda: cancelled.append(1)
    client.send(frames.frame(frames.PING, 0, 1, PING))
    assert cancelled == [1]
    assert not client.connection._streams.open


def test_open_requests_are_denied_before_the_connection_is_closed() -> None:
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    client.send(client.request(), client.headers(3), frames.frame(frames.PUSH_PROMISE, 0, 1))
    assert [client.responses[stream_id].messages for stream_id in (1, 3)] == [[DENIED], [DENIED]]
    assert client.service.denials == [CONNECTION_CLOSED] * 2
    assert client.error_code == ErrorCode.PROTOCOL_ERROR
    assert client.frames[-1][0] == frames.GOAWAY
    assert client.share.used == 0


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (data(1, b"more", 0), ErrorCode.STREAM_CLOSED),
        (frames.frame(frames.HEADERS, 4, 1, b""), ErrorCode.STREAM_CLOSED),
        (frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_a_stream_error_denies_the_request_before_the_reset(frame: bytes, code: ErrorCode) -> None:
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    client.send(client.request())
    cancelled: list[int] = []
    client.service.streams[0].on_cancel = lambda: cancelled.append(1)
    client.send(frame)
    assert (client.responses[1].messages, client.responses[1].reset) == ([DENIED], code)
    assert cancelled == [1]
    client.service.manual = False
    assert client.call(b"next").messages == [b"next"]


def test_a_frame_on_a_closed_stream_is_a_connection_error() -> None:
    client = Client()
    client.send(client.request(), data(1, b"more", 0))
    assert client.error_code == ErrorCode.STREAM_CLOSED


def test_frames_on_a_stream_that_we_reset_are_ignored() -> None:
    client = Client()
    client.send(client.headers(1), frames.window_update(1, 0))
    assert client.responses[1].reset == ErrorCode.PROTOCOL_ERROR
    client.send(data(1, b"x", 0), frames.window_update(1, 1), frames.rst_stream(1, ErrorCode.CANCEL))
    assert client.call().status == OK


def test_streams_beyond_the_limit_are_denied_and_the_others_continue() -> None:
    """A proxy may open more before it receives our SETTINGS."""
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    for _ in range(limits.MAX_CONCURRENT_STREAMS + 5000):
        client.send(client.request())
    refused = client.responses[client.next_stream - 2]
    assert (refused.messages, refused.status, refused.reset) == ([DENIED], OK, ErrorCode.REFUSED_STREAM)
    assert set(client.service.denials) == {OUT_OF_MEMORY}
    client.service.streams[0].answer(b"a")
    assert client.responses[1].status == OK
    client.send(client.request())
    assert len(client.service.streams) == limits.MAX_CONCURRENT_STREAMS + 1


# Keepalive and timeouts.


def test_a_ping_is_acknowledged_and_unknown_frames_are_ignored() -> None:
    client = Client()
    client.send(frames.frame(frames.PING, 0, 0, PING), frames.frame(0x2A, 0xFF, 7, b"?"), client.request())
    assert (frames.PING, ACK, 0, PING) in client.frames
    assert client.responses[1].status == OK


def test_an_idle_peer_is_pinged_and_disconnected_without_an_acknowledgment() -> None:
    client = Client()
    for _ in range(timeouts.KEEPALIVE_IDLE + 1):
        client.connection.tick()
    pings = [(kind, flags) for kind, flags, _, _ in client.frames if kind == frames.PING]
    assert pings == [(frames.PING, 0)]
    client.send(frames.frame(frames.PING, ACK, 0, b"alive?\0\0"))
    for _ in range(timeouts.KEEPALIVE_IDLE + timeouts.KEEPALIVE_TIMEOUT):
        client.connection.tick()
    assert not client.connection.closed
    client.connection.tick()
    assert client.closed == [(ConnectionFailure.IDLE, "the keepalive PING was not acknowledged")]


def test_a_peer_that_does_not_read_is_disconnected() -> None:
    client = Client()
    for _ in range(timeouts.KEEPALIVE_IDLE + timeouts.KEEPALIVE_TIMEOUT + 1):
        client.connection.tick(writing=True)
    assert client.closed == [(ConnectionFailure.IDLE, "the peer does not read")]
    assert not any(kind == frames.PING for kind, *_ in client.frames)


@pytest.mark.parametrize("begun", [b"", b"\0\0\x08\x06\0\0\0\0\0", "block"], ids=["preface", "frame", "block"])
def test_an_incomplete_preface_frame_or_field_block_times_out(begun: bytes | str) -> None:
    client = Client()
    if begun == b"":
        client.connect()
    else:
        client.send(client.headers(1, b"", 0) if isinstance(begun, str) else begun)
    for _ in range(timeouts.PREFACE_TIMEOUT):
        client.connection.tick()
    assert not client.connection.closed
    client.connection.tick()
    assert client.closed == [
        (ConnectionFailure.UNFINISHED, "the preface, a frame or a field block was not completed in time")
    ]


# The end.


def test_a_lost_connection_cancels_every_stream() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), client.request())
    cancelled: list[int] = []
    for number, stream in enumerate(client.service.streams):
        stream.on_cancel = lambda number=number: cancelled.append(number)
    client.connection.lost()
    assert cancelled == [0, 1]
    assert client.closed == []


def test_draining_is_announced_then_new_streams_are_ignored_and_the_last_response_closes() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    client.connection.drain()
    assert client.goaways == [(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)]
    client.send(client.request())  # sent before the GOAWAY was received
    client.send(frames.frame(frames.PING, ACK, 0, b"drain..."))
    assert client.goaways[1:] == [(3, ErrorCode.NO_ERROR)]
    client.send(client.request())  # too late
    assert len(client.service.streams) == 2
    client.service.streams[0].answer(b"a")
    assert not client.connection.closed
    client.service.streams[1].answer(b"b")
    assert client.closed == [(None, "drained")]
    assert [client.responses[stream_id].status for stream_id in (1, 3)] == [OK, OK]


def test_draining_does_not_wait_for_a_ping_acknowledgment_without_limit() -> None:
    client = Client()
    client.connection.drain()
    for _ in range(timeouts.DRAIN_TIMEOUT + 1):
        client.connection.tick()
    assert client.closed == [(None, "drained")]


def test_a_connection_error_after_the_final_goaway_does_not_raise_its_last_stream() -> None:
    """Section 6.8: the peer may have sent those requests elsewhere already."""
    client = Client(EchoService(manual=True))
    client.send(client.request())
    client.connection.drain()
    client.send(frames.frame(frames.PING, ACK, 0, b"drain..."), client.request())
    client.send(frames.frame(frames.PUSH_PROMISE, 0, 1))
    assert client.goaways == [((1 << 31) - 1, 0), (1, 0), (1, ErrorCode.PROTOCOL_ERROR)]


def test_a_connection_that_has_used_all_stream_identifiers_can_be_drained() -> None:
    client = Client()
    client.send(client.request(stream_id=(1 << 31) - 1))
    client.connection.drain()
    client.send(frames.frame(frames.PING, ACK, 0, b"drain..."))
    assert client.closed == [(None, "drained")]

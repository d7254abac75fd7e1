"""A connection does what RFC 9113 and gRPC over HTTP/2 say."""

from __future__ import annotations

import pytest

from authz_service.transport.http2 import compression, flow_control, frames, limits, timeouts
from authz_service.transport.http2.connection import CloseReason
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.grpc_framing import Status
from authz_service.transport.http2.service import (
    CONNECTION_CLOSED,
    MESSAGE_TOO_LONG,
    NOT_POST,
    OUT_OF_MEMORY,
    REQUEST_TIMED_OUT,
)
from transport.http2.client import CHECK, DENIED, GRPC, HEAD, Client, EchoService, data, framed

OK, UNIMPLEMENTED, INTERNAL = "0", "12", "13"
PING, ACK = b"12345678", 1


# Calls.


def test_a_call_is_answered_with_head_message_and_trailers() -> None:
    answer = Client().call(b"hello")
    assert answer.headers == [
        {":status": "200", "content-type": "application/grpc"},
        {"grpc-status": OK},
    ]
    assert answer.messages == [b"hello"]
    assert answer.ended
    assert answer.reset is None


def test_calls_that_come_together_are_answered_with_one_write() -> None:
    client = Client()
    before = client.writes
    client.send(*(client.request(str(number).encode()) for number in range(50)))
    assert client.writes == before + 1
    assert [client.responses[stream].messages for stream in range(1, 100, 2)] == [[str(n).encode()] for n in range(50)]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_how_the_octets_are_cut_changes_nothing(step: int) -> None:
    client = Client()
    octets = b"".join(client.request(b"x" * size) for size in (0, 1, 20_000, 3))
    for at in range(0, len(octets), step):
        client.send(octets[at : at + step])
    assert [len(client.responses[stream].messages[0]) for stream in (1, 3, 5, 7)] == [0, 1, 20_000, 3]


def test_the_preface_may_come_octet_by_octet_and_nothing_else_in_its_place() -> None:
    client = Client()
    for octets, over in ((frames.PREFACE, False), (b"GET / HTTP/1.1\r\n\r\n", True), (b"\x16\x03\x01", True)):
        client.connect()
        for octet in octets:
            client.send(bytes((octet,)))
        assert client.connection.closed is over
    assert client.closed == [(CloseReason.NOT_HTTP2, "the HTTP/2 connection preface is missing")] * 2


def test_a_request_may_end_by_an_empty_frame_or_by_trailers() -> None:
    client = Client()
    client.send(client.headers(1), data(1, framed(b"a"), 0), data(1, b""))
    client.send(client.headers(3), data(3, framed(b"b"), 0))
    client.send(frames.frame(frames.HEADERS, 5, 3, client.encoder.encode([("x", "y")])))
    assert client.responses[1].messages == [b"a"]
    assert client.responses[3].messages == [b"b"]


def test_padding_and_priority_are_no_part_of_what_is_said() -> None:
    client = Client()
    block = b"\x02" + b"\0\0\0\0\x10" + client.block() + b"\0\0"
    flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITY_FLAG
    client.send(client.headers(1, block, flags))
    client.send(frames.frame(frames.DATA, frames.END_STREAM | frames.PADDED, 1, b"\x03" + framed(b"a") + b"\0\0\0"))
    assert client.responses[1].messages == [b"a"]


def test_a_header_block_may_come_in_parts() -> None:
    client = Client()
    block = client.block()
    client.send(client.headers(1, block[:3], 0), frames.frame(frames.CONTINUATION, 0, 1, block[3:9]))
    client.send(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]), data(1, framed(b"a")))
    assert client.responses[1].messages == [b"a"]


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("200m", 0.2), ("1S", 1), ("2M", 120), ("1H", 3600), ("5u", 5e-6), ("7n", 7e-9), ("99999999m", 99999.999)],
)
def test_the_callers_deadline_is_read(timeout: str, seconds: float) -> None:
    client = Client()
    client.call(b"", ("grpc-timeout", timeout))
    assert client.service.streams[0].headers.timeout == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", ["", "m", "1", "1s", "-1m", "1.5S", "999999999m", "\u0661m"])
def test_a_deadline_that_cannot_be_read_is_none(timeout: str) -> None:
    client = Client()
    assert client.call(b"", ("grpc-timeout", timeout)).status == OK
    assert client.service.streams[0].headers.timeout is None


@pytest.mark.parametrize(
    ("payload", "more", "status"),
    [
        (framed(b"abc", 1), [("grpc-encoding", "gzip")], UNIMPLEMENTED),
        (framed(b"abc", 1), [], INTERNAL),
        (framed(b"abc", 1), [("grpc-encoding", "identity")], INTERNAL),
        (framed(b"abc", 2), [], INTERNAL),
        (b"", [], INTERNAL),
        (b"\0\0\0", [], INTERNAL),
        (framed(b"abc")[:-1], [], INTERNAL),
        (framed(b"abc") + b"x", [], INTERNAL),
        (framed(b"a") + framed(b"b"), [], INTERNAL),
    ],
)
def test_what_is_not_one_plain_message_is_refused_by_trailers_alone(
    payload: bytes, more: list[tuple[str, str]], status: str
) -> None:
    client = Client()
    client.send(client.headers(1, client.block(*more)), data(1, payload))
    (only,) = client.responses[1].headers
    assert (only[":status"], only["grpc-status"]) == ("200", status)
    assert client.service.served == []
    assert client.call().status == OK


def test_a_refusal_tells_why_percent_encoded() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    client.service.streams[0].refuse(Status.UNAVAILABLE, "50 % café\n")
    assert client.responses[1].headers[0]["grpc-message"] == "50 %25 caf%C3%A9%0A"


@pytest.mark.parametrize(
    ("head", "plain", "status"),
    [
        (HEAD, (("content-type", "text/plain"),), "415"),
        (HEAD, (), "415"),
        (HEAD, (("content-type", "application/grpcx"),), "415"),
        (((":method", "GET"), *HEAD[1:]), GRPC, "405"),
    ],
)
def test_what_is_no_grpc_is_told_so_in_http(
    head: tuple[tuple[str, str], ...], plain: tuple[tuple[str, str], ...], status: str
) -> None:
    client = Client()
    client.send(client.headers(1, client.block(head=head, plain=plain)), data(1, b"hello"))
    assert client.responses[1].headers == [{":status": status}]
    assert client.responses[1].ended
    assert client.call().status == OK


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=x", "application/grpc ; a=b"])
def test_every_form_of_grpcs_content_type_is_served(kind: str) -> None:
    client = Client()
    client.send(client.headers(1, client.block(plain=(("content-type", kind),))), data(1, framed(b"a")))
    assert client.responses[1].status == OK


def test_several_messages_may_be_sent_before_the_end() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    (call,) = client.service.streams
    call.send(b"one")
    call.send(b"two")
    assert (client.responses[1].messages, client.responses[1].ended) == ([b"one", b"two"], False)
    call.refuse(Status.UNAVAILABLE, "over")
    assert (client.responses[1].status, client.responses[1].ended) == ("14", True)


def test_what_is_said_after_the_end_or_to_nobody_is_dropped() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), client.request())
    first, second = client.service.streams
    first.answer(b"once")
    cancelled: list[int] = []
    second.on_cancel = lambda: cancelled.append(1)
    client.send(frames.rst_stream(3, ErrorCode.CANCEL))
    assert cancelled == [1]
    for call in (first, second):
        assert not call.open
        call.answer(b"again")
        call.send(b"again")
        call.refuse(Status.INTERNAL, "again")
    assert client.responses[1].messages == [b"once"]
    assert 3 not in client.responses
    assert not client.connection._streams.open


def test_who_works_for_a_peer_that_is_gone_is_told() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request(), client.request())
    told: list[int] = []
    for number, call in enumerate(client.service.streams):
        call.on_cancel = lambda number=number: told.append(number)
    client.connection.lost()
    assert told == [0, 1]
    assert client.closed == []


STREAMED = (*HEAD[:2], (":path", "/streamed"), *HEAD[3:])


def streaming(*, max_message_bytes: int = 1 << 20) -> Client:
    client = Client(EchoService(manual=True, max_message_bytes=max_message_bytes))
    client.service.streaming_paths = frozenset({b"/streamed"})
    client.send(client.headers(1, client.block(head=STREAMED)))
    return client


@pytest.mark.parametrize("step", [1, 4, 5, 6, 1000])
def test_messages_of_a_streamed_call_are_served_as_they_come(step: int) -> None:
    client = streaming()
    octets = framed(b"one") + framed(b"") + framed(b"three" * 50)
    for at in range(0, len(octets), step):
        client.send(data(1, octets[at : at + step], 0))
    assert client.service.served == [b"one", b"", b"three" * 50]
    client.service.streams[0].send(b"answer")
    client.send(data(1, b""))
    assert (client.responses[1].messages, client.responses[1].status) == ([b"answer"], OK)


def test_a_streamed_call_may_end_with_its_last_message_or_within_one() -> None:
    client = streaming()
    client.send(data(1, framed(b"one"), 0), data(1, framed(b"two")))
    assert client.service.served == [b"one", b"two"]
    assert client.service.streams[1].remote_closed
    client = streaming()
    client.send(data(1, framed(b"one"), 0), data(1, framed(b"two")[:-1]))
    assert client.responses[1].status == INTERNAL


@pytest.mark.parametrize("octets", [framed(b"x", 1), b"\0\0\x10\0\0" + b"x" * 100])
def test_a_message_of_a_streamed_call_that_is_compressed_or_too_long_ends_it(octets: bytes) -> None:
    client = streaming(max_message_bytes=1000)
    client.send(data(1, octets, 0))
    assert client.responses[1].status == UNIMPLEMENTED
    assert client.service.served == []
    assert not client.connection._streams.open


# Flow control.


def test_an_answer_keeps_to_the_windows_of_the_peer() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 10})
    client.send(client.request(b"x" * 100))
    answer = client.responses[1]
    assert (len(answer.data), answer.ended) == (10, False)
    client.send(frames.window_update(1, 1))
    assert len(answer.data) == 11
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 20}))
    assert len(answer.data) == 21
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}), frames.window_update(1, 20))
    assert len(answer.data) == 21
    client.send(frames.window_update(1, 1000))
    assert (answer.messages, answer.ended) == ([b"x" * 100], True)


def test_settings_are_acknowledged_before_what_they_let_out() -> None:
    """Section 6.5.3: at once when they have been taken."""
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0})
    client.send(client.request())
    before = len(client.frames)
    client.send(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1}))
    assert [kind for kind, *_ in client.frames[before:]] == [frames.SETTINGS, frames.DATA]


def test_the_window_of_the_connection_holds_for_all_streams() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 20})
    client.send(client.request(b"a" * 65_000), client.request(b"b" * 1000), client.request(b""))
    assert [len(client.responses[stream].data) for stream in (1, 3)] == [65_005, 530]
    client.send(frames.window_update(0, 1000))
    assert [client.responses[stream].ended for stream in (1, 3, 5)] == [True, True, True]


def test_a_long_answer_is_cut_into_frames_that_the_peer_takes() -> None:
    client = Client(settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 20})
    client.send(frames.window_update(0, 1 << 20), client.request(b"x" * 100_000))
    sizes = [len(payload) for kind, _, stream, payload in client.frames if (kind, stream) == (frames.DATA, 1)]
    assert max(sizes) == frames.MAX_FRAME_SIZE
    assert client.responses[1].messages == [b"x" * 100_000]


def test_a_long_request_is_let_in_window_by_window() -> None:
    client = Client(EchoService(max_message_bytes=5 << 20), settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 8 << 20})
    client.send(frames.window_update(0, 8 << 20), client.headers(1))
    payload, window, at = framed(b"x" * (4 << 20)), flow_control.STREAM_WINDOW, 0
    while at < len(payload):
        chunk = payload[at : at + min(frames.MAX_FRAME_SIZE, window)]
        at += len(chunk)
        window -= len(chunk)
        before = len(client.frames)
        client.send(data(1, chunk, 0))
        window += sum(
            int.from_bytes(each, "big")
            for kind, _, stream, each in client.frames[before:]
            if (kind, stream) == (frames.WINDOW_UPDATE, 1)
        )
    client.send(data(1, b""))
    assert len(client.responses[1].messages[0]) == 4 << 20


def test_more_than_a_window_is_a_flow_control_error() -> None:
    client = Client()
    client.send(client.headers(1))
    for _ in range(flow_control.STREAM_WINDOW // frames.MAX_FRAME_SIZE // 2 - 1):
        client.send(data(1, b"x" * frames.MAX_FRAME_SIZE, 0))
    client.connection._streams.open[1].receive_window = 5
    client.send(data(1, b"123456", 0))
    assert client.responses[1].reset == ErrorCode.FLOW_CONTROL_ERROR
    client.connection._flow_control.receive_window = 5
    client.send(client.headers(3), data(3, b"123456", 0))
    assert client.error_code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("size", [1001, 20_000, 200_000])
def test_of_a_message_that_is_too_long_nothing_is_kept_and_it_is_denied(size: int) -> None:
    client = Client(EchoService(max_message_bytes=1000, denied=(CHECK,)))
    client.send(client.headers(1), data(1, framed(b"x" * size)[:-1], 0))
    assert client.share.used <= 1005
    client.send(data(1, b"x"))
    assert client.service.denials == [MESSAGE_TOO_LONG]
    assert client.responses[1].messages == [DENIED]
    assert client.call(b"x" * 1000).messages == [b"x" * 1000]


@pytest.mark.parametrize("last", [b"", b"y" * 100], ids=["by nothing more", "by more"])
def test_a_message_that_was_cut_stays_too_long_when_the_limit_is_raised_meanwhile(last: bytes) -> None:
    """A reload may raise it. What was left out must not be missing from what is decided."""
    service = EchoService(manual=True, max_message_bytes=1000, denied=(CHECK,))
    client = Client(service)
    payload = framed(b"x" * 100_000 + last)
    client.send(client.headers(1), data(1, payload[: len(payload) - len(last)], 0))
    service.max_message_bytes = 500_000
    client.send(data(1, last))
    assert (service.served, service.denials) == ([], [MESSAGE_TOO_LONG])


# What a peer may not do. (h2spec, in tests/end_to_end, goes through all of RFC 9113.)


REFUSED = frames.frame(frames.HEADERS, 5, 5, b"")  # a stream that begins, and ends at once

CONNECTION_FAULTS = {
    "a frame that is too long": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + b"x" * 16_385, ErrorCode.FRAME_SIZE_ERROR),
    "DATA of no stream": (frames.frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA of a stream that has not begun": (frames.frame(frames.DATA, 0, 9, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of no stream": (frames.frame(frames.HEADERS, 4, 0, b""), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of a server's stream": (frames.frame(frames.HEADERS, 4, 2, b""), ErrorCode.PROTOCOL_ERROR),
    "HEADERS without its priority": (frames.frame(frames.HEADERS, 0x24, 1, b"xx"), ErrorCode.FRAME_SIZE_ERROR),
    "padding beyond the frame": (frames.frame(frames.HEADERS, 0x0C, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "a block that is no HPACK": (
        frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "CONTINUATION of nothing": (frames.frame(frames.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "a block that is interrupted": (
        frames.frame(frames.HEADERS, 0, 1, b"") + frames.frame(frames.PING, 0, 0, PING),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a stream that depends on itself": (
        frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\x03\x10"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PRIORITY of another length, of an idle stream": (
        REFUSED + frames.frame(frames.PRIORITY, 0, 7, b"\0\0\0\x03"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "PRIORITY of another length, of a server's stream": (
        REFUSED + frames.frame(frames.PRIORITY, 0, 2, b"\0\0\0\x03"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "PRIORITY of no stream": (frames.frame(frames.PRIORITY, 0, 0, b"\0\0\0\x03\x10"), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of another length": (frames.frame(frames.RST_STREAM, 0, 1, b"xxx"), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM of an idle stream": (frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of no stream": (frames.rst_stream(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of a stream": (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of another length": (frames.frame(frames.SETTINGS, 0, 0, b"xxxxx"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS that acknowledge and say something": (
        frames.frame(frames.SETTINGS, 1, 0, b"xxxxxx"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "ENABLE_PUSH of 2": (frames.settings({2: 2}), ErrorCode.PROTOCOL_ERROR),
    "a window that is too large": (frames.settings({4: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE that is too small": (frames.settings({5: 16_383}), ErrorCode.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE that is too large": (frames.settings({5: 1 << 24}), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frames.frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), ErrorCode.PROTOCOL_ERROR),
    "PING of a stream": (frames.frame(frames.PING, 0, 1, PING), ErrorCode.PROTOCOL_ERROR),
    "PING of another length": (frames.frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY of a stream": (frames.frame(frames.GOAWAY, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of another length": (frames.frame(frames.GOAWAY, 0, 0, b"\0" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of another length": (frames.frame(frames.WINDOW_UPDATE, 0, 0, b"xxx"), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by nothing": (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond what there is": (frames.window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of an idle stream": (frames.window_update(7, 1), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of a server's stream": (REFUSED + frames.window_update(2, 1), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of a server's stream": (REFUSED + frames.rst_stream(2, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("fault", CONNECTION_FAULTS)
def test_what_breaks_the_protocol_ends_the_connection_with_its_code(fault: str) -> None:
    octets, code = CONNECTION_FAULTS[fault]
    client = Client(EchoService(manual=True))
    client.send(octets)
    assert client.error_code == code
    assert len(client.closed) == 1
    before = client.writes
    client.send(client.request())
    client.connection.tick()
    client.connection.drain()
    assert (client.writes, client.service.served) == (before, [])


def test_settings_come_first() -> None:
    client = Client()
    for first in (frames.frame(frames.PING, 0, 0, PING), frames.frame(frames.SETTINGS, ACK, 0)):
        client.connect()
        client.send(frames.PREFACE, first)
        assert client.error_code == ErrorCode.PROTOCOL_ERROR


def test_a_fault_cancels_every_call_of_the_connection() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    told: list[int] = []
    client.service.streams[0].on_cancel = lambda: told.append(1)
    client.send(frames.frame(frames.PING, 0, 1, PING))
    assert told == [1]
    assert not client.connection._streams.open


UNREADABLE = {
    "a pseudo-header field that is unknown": [*HEAD, (":x", "b"), *GRPC],
    "a response's pseudo-header field": [*HEAD, (":status", "200"), *GRPC],
    "a pseudo-header field twice": [*HEAD, HEAD[0], *GRPC],
    "another path beside it": [*HEAD, (":path", "/other"), *GRPC],
    "a pseudo-header field after others": [HEAD[0], ("a", "b"), *HEAD[1:], *GRPC],
    "no method": [*HEAD[1:], *GRPC],
    "no scheme": [HEAD[0], *HEAD[2:], *GRPC],
    "no path": [*HEAD[:2], HEAD[3], *GRPC],
    "an empty path": [HEAD[0], HEAD[1], (":path", ""), HEAD[3], *GRPC],
    "content-length that is no number": [*HEAD, *GRPC, ("content-length", "x")],
    "content-length that is empty": [*HEAD, *GRPC, ("content-length", "")],
    "content-length that is longer than Python reads": [*HEAD, *GRPC, ("content-length", "6" * 5000)],
    "content-length that is longer than we read": [*HEAD, *GRPC, ("content-length", "6" * 30_000)],
    "two of content-length": [*HEAD, *GRPC, ("content-length", "99"), ("content-length", "6")],
    "content-length that is not the length": [*HEAD, *GRPC, ("content-length", "7")],
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_malformed_request_is_denied_and_then_its_stream_is_reset_and_no_other(fault: str) -> None:
    """Section 8.1.1: a server may respond before it resets. A reset alone has decided nothing."""
    client = Client(EchoService(denied=(CHECK, "")))
    client.send(in_frames(client, client.encoder.encode(UNREADABLE[fault])))
    answer = client.responses[1]
    assert (answer.messages, answer.status, answer.reset) == ([DENIED], OK, ErrorCode.PROTOCOL_ERROR)
    assert client.service.served == []
    assert client.call(b"next").messages == [b"next"]


IMPROPER = {
    "an upper-case name": ("X-A", "b"),
    "a name with a space": ("x a", "b"),
    "an empty name": ("", "b"),
    "connection": ("connection", "close"),
    "transfer-encoding": ("transfer-encoding", "chunked"),
    "te that is not trailers": ("te", "gzip"),
}


@pytest.mark.parametrize("field", IMPROPER)
def test_a_request_with_a_field_that_may_not_be_is_answered_as_any_and_then_its_stream_is_reset(field: str) -> None:
    client = Client()
    answer = client.call(b"a", IMPROPER[field])
    assert (answer.messages, answer.status, answer.reset) == ([b"a"], OK, ErrorCode.PROTOCOL_ERROR)
    assert client.call(b"next").messages == [b"next"]


@pytest.mark.parametrize("value", [" a", "a ", "\ta", " ", "a\r\nb: c", "a\0b", "\x7f\x80", "x" * 60_000])
def test_a_value_that_is_not_read_is_not_judged(value: str) -> None:
    client = Client()
    client.send(in_frames(client, client.block(("tracestate", value))))
    answer = client.responses[1]
    assert (answer.messages, answer.status, answer.reset) == ([b"a"], OK, None)


def in_frames(client: Client, block: bytes) -> bytes:
    """A call whose header block may take several frames."""
    stream, size = client.next_stream, frames.MAX_FRAME_SIZE
    parts = [block[at : at + size] for at in range(0, len(block), size)]
    begun = client.headers(stream, parts[0], 0 if parts[1:] else frames.END_HEADERS)
    rest = [frames.frame(frames.CONTINUATION, 0, stream, part) for part in parts[1:]]
    if rest:
        rest[-1] = frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream, parts[-1])
    return b"".join((begun, *rest, data(stream, framed(b"a"))))


@pytest.mark.parametrize("size", [100_000, 1_000_000, 8_000_000])
def test_a_header_list_that_is_too_long_is_denied_and_the_connection_goes_on(size: int) -> None:
    client = Client(EchoService(denied=(CHECK,)))
    long = compression.encode((b"tracestate", b"x" * size))
    client.send(in_frames(client, client.block(("x-before", "1")) + long + client.encoder.encode([("x-behind", "1")])))
    answer = client.responses[1]
    assert (answer.messages, answer.status, answer.reset) == ([DENIED], OK, None)
    assert [why.cause for why in client.service.denials] == ["a header list that is too long"]
    assert client.call(b"next", ("x-behind", "1")).messages == [b"next"]
    assert client.share.used == 0


def test_another_method_than_post_is_denied() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(client.headers(1, client.block(head=((":method", "GET"), *HEAD[1:]))), data(1, framed(b"a")))
    assert (client.responses[1].messages, client.responses[1].reset) == ([DENIED], None)
    assert client.service.denials == [NOT_POST]


def test_a_content_type_is_no_reason_not_to_serve_what_is_one_message() -> None:
    client = Client()
    for plain in ((), (("content-type", "text/plain"),), (*GRPC, ("content-type", "x"))):
        stream = client.next_stream
        client.send(client.headers(stream, client.block(plain=plain)), data(stream, framed(b"a")))
        assert client.responses[stream].messages == [b"a"]


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
def test_a_call_whose_stream_is_broken_amid_it_is_denied_before_the_reset(frame: bytes, code: ErrorCode) -> None:
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    client.send(client.request())
    told: list[int] = []
    client.service.streams[0].on_cancel = lambda: told.append(1)
    client.send(frame)
    assert (client.responses[1].messages, client.responses[1].reset) == ([DENIED], code)
    assert told == [1]
    client.service.manual = False
    assert client.call(b"next").messages == [b"next"]


def test_what_is_sent_to_a_stream_that_has_ended_ends_the_connection() -> None:
    client = Client()
    client.send(client.request(), data(1, b"more", 0))
    assert client.error_code == ErrorCode.STREAM_CLOSED


def test_frames_on_their_way_when_we_ended_a_stream_are_forgiven() -> None:
    client = Client()
    client.send(client.headers(1), frames.window_update(1, 0))
    assert client.responses[1].reset == ErrorCode.PROTOCOL_ERROR
    client.send(data(1, b"x", 0), frames.window_update(1, 1), frames.rst_stream(1, ErrorCode.CANCEL))
    assert client.call().status == OK


def test_trailers_that_do_not_end_the_request_or_that_have_what_may_not_be_there_are_denied() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(client.headers(1), data(1, framed(b"a"), 0), client.headers(1, client.encoder.encode([("a", "b")])))
    for stream, field in ((3, (":path", "/")), (5, ("X", "y")), (7, ("connection", "close"))):
        client.send(client.headers(stream), data(stream, framed(b"a"), 0))
        client.send(client.headers(stream, client.encoder.encode([field]), 5))
    for stream in (1, 3, 5, 7):
        answer = client.responses[stream]
        assert (answer.messages, answer.reset) == ([DENIED], ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("value", [" ", "a\0", "x" * 20_000])
def test_the_values_of_trailers_are_not_judged(value: str) -> None:
    client = Client()
    block = client.encoder.encode([("a", value)])
    parts = [block[:10], block[10:]]
    client.send(client.headers(1), data(1, framed(b"a"), 0), client.headers(1, parts[0], frames.END_STREAM))
    client.send(
        *[frames.frame(frames.CONTINUATION, 0, 1, parts[1][at : at + 9999]) for at in range(0, len(parts[1]), 9999)],
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1),
    )
    assert (client.responses[1].messages, client.responses[1].reset) == ([b"a"], None)


def test_more_streams_than_allowed_are_denied_and_the_others_go_on() -> None:
    """A proxy may begin more before it has heard how many are allowed."""
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


# Pings, time, and the end.


def test_a_ping_is_answered_and_unknown_frames_are_ignored() -> None:
    client = Client()
    client.send(frames.frame(frames.PING, 0, 0, PING), frames.frame(0x2A, 0xFF, 7, b"?"), client.request())
    assert (frames.PING, ACK, 0, PING) in client.frames
    assert client.responses[1].status == OK


def test_a_quiet_peer_is_asked_whether_it_is_there_and_left_when_it_is_not() -> None:
    client = Client()
    for _ in range(timeouts.KEEPALIVE_IDLE + 1):
        client.connection.tick()
    asked = [(kind, flags) for kind, flags, _, _ in client.frames if kind == frames.PING]
    assert asked == [(frames.PING, 0)]
    client.send(frames.frame(frames.PING, ACK, 0, b"alive?\0\0"))
    for _ in range(timeouts.KEEPALIVE_IDLE + timeouts.KEEPALIVE_TIMEOUT):
        client.connection.tick()
    assert not client.connection.closed
    client.connection.tick()
    assert client.closed == [(CloseReason.IDLE, "the keepalive PING was not acknowledged")]


def test_a_peer_that_reads_nothing_is_left() -> None:
    client = Client()
    for _ in range(timeouts.KEEPALIVE_IDLE + timeouts.KEEPALIVE_TIMEOUT + 1):
        client.connection.tick(writing=True)
    assert client.closed == [(CloseReason.IDLE, "the peer does not read")]
    assert not any(kind == frames.PING for kind, *_ in client.frames)


@pytest.mark.parametrize("begun", [b"", b"\0\0\x08\x06\0\0\0\0\0", "block"], ids=["preface", "frame", "block"])
def test_what_is_begun_must_be_finished_soon(begun: bytes | str) -> None:
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
        (CloseReason.UNFINISHED, "the preface, a frame or a field block was not completed in time")
    ]


def test_a_request_that_never_ends_is_denied() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(client.headers(1), client.headers(3))
    for _ in range(timeouts.REQUEST_TIMEOUT + 1):
        client.send(frames.frame(frames.PING, ACK, 0, PING))
        client.connection.tick()
    for stream in (1, 3):
        answer = client.responses[stream]
        assert (answer.messages, answer.status, answer.reset) == ([DENIED], OK, ErrorCode.NO_ERROR)
    assert client.service.denials == [REQUEST_TIMED_OUT] * 2
    assert client.call().status == OK


def test_before_a_connection_is_ended_what_waits_for_an_answer_is_denied() -> None:
    client = Client(EchoService(manual=True, denied=(CHECK,)))
    client.send(client.request(), client.headers(3), frames.frame(frames.PUSH_PROMISE, 0, 1))
    assert [client.responses[stream].messages for stream in (1, 3)] == [[DENIED], [DENIED]]
    assert client.service.denials == [CONNECTION_CLOSED] * 2
    assert client.error_code == ErrorCode.PROTOCOL_ERROR
    assert client.frames[-1][0] == frames.GOAWAY
    assert client.share.used == 0


def test_draining_is_announced_then_ends_new_streams_and_closes_after_the_last_answer() -> None:
    client = Client(EchoService(manual=True))
    client.send(client.request())
    client.connection.drain()
    assert client.goaways == [(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)]
    client.send(client.request())  # on its way when it was announced
    client.send(frames.frame(frames.PING, ACK, 0, b"drain..."))
    assert client.goaways[1:] == [(3, ErrorCode.NO_ERROR)]
    client.send(client.request())  # too late
    assert len(client.service.streams) == 2
    client.service.streams[0].answer(b"a")
    assert not client.connection.closed
    client.service.streams[1].answer(b"b")
    assert client.closed == [(CloseReason.DRAINED, "drained")]
    assert [client.responses[stream].status for stream in (1, 3)] == [OK, OK]


def test_a_drain_does_not_wait_for_a_peer_that_answers_no_ping() -> None:
    client = Client()
    client.connection.drain()
    for _ in range(timeouts.DRAIN_TIMEOUT + 1):
        client.connection.tick()
    assert client.closed == [(CloseReason.DRAINED, "drained")]


def test_a_fault_after_the_end_of_new_streams_tells_no_later_stream_than_the_drain_did() -> None:
    """Section 6.8: the peer may have made those calls elsewhere already."""
    client = Client(EchoService(manual=True))
    client.send(client.request())
    client.connection.drain()
    client.send(frames.frame(frames.PING, ACK, 0, b"drain..."), client.request())
    client.send(frames.frame(frames.PUSH_PROMISE, 0, 1))
    assert client.goaways == [((1 << 31) - 1, 0), (1, 0), (1, ErrorCode.PROTOCOL_ERROR)]


def test_a_connection_that_has_used_up_its_streams_can_be_drained() -> None:
    client = Client()
    client.send(client.request(stream_id=(1 << 31) - 1))
    client.connection.drain()
    client.send(frames.frame(frames.PING, ACK, 0, b"drain..."))
    assert client.closed == [(CloseReason.DRAINED, "drained")]

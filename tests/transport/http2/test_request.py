"""Requests: which are served, which are denied, and when."""

from __future__ import annotations

import pytest

from authz_service.transport.http2 import compression, frames, timeouts
from authz_service.transport.http2.frames import ErrorCode
from authz_service.transport.http2.service import (
    MESSAGE_TOO_LONG,
    NOT_POST,
    REQUEST_TIMED_OUT,
)
from transport.http2.client import CHECK, DENIED, GRPC, HEAD, Client, EchoService, data, field_block_frames, framed

OK, UNIMPLEMENTED, INTERNAL = "0", "12", "13"
PING, ACK = b"12345678", 1


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_frames_may_be_split_at_any_octet(step: int) -> None:
    client = Client()
    octets = b"".join(client.request(b"x" * size) for size in (0, 1, 20_000, 3))
    for at in range(0, len(octets), step):
        client.send(octets[at : at + step])
    assert [len(client.responses[stream_id].messages[0]) for stream_id in (1, 3, 5, 7)] == [0, 1, 20_000, 3]


def test_a_request_may_end_with_an_empty_data_frame_or_with_trailers() -> None:
    client = Client()
    client.send(client.headers(1), data(1, framed(b"a"), 0), data(1, b""))
    client.send(client.headers(3), data(3, framed(b"b"), 0))
    client.send(frames.frame(frames.HEADERS, 5, 3, client.encoder.encode([("x", "y")])))
    assert client.responses[1].messages == [b"a"]
    assert client.responses[3].messages == [b"b"]


def test_padding_and_priority_are_ignored() -> None:
    client = Client()
    block = b"\x02" + b"\0\0\0\0\x10" + client.block() + b"\0\0"
    flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITY_FLAG
    client.send(client.headers(1, block, flags))
    client.send(frames.frame(frames.DATA, frames.END_STREAM | frames.PADDED, 1, b"\x03" + framed(b"a") + b"\0\0\0"))
    assert client.responses[1].messages == [b"a"]


def test_a_field_block_may_arrive_in_continuation_frames() -> None:
    client = Client()
    block = client.block()
    client.send(client.headers(1, block[:3], 0), frames.frame(frames.CONTINUATION, 0, 1, block[3:9]))
    client.send(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]), data(1, framed(b"a")))
    assert client.responses[1].messages == [b"a"]


def request_with(client: Client, block: bytes) -> bytes:
    """A request with this field block."""
    stream_id = client.next_stream
    client.next_stream += 2
    return field_block_frames(stream_id, block) + data(stream_id, framed(b"a"))


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("200m", 0.2), ("1S", 1), ("2M", 120), ("1H", 3600), ("5u", 5e-6), ("7n", 7e-9), ("99999999m", 99999.999)],
)
def test_grpc_timeout_is_parsed(timeout: str, seconds: float) -> None:
    client = Client()
    client.call(b"", ("grpc-timeout", timeout))
    assert client.service.streams[0].headers.timeout == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", ["", "m", "1", "1s", "-1m", "1.5S", "999999999m", "\u0661m"])
def test_an_invalid_grpc_timeout_is_ignored(timeout: str) -> None:
    client = Client()
    assert client.call(b"", ("grpc-timeout", timeout)).status == OK
    assert client.service.streams[0].headers.timeout is None


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=x", "application/grpc ; a=b"])
def test_every_form_of_the_grpc_content_type_is_served(kind: str) -> None:
    client = Client()
    client.send(client.headers(1, client.block(plain=(("content-type", kind),))), data(1, framed(b"a")))
    assert client.responses[1].status == OK


def test_one_message_is_served_whatever_its_content_type() -> None:
    client = Client()
    for plain in ((), (("content-type", "text/plain"),), (*GRPC, ("content-type", "x"))):
        stream_id = client.next_stream
        client.send(client.headers(stream_id, client.block(plain=plain)), data(stream_id, framed(b"a")))
        assert client.responses[stream_id].messages == [b"a"]


# Requests that are denied or refused.


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
def test_a_body_that_is_not_one_uncompressed_message_gets_a_trailers_only_response(
    payload: bytes, more: list[tuple[str, str]], status: str
) -> None:
    client = Client()
    client.send(client.headers(1, client.block(*more)), data(1, payload))
    (only,) = client.responses[1].headers
    assert (only[":status"], only["grpc-status"]) == ("200", status)
    assert client.service.served == []
    assert client.call().status == OK


def test_a_method_other_than_post_is_denied() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(client.headers(1, client.block(head=((":method", "GET"), *HEAD[1:]))), data(1, framed(b"a")))
    assert (client.responses[1].messages, client.responses[1].reset) == ([DENIED], None)
    assert client.service.denials == [NOT_POST]


@pytest.mark.parametrize("size", [1001, 20_000, 200_000])
def test_a_message_that_is_too_long_is_denied_and_not_buffered(size: int) -> None:
    client = Client(EchoService(max_message_bytes=1000, denied=(CHECK,)))
    client.send(client.headers(1), data(1, framed(b"x" * size)[:-1], 0))
    assert client.share.used <= 1005
    client.send(data(1, b"x"))
    assert client.service.denials == [MESSAGE_TOO_LONG]
    assert client.responses[1].messages == [DENIED]
    assert client.call(b"x" * 1000).messages == [b"x" * 1000]


@pytest.mark.parametrize("last", [b"", b"y" * 100], ids=["without more", "with more"])
def test_a_message_that_was_too_long_is_denied_even_if_the_limit_is_raised_before_it_ends(last: bytes) -> None:
    """A reload may raise it, and the beginning of the message is gone."""
    service = EchoService(manual=True, max_message_bytes=1000, denied=(CHECK,))
    client = Client(service)
    payload = framed(b"x" * 100_000 + last)
    client.send(client.headers(1), data(1, payload[: len(payload) - len(last)], 0))
    service.max_message_bytes = 500_000
    client.send(data(1, last))
    assert (service.served, service.denials) == ([], [MESSAGE_TOO_LONG])


MALFORMED = {
    "an unknown pseudo-header field": [*HEAD, (":x", "b"), *GRPC],
    "a pseudo-header field of responses": [*HEAD, (":status", "200"), *GRPC],
    "a pseudo-header field twice": [*HEAD, HEAD[0], *GRPC],
    "two paths": [*HEAD, (":path", "/other"), *GRPC],
    "a pseudo-header field after a regular field": [HEAD[0], ("a", "b"), *HEAD[1:], *GRPC],
    "no method": [*HEAD[1:], *GRPC],
    "no scheme": [HEAD[0], *HEAD[2:], *GRPC],
    "no path": [*HEAD[:2], HEAD[3], *GRPC],
    "an empty path": [HEAD[0], HEAD[1], (":path", ""), HEAD[3], *GRPC],
    "a content-length that is not a number": [*HEAD, *GRPC, ("content-length", "x")],
    "an empty content-length": [*HEAD, *GRPC, ("content-length", "")],
    "a content-length that int() refuses": [*HEAD, *GRPC, ("content-length", "6" * 5000)],
    "a content-length that is not decoded": [*HEAD, *GRPC, ("content-length", "6" * 30_000)],
    "two content-lengths": [*HEAD, *GRPC, ("content-length", "99"), ("content-length", "6")],
    "a wrong content-length": [*HEAD, *GRPC, ("content-length", "7")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_denied_then_its_stream_is_reset(name: str) -> None:
    """Section 8.1.1: a server may respond before it resets. A reset alone would decide nothing."""
    client = Client(EchoService(denied=(CHECK, "")))
    client.send(request_with(client, client.encoder.encode(MALFORMED[name])))
    response = client.responses[1]
    assert (response.messages, response.status, response.reset) == ([DENIED], OK, ErrorCode.PROTOCOL_ERROR)
    assert client.service.served == []
    assert client.call(b"next").messages == [b"next"]


FORBIDDEN = {
    "an upper-case name": ("X-A", "b"),
    "a name with a space": ("x a", "b"),
    "an empty name": ("", "b"),
    "connection": ("connection", "close"),
    "transfer-encoding": ("transfer-encoding", "chunked"),
    "te that is not trailers": ("te", "gzip"),
}


@pytest.mark.parametrize("field", FORBIDDEN)
def test_a_request_with_a_forbidden_field_is_served_then_its_stream_is_reset(field: str) -> None:
    client = Client()
    response = client.call(b"a", FORBIDDEN[field])
    assert (response.messages, response.status, response.reset) == ([b"a"], OK, ErrorCode.PROTOCOL_ERROR)
    assert client.call(b"next").messages == [b"next"]


@pytest.mark.parametrize("value", [" a", "a ", "\ta", " ", "a\r\nb: c", "a\0b", "\x7f\x80", "x" * 60_000])
def test_the_value_of_an_unused_field_is_not_validated(value: str) -> None:
    client = Client()
    client.send(request_with(client, client.block(("tracestate", value))))
    response = client.responses[1]
    assert (response.messages, response.status, response.reset) == ([b"a"], OK, None)


@pytest.mark.parametrize("size", [100_000, 1_000_000, 8_000_000])
def test_a_header_list_that_is_too_long_is_denied_and_the_connection_stays_open(size: int) -> None:
    client = Client(EchoService(denied=(CHECK,)))
    long = compression.encode((b"tracestate", b"x" * size))
    client.send(
        request_with(client, client.block(("x-before", "1")) + long + client.encoder.encode([("x-behind", "1")]))
    )
    response = client.responses[1]
    assert (response.messages, response.status, response.reset) == ([DENIED], OK, None)
    assert [why.cause for why in client.service.denials] == ["a header list that is too long"]
    assert client.call(b"next", ("x-behind", "1")).messages == [b"next"]
    assert client.share.used == 0


def test_a_request_with_invalid_trailers_is_denied() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(client.headers(1), data(1, framed(b"a"), 0), client.headers(1, client.encoder.encode([("a", "b")])))
    for stream_id, field in ((3, (":path", "/")), (5, ("X", "y")), (7, ("connection", "close"))):
        client.send(client.headers(stream_id), data(stream_id, framed(b"a"), 0))
        client.send(client.headers(stream_id, client.encoder.encode([field]), 5))
    for stream_id in (1, 3, 5, 7):
        response = client.responses[stream_id]
        assert (response.messages, response.reset) == ([DENIED], ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("value", [" ", "a\0", "x" * 20_000])
def test_the_values_of_trailers_are_not_validated(value: str) -> None:
    client = Client()
    block = client.encoder.encode([("a", value)])
    parts = [block[:10], block[10:]]
    client.send(client.headers(1), data(1, framed(b"a"), 0), client.headers(1, parts[0], frames.END_STREAM))
    client.send(
        *[frames.frame(frames.CONTINUATION, 0, 1, parts[1][at : at + 9999]) for at in range(0, len(parts[1]), 9999)],
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1),
    )
    assert (client.responses[1].messages, client.responses[1].reset) == ([b"a"], None)


def test_a_request_that_never_ends_is_denied() -> None:
    client = Client(EchoService(denied=(CHECK,)))
    client.send(client.headers(1), client.headers(3))
    for _ in range(timeouts.REQUEST_TIMEOUT + 1):
        client.send(frames.frame(frames.PING, ACK, 0, PING))
        client.connection.tick()
    for stream_id in (1, 3):
        response = client.responses[stream_id]
        assert (response.messages, response.status, response.reset) == ([DENIED], OK, ErrorCode.NO_ERROR)
    assert client.service.denials == [REQUEST_TIMED_OUT] * 2
    assert client.call().status == OK


# Streaming requests.


STREAMED = (*HEAD[:2], (":path", "/streamed"), *HEAD[3:])


def streaming(*, max_message_bytes: int = 1 << 20) -> Client:
    client = Client(EchoService(manual=True, max_message_bytes=max_message_bytes))
    client.service.streaming_paths = frozenset({b"/streamed"})
    client.send(client.headers(1, client.block(head=STREAMED)))
    return client


@pytest.mark.parametrize("step", [1, 4, 5, 6, 1000])
def test_messages_of_a_streaming_request_are_served_as_they_arrive(step: int) -> None:
    client = streaming()
    octets = framed(b"one") + framed(b"") + framed(b"three" * 50)
    for at in range(0, len(octets), step):
        client.send(data(1, octets[at : at + step], 0))
    assert client.service.served == [b"one", b"", b"three" * 50]
    client.service.streams[0].send(b"answer")
    client.send(data(1, b""))
    assert (client.responses[1].messages, client.responses[1].status) == ([b"answer"], OK)


def test_a_streaming_request_may_end_with_a_message_but_not_within_one() -> None:
    client = streaming()
    client.send(data(1, framed(b"one"), 0), data(1, framed(b"two")))
    assert client.service.served == [b"one", b"two"]
    assert client.service.streams[1].remote_closed
    client = streaming()
    client.send(data(1, framed(b"one"), 0), data(1, framed(b"two")[:-1]))
    assert client.responses[1].status == INTERNAL


@pytest.mark.parametrize("octets", [framed(b"x", 1), b"\0\0\x10\0\0" + b"x" * 100])
def test_a_compressed_or_too_long_message_ends_a_streaming_request(octets: bytes) -> None:
    client = streaming(max_message_bytes=1000)
    client.send(data(1, octets, 0))
    assert client.responses[1].status == UNIMPLEMENTED
    assert client.service.served == []
    assert not client.connection._streams.open

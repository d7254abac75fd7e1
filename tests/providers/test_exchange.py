"""Which responses are accepted, byte for byte, and that parsing any of them takes bounded, small steps."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TYPE_CHECKING, Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import BadMessage
from authz_service.http1 import MAX_READ
from authz_service.providers.content import MAX_STEP, ContentDecoder
from authz_service.providers.exchange import (
    MAX_CHUNK_LINE,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_INFORMATIONAL,
    Exchange,
    Headers,
    HttpRequest,
    HttpResponse,
    parse_retry_after,
)
from support.raw_provider import CHUNKED, ENDLESS, MAX_BYTES, OK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def exchange_of(method: str = "GET", **changes: Any) -> Exchange:
    """An exchange whose request is sent."""
    request: dict[str, Any] = {
        "method": method,
        "target": "/keys?a=b",
        "headers": {"Host": "a.example"},
        "body": b"",
        "max_bytes": MAX_BYTES,
        "body_statuses": {200},
    }
    exchange = Exchange(HttpRequest(**(request | changes)))
    exchange.encode_request()
    return exchange


def pieces(data: bytes, size: int = MAX_READ) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def feed(exchange: Exchange, received: Iterable[bytes]) -> HttpResponse | None:
    """Feed what is received, piece by piece."""
    for piece in received:
        exchange.feed(piece)
        while exchange.advance():
            pass
        if exchange.response is not None:
            break
    return exchange.response


def response_to(data: bytes, size: int = MAX_READ, *, at_eof: bool = False, **changes: Any) -> HttpResponse | None:
    """The response in this data; None while it is incomplete."""
    return feed(exchange_of(**changes), [*pieces(data, size), *([b""] if at_eof else [])])


def body(data: bytes, **changes: Any) -> bytes:
    response = response_to(data, **changes)
    assert response is not None
    return response.body


# The request.


def test_a_request_is_encoded_with_its_target_and_headers_unchanged() -> None:
    request = HttpRequest("GET", "/keys?a=b", {"Host": "a.example", "If-None-Match": '"v\udce9"'}, b"", 1, {200})
    assert (
        Exchange(request).encode_request()
        == b'GET /keys?a=b HTTP/1.1\r\nHost: a.example\r\nIf-None-Match: "v\xe9"\r\n\r\n'
    )


def test_a_request_with_a_body_has_its_length() -> None:
    request = HttpRequest("POST", "/", {"Host": "a.example"}, b"token=x", 1, {200})
    assert (
        Exchange(request).encode_request() == b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 7\r\n\r\ntoken=x"
    )


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\x00"])
def test_a_header_that_would_split_the_request_is_rejected(value: str) -> None:
    request = HttpRequest("GET", "/", {"Host": "a.example", "If-None-Match": value}, b"", 1, {200})
    with pytest.raises(h11.LocalProtocolError):
        Exchange(request).encode_request()


# Valid responses.


@pytest.mark.parametrize("size", [1, 2, 7, MAX_READ])
@pytest.mark.parametrize(
    ("data", "content"),
    [
        (OK + b"Content-Length: 2\r\n\r\n{}", b"{}"),
        (OK + b"Content-Length: 2, 2\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
        (OK + b"Content-Length: 0\r\n\r\n", b""),
        (CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"{}"),
        (CHUNKED + b"2;a=b \r\n{}\r\n000\r\nTrailer: x\r\n\r\n", b"{}"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", b"{}"),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * MAX_INFORMATIONAL + OK + b"Content-Length: 2\r\n\r\n{}",
            b"{}",
        ),
    ],
    ids=ascii,
)
def test_a_response_is_parsed_however_it_is_split(data: bytes, content: bytes, size: int) -> None:
    exchange = exchange_of()
    response = feed(exchange, pieces(data, size))
    assert response is not None
    assert (response.status, response.body) == (200, content)
    assert exchange.connection_is_reusable


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_response_without_a_length_ends_with_its_connection(version: bytes) -> None:
    data = b"HTTP/" + version + b" 200 OK\r\n\r\n{}"
    assert response_to(data) is None
    assert body(data, at_eof=True) == b"{}"


def test_header_names_are_case_insensitive_and_the_first_of_several_values_is_returned() -> None:
    response = response_to(
        OK + b"ETag: a\r\nETAG: b\r\nContent-Type: Application/JSON ; charset=x\r\nContent-Length:0\r\n\r\n"
    )
    assert response is not None
    assert (response.headers.get("etag"), response.headers.combined("etag")) == ("a", "a,b")
    assert response.content_type == "application/json"
    assert "etag" in response.headers
    assert (response.headers.get("age"), "age" in response.headers) == ("", False)


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_whose_status_has_no_content_is_complete_with_its_head(status: int) -> None:
    exchange = exchange_of(body_statuses={status})
    response = feed(exchange, [b"HTTP/1.1 %d X\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\n" % status])
    assert response is not None
    assert response.body == b""
    assert exchange.connection_is_reusable


@pytest.mark.parametrize("status", [201, 301, 404, 500])
def test_the_body_of_other_statuses_is_not_read(status: int) -> None:
    exchange = exchange_of()
    head = b"HTTP/1.1 %d X\r\nLocation: /x\r\nContent-Length: 1000000000\r\n\r\n" % status
    response = feed(exchange, [head + b"x" * 100])
    assert response is not None
    assert (response.status, response.body, response.headers.get("location")) == (status, b"", "/x")
    assert not exchange.connection_is_reusable


def test_a_redirect_without_content_leaves_the_connection_reusable() -> None:
    exchange = exchange_of()
    assert feed(exchange, [b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"])
    assert exchange.connection_is_reusable


# Whether a connection is reusable: data after one response must never become the next one.


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\n\r\n{}\r\n",
        OK + b"Content-Length: 0\r\n\r\nx",
        CHUNKED + b"0\r\n\r\nx",
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=ascii,
)
def test_a_connection_with_data_after_the_response_or_that_closes_is_not_reusable(data: bytes) -> None:
    exchange = exchange_of()
    assert feed(exchange, [data])
    assert not exchange.connection_is_reusable


def test_a_connection_that_ended_with_its_response_is_not_reusable() -> None:
    exchange = exchange_of()
    exchange.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    exchange.feed(b"")
    while exchange.advance():
        pass
    assert exchange.response is not None
    assert not exchange.connection_is_reusable


# Compressed content.


@pytest.mark.parametrize("size", [1, 100, MAX_READ])
@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_content_is_decompressed_however_it_is_split(size: int, *, chunked: bool) -> None:
    content = bytes(range(256)) * 300
    compressed = gzip.compress(content)
    data = OK + b"Content-Encoding: gzip\r\n"
    if chunked:
        data += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(compressed), compressed)
    else:
        data += b"Content-Length: %d\r\n\r\n%b" % (len(compressed), compressed)
    assert body(data, size=size) == content


def compressed_response(content: bytes, coding: bytes = b"gzip") -> bytes:
    return OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(content), content)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (compressed_response(b"{}"), "content that is not (gzip|deflate)"),
        (compressed_response(gzip.compress(b"{}" * 100)[:-5]), "ends before the end of its gzip content"),
        (compressed_response(gzip.compress(b"{}") + b"x"), "data after the end"),
        (compressed_response(gzip.compress(b"{}") * 2), "data after the end"),
        (compressed_response(zlib.compress(b"{}"), b"gzip"), "content that is not (gzip|deflate)"),
        (compressed_response(b"\xff\xff", b"deflate"), "content that is not (gzip|deflate)"),
        (compressed_response(b"\x0b\x02", b"br"), "content encoding that was not requested"),
        (compressed_response(b"<html>{}", b"br"), "content encoding that was not requested"),
        (compressed_response(gzip.compress(gzip.compress(b"{}")), b"gzip, gzip"), "compressed more than once"),
        (compressed_response(gzip.compress(b" " * (MAX_BYTES + 1))), "larger than max_bytes"),
        (compressed_response(gzip.compress(b" " * 50_000_000)), "larger than max_bytes"),
        (compressed_response(zlib.compress(b" " * 50_000_000), b"deflate"), "larger than max_bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_compressed_content_must_be_complete_valid_and_within_the_maximum_size(data: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        response_to(data)


@pytest.mark.parametrize("coding", [b"", b" ", b"identity", b"utf-8", b"br", b"identity, x-unheard-of", b","])
@pytest.mark.parametrize("content", [b"{}", b' \r\n\t{"a": 1}', b"\xef\xbb\xbf{}", b""])
def test_readable_json_is_accepted_whatever_content_coding_is_named(coding: bytes, content: bytes) -> None:
    assert body(compressed_response(content, coding)) == content


@pytest.mark.parametrize("coding", [b"gzip, identity", b"aws-chunked,gzip", b"GZIP,"])
def test_the_one_compression_among_several_codings_is_used(coding: bytes) -> None:
    assert body(compressed_response(gzip.compress(b"{}"), coding)) == b"{}"


def test_a_decompression_bomb_is_decompressed_in_steps_and_no_further_than_the_maximum_size() -> None:
    decoder = ContentDecoder(MAX_BYTES)
    decoder.begin(Headers([(b"content-encoding", b"gzip")]))
    decoder.feed(gzip.compress(b" " * 50_000_000)[:MAX_READ])
    decoder.decompress()
    assert len(decoder._content) == MAX_STEP
    with pytest.raises(BadMessage, match="larger than"):
        decoder.decompress()
    assert len(decoder._content) == 2 * MAX_STEP


# Invalid responses.


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "did not come"),
        (b"HTTP/1.1 200", "ended before"),
        (b"HTTP/1.1 103 X\r\n\r\n", "did not come"),
        (OK + b"Content-Length: 9\r\n\r\n{}", "ended before"),
        (CHUNKED + b"10\r\n{", "ended before"),
        (CHUNKED + b"0\r\n", "ended before"),
        (CHUNKED, "ended before"),
    ],
    ids=ascii,
)
def test_an_incomplete_response_is_rejected(data: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        response_to(data, at_eof=True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 9999 ?\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"\r\n" + OK + b"Content-Length: 0\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: +1\r\n\r\n",
        OK + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        OK + b"Content-Length: 5, 6\r\n\r\n{}   ",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\n{}",
        OK + b"X: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        OK + b" X: a\r\nContent-Length: 0\r\n\r\n",
        OK + b"X : a\r\nContent-Length: 0\r\n\r\n",
        OK + b"no colon\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: \x00\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: a\rContent-Length: 0\r\n\r\n",
        OK + b"X: " + b" " * 20_000 + b"\x00\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"1" * 5000 + b"\r\n",
        CHUNKED + b"f" * 21 + b"\r\n",
        CHUNKED + b"f" * 20 + b"\r\n" + b"x" * (MAX_BYTES + 1),
        CHUNKED + b"1;" + b" " * 8000 + b"\n\r\n",
        CHUNKED + b"1;" + b"x" * 8000 + b"\r\n{",
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        CHUNKED + b"0\r\nno colon\r\n\r\n",
    ],
    ids=lambda data: ascii(data[:80]),
)
def test_a_response_that_is_not_strictly_http_1_1_is_rejected(data: bytes) -> None:
    for size in (MAX_READ, 100):
        with pytest.raises((BadMessage, h11.RemoteProtocolError)):
            response_to(data, size)


# Endless responses. Each is given up after a bounded number of bytes and steps.


def bytes_until_rejected(exchange: Exchange, data: bytes, size: int = MAX_READ) -> int:
    """How many bytes are fed until the response is rejected."""
    fed = 0
    try:
        for piece in pieces(data, size):
            fed += len(piece)
            exchange.feed(piece)
            while exchange.advance():
                pass
    except (BadMessage, h11.RemoteProtocolError):
        return fed
    pytest.fail(f"still not rejected after {fed} bytes")


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("size", [97, MAX_READ])
def test_an_endless_response_is_rejected_after_a_bounded_number_of_bytes(kind: str, size: int) -> None:
    prefix, repeated, most = ENDLESS[kind]
    assert bytes_until_rejected(exchange_of(), prefix + repeated * (3 * most // len(repeated) + 1), size) <= most


@pytest.mark.parametrize("kind", ENDLESS)
def test_h11_parses_whole_heads_and_small_slices_one_in_each_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    receive, advance = h11.Connection.receive_data, Exchange.advance
    in_step: list[bytes] = []

    def step(exchange: Exchange) -> bool:
        in_step.clear()
        return advance(exchange)

    def record(connection: h11.Connection, data: bytes) -> None:
        in_step.append(data)
        assert len(in_step) == 1
        if connection.their_state is h11.SEND_RESPONSE:
            assert len(data) <= MAX_HEAD_BYTES
            assert data.count(b"\n") <= MAX_HEAD_LINES
            assert data.endswith(b"\n\r\n")
        else:
            assert len(data) <= (MAX_CHUNK_LINE if prefix.startswith(CHUNKED) else MAX_READ)
        receive(connection, data)

    monkeypatch.setattr(h11.Connection, "receive_data", record)
    monkeypatch.setattr(Exchange, "advance", step)
    prefix, repeated, most = ENDLESS[kind]
    bytes_until_rejected(exchange_of(), prefix + repeated * (3 * most // len(repeated) + 1))


@given(
    st.lists(
        st.sampled_from([b"HTTP/1.1 ", b"200 OK", b"103 X", b"\r\n", b"\n", b"Content-Length: ", b"5", b"x"])
        | st.binary(max_size=20),
        max_size=30,
    ).map(b"".join),
    st.integers(1, 50),
)
def test_any_bytes_are_accepted_or_rejected_alike_however_they_are_split(data: bytes, size: int) -> None:
    def outcome(size: int) -> object:
        try:
            response = response_to(data, size, at_eof=True)
        except (BadMessage, h11.RemoteProtocolError):
            return None
        return response and (response.status, response.body)

    assert outcome(size) == outcome(MAX_READ)


def test_no_error_message_quotes_the_response() -> None:
    secret = b"a-secret-token"
    for data in (
        b"HTTP/1.1 " + secret + b"\r\n\r\n",
        OK + secret + b"\r\n\r\n",
        OK + b"Content-Encoding: " + secret + b"\r\n\r\nx",
        OK + b"Content-Length: " + secret + b"\r\n\r\n",
        compressed_response(secret),
    ):
        with pytest.raises((BadMessage, h11.RemoteProtocolError)) as failed:
            response_to(data, at_eof=True)
        assert isinstance(failed.value, h11.RemoteProtocolError) or secret.decode() not in str(failed.value)


# Retry-After.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("120", 120),
        ("999999999999999999999", 999999999),
        ("-5", 0),
        ("1.5", 0),
        ("\u0661", 0),
        ("soon", 0),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120),
        ("Friday, 15-Jan-27 08:02:00 GMT", 120),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 99 Jan 2027 08:02:00 GMT", 0),
        ("Fri, 15 Jan 99999 08:02:00 GMT", 0),
        ("Fri, 15 Jan 99999999999 08:02:00 GMT", 0),
        ("Fri, 15 Jan 2027 99999999999:02:00 GMT", 0),
        ("Fri, 15 Jan 2027 08:02:00 +99999999999999999999", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_a_finite_number_of_seconds(value: str) -> None:
    assert 0 <= parse_retry_after(value, NOW) < math.inf

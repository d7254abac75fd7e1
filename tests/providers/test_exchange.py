"""One answer, octet by octet: what counts, what does not, and that each step of reading it is a small one."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import BadMessage
from authz_service.http1 import MAX_READ
from authz_service.providers import exchange as module
from authz_service.providers.exchange import (
    MAX_CHUNK_LINE,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_INFORMATIONAL,
    Exchange,
    Request,
    Response,
)
from support.raw_provider import CHUNKED, ENDLESS, MAX_BYTES, OK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def asked(method: str = "GET", **changes: Any) -> Exchange:
    request: dict[str, Any] = {
        "method": method,
        "target": "/keys?a=b",
        "headers": {"Host": "a.example"},
        "body": b"",
        "max_bytes": MAX_BYTES,
        "reads": {200},
    }
    made = Exchange(Request(**(request | changes)))
    made.send()
    return made


def pieces(octets: bytes, size: int = MAX_READ) -> Iterator[bytes]:
    for at in range(0, len(octets), size):
        yield octets[at : at + size]


def read(exchange: Exchange, sent: Iterable[bytes]) -> Response | None:
    """Feed it piece by piece, as a connection does."""
    for piece in sent:
        exchange.feed(piece)
        while exchange.advance():
            pass
        if exchange.response is not None:
            break
    return exchange.response


def answer(octets: bytes, size: int = MAX_READ, *, ended: bool = False, **changes: Any) -> Response | None:
    return read(asked(**changes), [*pieces(octets, size), *([b""] if ended else [])])


def body(octets: bytes, **changes: Any) -> bytes:
    response = answer(octets, **changes)
    assert response is not None
    return response.body


# The request.


def test_a_request_is_sent_as_it_is_asked() -> None:
    request = Request("GET", "/keys?a=b", {"Host": "a.example", "If-None-Match": '"v\udce9"'}, b"", 1, {200})
    assert Exchange(request).send() == b'GET /keys?a=b HTTP/1.1\r\nHost: a.example\r\nIf-None-Match: "v\xe9"\r\n\r\n'


def test_a_request_with_content_says_its_length() -> None:
    request = Request("POST", "/", {"Host": "a.example"}, b"token=x", 1, {200})
    assert Exchange(request).send() == b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 7\r\n\r\ntoken=x"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\x00"])
def test_a_header_that_would_split_a_request_is_not_sent(value: str) -> None:
    request = Request("GET", "/", {"Host": "a.example", "If-None-Match": value}, b"", 1, {200})
    with pytest.raises(h11.LocalProtocolError):
        Exchange(request).send()


# Answers that count.


@pytest.mark.parametrize("size", [1, 2, 7, MAX_READ])
@pytest.mark.parametrize(
    ("octets", "content"),
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
def test_an_answer_is_read_however_it_is_cut(octets: bytes, content: bytes, size: int) -> None:
    exchange = asked()
    response = read(exchange, pieces(octets, size))
    assert response is not None
    assert (response.status, response.body) == (200, content)
    assert exchange.leaves_connection_clean


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_that_ends_with_its_connection_is_read_to_that_end(version: bytes) -> None:
    octets = b"HTTP/" + version + b" 200 OK\r\n\r\n{}"
    assert answer(octets) is None
    assert body(octets, ended=True) == b"{}"


def test_header_fields_are_found_in_any_case_and_the_first_of_several_counts() -> None:
    response = answer(
        OK + b"ETag: a\r\nETAG: b\r\nContent-Type: Application/JSON ; charset=x\r\nContent-Length:0\r\n\r\n"
    )
    assert response is not None
    assert (response.headers.get("etag"), response.headers.joined("etag")) == ("a", "a,b")
    assert response.content_type == "application/json"
    assert "etag" in response.headers
    assert (response.headers.get("age"), "age" in response.headers) == ("", False)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_content_is_complete_with_its_head(status: int) -> None:
    exchange = asked(reads={status})
    response = read(exchange, [b"HTTP/1.1 %d X\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\n" % status])
    assert response is not None
    assert response.body == b""
    assert exchange.leaves_connection_clean


@pytest.mark.parametrize("status", [201, 301, 404, 500])
def test_of_a_status_that_says_all_the_content_is_not_read(status: int) -> None:
    exchange = asked()
    head = b"HTTP/1.1 %d X\r\nLocation: /x\r\nContent-Length: 1000000000\r\n\r\n" % status
    response = read(exchange, [head + b"x" * 100])
    assert response is not None
    assert (response.status, response.body, response.headers.get("location")) == (status, b"", "/x")
    assert not exchange.leaves_connection_clean


def test_a_redirect_without_content_leaves_the_connection_clean() -> None:
    exchange = asked()
    assert read(exchange, [b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"])
    assert exchange.leaves_connection_clean


# Whether a connection may be used again: whoever can split an answer must not write the next one.


@pytest.mark.parametrize(
    "octets",
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
def test_a_connection_with_more_on_it_than_the_answer_or_that_ends_is_not_used_again(octets: bytes) -> None:
    exchange = asked()
    assert read(exchange, [octets])
    assert not exchange.leaves_connection_clean


def test_a_connection_that_ended_with_its_answer_is_not_used_again() -> None:
    exchange = asked()
    exchange.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    exchange.feed(b"")
    while exchange.advance():
        pass
    assert exchange.response is not None
    assert not exchange.leaves_connection_clean


# Packed content.


@pytest.mark.parametrize("size", [1, 100, MAX_READ])
@pytest.mark.parametrize("chunked", [False, True])
def test_packed_content_is_unpacked_however_it_is_cut(size: int, *, chunked: bool) -> None:
    content = bytes(range(256)) * 300
    packed = gzip.compress(content)
    octets = OK + b"Content-Encoding: gzip\r\n"
    if chunked:
        octets += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    else:
        octets += b"Content-Length: %d\r\n\r\n%b" % (len(packed), packed)
    assert body(octets, size=size) == content


def packed_answer(packed: bytes, coding: bytes = b"gzip") -> bytes:
    return OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(packed), packed)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (packed_answer(b"{}"), "is not what its content encoding says"),
        (packed_answer(gzip.compress(b"{}" * 100)[:-5]), "ends before"),
        (packed_answer(gzip.compress(b"{}") + b"x"), "goes on behind"),
        (packed_answer(gzip.compress(b"{}") * 2), "goes on behind"),
        (packed_answer(zlib.compress(b"{}"), b"gzip"), "is not what its content encoding says"),
        (packed_answer(b"\xff\xff", b"deflate"), "is not what its content encoding says"),
        (packed_answer(b"{}", b"br"), "content encoding that was not asked for"),
        (packed_answer(gzip.compress(b" " * (MAX_BYTES + 1))), "larger than max_bytes"),
        (packed_answer(gzip.compress(b" " * 50_000_000)), "larger than max_bytes"),
        (packed_answer(zlib.compress(b" " * 50_000_000), b"deflate"), "larger than max_bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_packed_content_counts_only_whole_and_within_the_size_allowed(octets: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        answer(octets)


def test_a_bomb_is_unpacked_step_by_step_and_no_further_than_allowed() -> None:
    content = module._Content(MAX_BYTES)
    content.begin(module.Headers([(b"content-encoding", b"gzip")]))
    content.take(gzip.compress(b" " * 50_000_000)[:MAX_READ])
    content.unpack()
    assert len(content.body()) == 1 << 16
    with pytest.raises(BadMessage, match="larger than"):
        content.unpack()
    assert len(content.body()) == 1 << 17


# Answers that are none, however they go on.


@pytest.mark.parametrize(
    ("octets", "why"),
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
def test_an_answer_that_breaks_off_is_none(octets: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        answer(octets, ended=True)


@pytest.mark.parametrize(
    "octets",
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
    ids=lambda octets: ascii(octets[:80]),
)
def test_what_is_not_strictly_an_answer_is_none(octets: bytes) -> None:
    for size in (MAX_READ, 100):
        with pytest.raises((BadMessage, h11.RemoteProtocolError)):
            answer(octets, size)


# Answers without end. Each ends for us, after a bounded number of octets and steps.


def until_it_fails(exchange: Exchange, octets: bytes, size: int = MAX_READ) -> int:
    """How many octets it takes until the answer is known to be none."""
    fed = 0
    try:
        for piece in pieces(octets, size):
            fed += len(piece)
            exchange.feed(piece)
            while exchange.advance():
                pass
    except (BadMessage, h11.RemoteProtocolError):
        return fed
    pytest.fail(f"after {fed} octets it still goes on")


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("size", [97, MAX_READ])
def test_an_answer_without_end_ends_after_a_bounded_number_of_octets(kind: str, size: int) -> None:
    begin, repeated, most = ENDLESS[kind]
    assert until_it_fails(asked(), begin + repeated * (3 * most // len(repeated) + 1), size) <= most


@pytest.mark.parametrize("kind", ENDLESS)
def test_h11_is_handed_whole_heads_and_small_slices_one_in_each_step(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, advance = h11.Connection.receive_data, Exchange.advance
    in_step: list[bytes] = []

    def step(exchange: Exchange) -> bool:
        in_step.clear()
        return advance(exchange)

    def record(connection: h11.Connection, octets: bytes) -> None:
        in_step.append(octets)
        assert len(in_step) == 1
        if connection.their_state is h11.SEND_RESPONSE:
            assert len(octets) <= MAX_HEAD_BYTES
            assert octets.count(b"\n") <= MAX_HEAD_LINES
            assert octets.endswith(b"\n\r\n")
        else:
            assert len(octets) <= (MAX_CHUNK_LINE if begin.startswith(CHUNKED) else MAX_READ)
        receive(connection, octets)

    monkeypatch.setattr(h11.Connection, "receive_data", record)
    monkeypatch.setattr(Exchange, "advance", step)
    begin, repeated, most = ENDLESS[kind]
    until_it_fails(asked(), begin + repeated * (3 * most // len(repeated) + 1))


@given(
    st.lists(
        st.sampled_from([b"HTTP/1.1 ", b"200 OK", b"103 X", b"\r\n", b"\n", b"Content-Length: ", b"5", b"x"])
        | st.binary(max_size=20),
        max_size=30,
    ).map(b"".join),
    st.integers(1, 50),
)
def test_any_octets_are_an_answer_or_none_however_they_are_cut(octets: bytes, size: int) -> None:
    def outcome(cut: int) -> object:
        try:
            response = answer(octets, cut, ended=True)
        except (BadMessage, h11.RemoteProtocolError):
            return None
        return response and (response.status, response.body)

    assert outcome(size) == outcome(MAX_READ)


def test_no_failure_quotes_what_was_sent() -> None:
    secret = b"a-secret-token"
    for octets in (
        b"HTTP/1.1 " + secret + b"\r\n\r\n",
        OK + secret + b"\r\n\r\n",
        OK + b"Content-Encoding: " + secret + b"\r\n\r\n",
        OK + b"Content-Length: " + secret + b"\r\n\r\n",
        packed_answer(secret),
    ):
        with pytest.raises((BadMessage, h11.RemoteProtocolError)) as failed:
            answer(octets, ended=True)
        assert isinstance(failed.value, h11.RemoteProtocolError) or secret.decode() not in str(failed.value)

"""Header sections of requests. test_properties.py compares cached results with decoding in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.transport.http2 import compression, headers
from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError
from authz_service.transport.http2.headers import HeadersReader
from transport.http2.client import CHECK, GRPC, HEAD

if TYPE_CHECKING:
    from authz_service.transport.http2.compression import FieldBlock


class CountingReader(HeadersReader):
    """Counts the blocks that it decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.decodings = 0

    def decode(self, octets: bytes) -> FieldBlock:
        self.decodings += 1
        return super().decode(octets)


def literals(*fields: tuple[str, str]) -> bytes:
    """A field block that leaves the dynamic table alone."""
    return compression.encode(*((name.encode(), value.encode()) for name, value in fields))


def test_a_repeated_block_is_decoded_once() -> None:
    reader, block = CountingReader(), literals(*HEAD, *GRPC)
    first = reader.read(block)
    assert [reader.read(block) for _ in range(5)] == [first] * 5
    assert reader.decodings == 1


@pytest.mark.parametrize("change", ["an entry", "an eviction", "a size", "an entry in trailers"])
def test_a_change_of_the_table_invalidates_cached_blocks(change: str) -> None:
    encoder, reader, block = hpack.Encoder(), CountingReader(), literals(*HEAD, *GRPC)
    reader.read(encoder.encode([*HEAD, *GRPC]))
    reader.read(block)
    match change:
        case "an entry":
            reader.read(encoder.encode([*HEAD, *GRPC, ("x-a", "b")]))
        case "an eviction":
            reader.read(encoder.encode([*HEAD, *GRPC, ("x-a", "b" * 4000)]))
        case "a size":
            encoder.header_table_size = 100
            reader.read(encoder.encode([*HEAD, *GRPC]))
        case _:
            reader.decode(encoder.encode([("x-a", "b")]))
    before = reader.decodings
    reader.read(block)
    assert reader.decodings == before + 1


def test_a_malformed_request_still_changes_the_table() -> None:
    """RFC 9113 section 4.3."""
    encoder, reader = hpack.Encoder(), HeadersReader()
    assert reader.read(encoder.encode([*HEAD, *GRPC, (":late", ""), ("grpc-timeout", "7S")])).error
    assert reader.read(encoder.encode([*HEAD, *GRPC, ("grpc-timeout", "7S")])).timeout == 7


def test_blocks_that_differ_in_unused_fields_share_one_result() -> None:
    """A tracing proxy changes the table with each request."""
    encoder, reader = hpack.Encoder(), HeadersReader()
    results = [reader.read(encoder.encode([*HEAD, *GRPC, ("tracestate", str(number))])) for number in range(300)]
    assert len(set(map(id, results[1:]))) == 1
    traced = [reader.read(encoder.encode([*HEAD, *GRPC, ("traceparent", str(number))])) for number in range(300)]
    assert [each.traceparent for each in traced] == [str(number) for number in range(300)]
    assert len(reader._by_fields) == 1
    assert reader.read(encoder.encode([*HEAD, *GRPC, ("grpc-timeout", "7S"), ("traceparent", "1")])).timeout == 7


def test_the_caches_are_limited() -> None:
    reader = HeadersReader()
    for number in range(200):
        reader.read(literals(*HEAD, *GRPC, ("grpc-timeout", f"{number}S")))
    reader.read(literals(*HEAD, *GRPC, ("grpc-encoding", "x" * 5000)))
    for cache in (reader._by_fields, reader._by_octets):
        assert 0 < len(cache) <= headers._MAX_CACHED
    assert max(map(len, reader._by_octets)) <= headers._MAX_CACHED_OCTETS
    assert all(result.encoding == b"identity" for result in reader._by_fields.values())


@given(st.binary(max_size=60))
def test_any_octets_are_decoded_or_a_compression_error(octets: bytes) -> None:
    try:
        HeadersReader().read(octets)
    except Http2ConnectionError as error:
        assert error.code == ErrorCode.COMPRESSION_ERROR


NAMES = [b"content-length", b"grpc-timeout", b"grpc-encoding", b"content-type", b"te", b":path", b":x", b"", b"X", b"x"]
FIELDS = st.tuples(
    st.sampled_from(NAMES),
    st.one_of(
        st.binary(max_size=12),
        st.from_regex(rb"[0-9]{1,12}[HMSmun]?", fullmatch=True),
        st.sampled_from([b" ", b"\ta", b"x" * 20_000]),
    ),
)


@given(st.lists(FIELDS, max_size=4))
def test_there_is_a_result_for_any_fields(fields: list[tuple[bytes, bytes]]) -> None:
    result = HeadersReader().read(literals(*HEAD, *GRPC) + compression.encode(*fields))
    assert result.timeout is None or result.timeout >= 0
    assert result.path in {CHECK.encode(), b""}
    names = [name for name, _ in fields]
    assert bool(result.error) >= any(name.startswith(b":") for name in names)
    assert result.malformed or not {b"", b"X", b":x", b":path"} & set(names)


@pytest.mark.parametrize("value", ["a ", " ", "\t", "", "a\0b", "a\r\nb", "\x80\xff", "x" * 50_000])
def test_the_value_of_an_unused_field_is_not_validated(value: str) -> None:
    result = HeadersReader().read(literals(*HEAD, *GRPC, ("tracestate", value)))
    assert (result.error, result.malformed) == ("", False)


def test_a_header_list_is_used_up_to_its_maximum_length() -> None:
    reader, each = HeadersReader(), ("x-a", "y" * 10_000)
    assert reader.read(literals(*HEAD, *GRPC, *[each] * 9)).error == ""
    assert reader.read(literals(*HEAD, *GRPC, *[each] * 10)).error == "a header list that is too long"
    longer = reader.read(literals(*[each] * 10, *HEAD, *GRPC))  # cut before the path
    assert (longer.error, longer.malformed, longer.path) == ("a header list that is too long", False, b"")


def test_the_span_of_the_caller_is_read_and_refuses_nothing() -> None:
    reader = HeadersReader()
    for sent, read in ((("a",), "a"), (("b",), "b"), ((), ""), (("a", "b"), ""), (("",), ""), (("x" * 9000,), "")):
        found = reader.read(literals(*HEAD, *GRPC, *(("traceparent", each) for each in sent)))
        assert (found.traceparent, found.error, found.malformed) == (read, "", False)

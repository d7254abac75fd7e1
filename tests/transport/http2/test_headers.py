"""Header blocks by themselves. What is remembered of them is held against decoding in order in test_properties.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.transport.http2 import compression, grpc_framing, headers
from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError
from authz_service.transport.http2.grpc_framing import Status
from authz_service.transport.http2.headers import HeadersReader
from transport.http2.client import CHECK, GRPC, HEAD, dynamic_table

if TYPE_CHECKING:
    from authz_service.transport.http2.compression import FieldBlock


class Decoding(HeadersReader):
    """Tells how many blocks it had to decode."""

    def __init__(self) -> None:
        super().__init__()
        self.decodings = 0

    def decode(self, octets: bytes) -> FieldBlock:
        self.decodings += 1
        return super().decode(octets)


def plain(*fields: tuple[str, str]) -> bytes:
    """A block that changes no table."""
    return compression.encode(*((name.encode(), value.encode()) for name, value in fields))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=20_000)), max_size=5))
def test_blocks_of_ours_say_to_any_decoder_what_was_meant(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert [tuple(each) for each in decoder.decode(compression.encode(*fields), raw=True)] == fields
    assert dynamic_table(decoder) == []


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 253, 254, 255, 16_509, 16_510, 16_511])
def test_strings_at_the_edges_of_their_lengths_encoding_are_read_whole(size: int) -> None:
    (field,) = hpack.Decoder().decode(compression.encode((b"a", b"x" * size)), raw=True)
    assert field == (b"a", b"x" * size)


@pytest.mark.parametrize("message", ["50% of it", "two\r\nlines", "für alle", 'a "quoted" ~ text'])
def test_what_a_status_tells_is_percent_encoded(message: str) -> None:
    fields: Any = dict(hpack.Decoder().decode(grpc_framing.trailers(Status.INTERNAL, message), raw=True))
    encoded = fields[b"grpc-message"].decode("ascii")
    assert encoded.isprintable()
    assert unquote(encoded) == message


def test_a_block_that_repeats_is_decoded_once() -> None:
    blocks, block = Decoding(), plain(*HEAD, *GRPC)
    first = blocks.read(block)
    assert [blocks.read(block) for _ in range(5)] == [first] * 5
    assert blocks.decodings == 1


@pytest.mark.parametrize("change", ["an entry", "an eviction", "a size", "an entry in trailers"])
def test_a_change_of_the_table_makes_every_block_be_decoded_again(change: str) -> None:
    encoder, blocks, block = hpack.Encoder(), Decoding(), plain(*HEAD, *GRPC)
    blocks.read(encoder.encode([*HEAD, *GRPC]))
    blocks.read(block)
    match change:
        case "an entry":
            blocks.read(encoder.encode([*HEAD, *GRPC, ("x-a", "b")]))
        case "an eviction":
            blocks.read(encoder.encode([*HEAD, *GRPC, ("x-a", "b" * 4000)]))
        case "a size":
            encoder.header_table_size = 100
            blocks.read(encoder.encode([*HEAD, *GRPC]))
        case _:
            blocks.decode(encoder.encode([("x-a", "b")]))
    before = blocks.decodings
    blocks.read(block)
    assert blocks.decodings == before + 1


def test_a_malformed_block_that_changes_the_table_has_changed_it() -> None:
    """Section 4.3: who refuses a request has still to follow the compression."""
    encoder, blocks = hpack.Encoder(), HeadersReader()
    assert blocks.read(encoder.encode([*HEAD, *GRPC, (":late", ""), ("grpc-timeout", "7S")])).error
    assert blocks.read(encoder.encode([*HEAD, *GRPC, ("grpc-timeout", "7S")])).timeout == 7


def test_of_blocks_that_differ_in_what_is_not_read_one_head_is_made() -> None:
    """Those of a proxy that traces, each of which changes the table."""
    encoder, blocks = hpack.Encoder(), HeadersReader()
    heads = [blocks.read(encoder.encode([*HEAD, *GRPC, ("traceparent", str(number))])) for number in range(300)]
    assert len(set(map(id, heads[1:]))) == 1
    assert blocks.read(encoder.encode([*HEAD, *GRPC, ("grpc-timeout", "7S"), ("traceparent", "1")])).timeout == 7


def test_what_is_remembered_is_bounded() -> None:
    blocks = HeadersReader()
    for number in range(200):
        blocks.read(plain(*HEAD, *GRPC, ("grpc-timeout", f"{number}S")))
    blocks.read(plain(*HEAD, *GRPC, ("grpc-encoding", "x" * 5000)))
    for remembered in (blocks._by_fields, blocks._by_octets):
        assert 0 < len(remembered) <= headers._MAX_CACHED
    assert max(map(len, blocks._by_octets)) <= headers._MAX_CACHED_OCTETS
    assert all(head.encoding == b"identity" for head in blocks._by_fields.values())


@given(st.binary(max_size=60))
def test_any_octets_are_a_head_or_cannot_be_decoded(octets: bytes) -> None:
    try:
        HeadersReader().read(octets)
    except Http2ConnectionError as fault:
        assert fault.code == ErrorCode.COMPRESSION_ERROR


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
def test_whatever_the_fields_are_there_is_a_head(fields: list[tuple[bytes, bytes]]) -> None:
    head = HeadersReader().read(plain(*HEAD, *GRPC) + compression.encode(*fields))
    assert head.timeout is None or head.timeout >= 0
    assert head.path in {CHECK.encode(), b""}
    names = [name for name, _ in fields]
    assert bool(head.error) >= any(name.startswith(b":") for name in names)
    assert head.malformed or not {b"", b"X", b":x", b":path"} & set(names)


@pytest.mark.parametrize("value", ["a ", " ", "\t", "", "a\0b", "a\r\nb", "\x80\xff", "x" * 50_000])
def test_a_value_that_is_not_read_is_not_judged(value: str) -> None:
    head = HeadersReader().read(plain(*HEAD, *GRPC, ("tracestate", value)))
    assert (head.error, head.malformed) == ("", False)


def test_a_list_is_read_up_to_its_longest_and_no_further() -> None:
    blocks, each = HeadersReader(), ("x-a", "y" * 10_000)
    assert blocks.read(plain(*HEAD, *GRPC, *[each] * 9)).error == ""
    assert blocks.read(plain(*HEAD, *GRPC, *[each] * 10)).error == "a header list that is too long"
    longer = blocks.read(plain(*[each] * 10, *HEAD, *GRPC))  # of which the beginning does not say what is called
    assert (longer.error, longer.malformed, longer.path) == ("a header list that is too long", False, b"")

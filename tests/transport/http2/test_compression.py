"""HPACK: our decoder and ``hpack``'s give the same results, and our encoder's output is decoded by ``hpack``."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.transport.http2 import compression, frames, huffman
from authz_service.transport.http2.compression import (
    MAX_EXCESS_FIELDS,
    MAX_HEADER_LIST,
    MAX_STRING,
    Decoder,
    FieldBlock,
)
from authz_service.transport.http2.fields import OVERHEAD, USED
from authz_service.transport.http2.frames import ErrorCode, Http2ConnectionError
from authz_service.transport.http2.static_table import STATIC_TABLE
from transport.http2.client import GRPC, HEAD, dynamic_table

Fields = list[tuple[bytes, bytes]]


UNDECODED = b"(not decoded)"


def decode(decoder: Decoder, *fragments: bytes) -> Fields | ErrorCode:
    block = FieldBlock(decoder)
    try:
        for fragment in fragments:
            block.feed(fragment)
        block.end()
    except Http2ConnectionError as error:
        return error.code
    return [(field.name, UNDECODED if field.value is None else field.value) for field in block.fields]


def are_equal(actual: Fields | ErrorCode, expected: Fields | ErrorCode) -> bool:
    """Whether they are equal, except that a long value of an unused field may not be decoded."""
    if not isinstance(actual, list) or not isinstance(expected, list):
        return actual == expected
    undecoded = [n for n, (name, value) in enumerate(expected) if name not in USED and len(value) > compression._SHORT]
    comparable = [
        field if n not in undecoded or field[1] != UNDECODED else expected[n] for n, field in enumerate(actual)
    ]
    return [name for name, _ in actual] == [name for name, _ in expected] and comparable == expected


def decode_with_hpack(decoder: hpack.Decoder, block: bytes) -> Fields | ErrorCode:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return ErrorCode.COMPRESSION_ERROR


# The tables of the RFC.


def test_the_static_table_is_that_of_hpack() -> None:
    assert STATIC_TABLE == HeaderTable.STATIC_TABLE


def test_the_huffman_code_is_that_of_hpack() -> None:
    codes = zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)
    assert {1 << size | code: symbol for symbol, (code, size) in enumerate(codes)} == huffman._SYMBOLS


# The examples of the RFC.

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECURE = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), GET[3]]
REQUESTS = [GET, [*GET, (b"cache-control", b"no-cache")], [*SECURE, (b"custom-key", b"custom-value")]]
AT_13, AT_22 = b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT"
ANSWER = [(b"cache-control", b"private"), (b"date", AT_13), (b"location", b"https://www.example.com")]
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
ANSWERS = [
    [(b":status", b"302"), *ANSWER],
    [(b":status", b"307"), *ANSWER],
    [(b":status", b"200"), ANSWER[0], (b"date", AT_22), ANSWER[2], (b"content-encoding", b"gzip"),
     (b"set-cookie", COOKIE)],
]  # fmt: skip


# The RFC uses a table of 256 octets here.
C_6 = """
3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3
4883640effc1c0bf
88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007
"""
C_3 = """
828684410f7777772e6578616d706c652e636f6d
828684be58086e6f2d6361636865
828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565
"""
C_4 = """
828684418cf1e3c2e5f23a6ba0ab90f4ff
828684be5886a8eb10649cbf
828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf
"""


@pytest.mark.parametrize(
    ("blocks", "expected", "octets"), [(C_3, REQUESTS, 164), (C_4, REQUESTS, 164), (C_6, ANSWERS, 215)]
)
def test_the_examples_of_rfc_7541(blocks: str, expected: list[Fields], octets: int) -> None:
    decoder = Decoder()
    assert [decode(decoder, bytes.fromhex(block)) for block in blocks.split("\n")[1:-1]] == expected
    assert decoder._octets == octets


# Arbitrary blocks.

NUMBERS = st.one_of(st.integers(0, 70), st.integers(0, 300), st.sampled_from([4096, 4097, 1 << 31, 1 << 35]))
STRINGS = st.one_of(st.binary(max_size=8), st.sampled_from([b"a", b"x" * 130, b"y" * 2000, b"z" * 4090]))


def encoded_integer(value: int, prefix: int, first: int, padding: int = 0) -> bytes:
    """Section 5.1, with octets at the end that add nothing."""
    if value < prefix:
        return bytes((first | value,))
    octets, rest = [first | prefix], value - prefix
    while rest > 127 or padding > 0:
        octets.append(rest & 127 | 128)
        rest, padding = rest >> 7, padding - (rest <= 127)
    return bytes((*octets, rest))


@st.composite
def string_literals(draw: st.DrawFn) -> bytes:
    octets, first = draw(STRINGS), draw(st.sampled_from([0, 0, 0, 128]))
    if first and len(octets) > compression._SHORT:
        octets = huffman_encoded(octets)  # a long invalid one may go undetected
    length = draw(st.sampled_from([len(octets)] * 9 + [len(octets) + 1]))
    return encoded_integer(length, 127, first) + octets


def huffman_encoded(string: bytes) -> bytes:
    """The Huffman code of a string."""
    octets: bytes = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(string)
    return octets


def fragments(data: st.DataObject, block: bytes) -> list[bytes]:
    """The block in fragments, as frames carry it."""
    places = sorted(data.draw(st.lists(st.integers(0, len(block)), max_size=4)))
    return [block[start:end] for start, end in zip([0, *places], [*places, len(block)], strict=True)]


@st.composite
def representations(draw: st.DrawFn) -> bytes:
    """One field representation of any kind, valid more often than not."""
    first, prefix = draw(st.sampled_from([(128, 127), (128, 127), (64, 63), (64, 63), (16, 15), (0, 15), (32, 31)]))
    index = draw(NUMBERS)
    octets = encoded_integer(index, prefix, first, draw(st.sampled_from([0, 0, 0, 0, 1, 3, 6])))
    if first in {128, 32}:
        return octets
    return octets + (b"" if index else draw(string_literals())) + draw(string_literals())


@st.composite
def field_lists(draw: st.DrawFn) -> tuple[Fields, bool]:
    names = st.sampled_from([b":method", b"traceparent", b"x-a", b"x-b", b"date"])
    return draw(st.lists(st.tuples(names, STRINGS), max_size=5)), draw(st.booleans())


@given(
    st.lists(
        st.one_of(
            field_lists(),
            st.lists(representations(), max_size=6).map(b"".join),
            st.binary(max_size=40),
            st.integers(0, 20),  # repeats an earlier block
            st.sampled_from([0, 50, 1000, 4096]).map(float),  # resizes the table
        ),
        max_size=25,
    ),
    st.data(),
)
def test_blocks_are_decoded_or_rejected_as_by_hpack(
    steps: list[tuple[Fields, bool] | bytes | int | float], data: st.DataObject
) -> None:
    encoder, decoder, reference = hpack.Encoder(), Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    sent: list[bytes] = []
    for step in steps:
        match step:
            case (fields, huffman):
                sent.append(encoder.encode(fields, huffman=huffman))
            case bytes():
                sent.append(step)
            case float():
                encoder.header_table_size = int(step)
                continue
            case int() if sent:
                sent.append(sent[step % len(sent)])
            case _:
                continue
        expected = decode_with_hpack(reference, sent[-1])
        assert are_equal(decode(decoder, *fragments(data, sent[-1])), expected)
        if expected == ErrorCode.COMPRESSION_ERROR:
            return
        entries = [(field.name, field.value) for field in reversed(decoder.entries)]
        assert entries == dynamic_table(reference)
        assert decoder._octets == sum(len(name) + len(value) + OVERHEAD for name, value in dynamic_table(reference))


@given(st.data())
def test_a_truncated_or_modified_block_is_decoded_as_by_hpack(data: st.DataObject) -> None:
    encoder, decoder, reference = hpack.Encoder(), Decoder(), hpack.Decoder()
    for traced in ("00-59a1e6629122d08928486cf912114a29-f38ca60e9f5b2871-00", "00-d7ce6f62-b12f8ea3bba74f72-01"):
        block = bytearray(encoder.encode([*HEAD, *GRPC, ("traceparent", traced), ("tracestate", "")]))
        for _ in range(data.draw(st.integers(0, 2))):
            block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
        shortened = bytes(block[: data.draw(st.sampled_from([len(block)] * 3 + [*range(len(block))]))])
        expected = decode_with_hpack(reference, shortened)
        assert decode(decoder, *fragments(data, shortened)) == expected
        if expected == ErrorCode.COMPRESSION_ERROR:
            return


def test_the_requests_of_a_tracing_envoy_each_change_the_table() -> None:
    octets = (Path(__file__).parents[2] / "vectors" / "http2" / "envoy_traced.bin").read_bytes()
    decoder, reference, at, changes = Decoder(), hpack.Decoder(), len(frames.PREFACE), [0]
    while at < len(octets):
        high, low, kind, flags, _ = frames.HEADER.unpack_from(octets, at)
        start, at = at + frames.HEADER_BYTES, at + frames.HEADER_BYTES + (high << 16 | low)
        if kind == frames.HEADERS:
            assert flags & frames.END_HEADERS
            fields = decode(decoder, octets[start:at])
            assert fields == decode_with_hpack(reference, octets[start:at])
            assert b"traceparent" in dict(fields if isinstance(fields, list) else [])
            changes.append(decoder.changes)
    assert len(set(changes)) == len(changes) == 7


# Limits.


def test_the_table_is_resized_only_at_the_beginning_of_a_block() -> None:
    """Section 4.2."""
    block = compression.encode((b"x-a", b"b"))
    assert decode(Decoder(), b"\x20\x3f\x01" + block) == [(b"x-a", b"b")]
    assert decode(Decoder(), block + b"\x20") == ErrorCode.COMPRESSION_ERROR
    assert decode(Decoder(), encoded_integer(4097, 31, 32) + block) == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("kind", [0, 64], ids=["without indexing", "with indexing"])
def test_repeated_literals_are_one_field_and_the_cache_is_limited(kind: int) -> None:
    decoder = Decoder()
    literal = bytes((kind,)) + b"\x03x-a\x01b"
    assert decoder.decode(literal).fields[0] is decoder.decode(literal).fields[0]
    for number in range(200):
        decoder.decode(compression.encode((b"x-%d" % number, b"b")))
    decoder.decode(compression.encode((b"x-a", b"b" * 300)))
    assert 0 < len(decoder.literals) <= compression._MAX_LITERALS
    assert max(map(len, decoder.literals)) <= compression._SHORT


def test_a_literal_with_an_indexed_name_is_not_cached() -> None:
    decoder = Decoder()
    again = b"\x0f\x2f\x01v"  # a value for the name of the newest entry
    decoder.decode(b"\x40\x03x-a\x01a")
    assert decode(decoder, again) == [(b"x-a", b"v")]
    decoder.decode(b"\x40\x03x-b\x01b")
    assert decode(decoder, again) == [(b"x-b", b"v")]


@pytest.mark.parametrize(
    "block",
    [b"\x82" * 100_000, compression.encode((b"a", b"")) * 100_000, b"\x20" * 100_000],
    ids=["indexed", "literals", "size updates"],
)
def test_a_block_with_too_many_fields_is_rejected_before_all_are_decoded(
    block: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    integers = Mock(wraps=compression._integer)
    monkeypatch.setattr(compression, "_integer", integers)
    assert decode(Decoder(), block) == ErrorCode.ENHANCE_YOUR_CALM
    assert integers.call_count <= 3 * (MAX_HEADER_LIST // OVERHEAD + MAX_EXCESS_FIELDS + 1)


def test_a_list_that_is_too_long_is_marked_and_still_changes_the_table() -> None:
    decoder, reference = Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    size = len(b"x-1") + 5000 + OVERHEAD
    fields = [(b"x-1", b"y" * 5000)] * (MAX_HEADER_LIST // size)
    assert not decoder.decode(compression.encode(*fields)).too_long
    more = compression.encode(*fields, (b"x-1", b"y" * 5000)) + b"\x40\x03x-2\x01z"
    block = decoder.decode(more)
    assert block.too_long
    assert len(block.fields) == len(fields)
    decode_with_hpack(reference, more)
    assert decode(decoder, b"\xbe") == decode_with_hpack(reference, b"\xbe") == [(b"x-2", b"z")]


# Huffman code.


@given(st.binary(max_size=300))
def test_huffman_code_is_decoded(string: bytes) -> None:
    assert huffman.decode(huffman_encoded(string)) == string


@given(st.binary(max_size=40))
@example(b"\xff\xff\xff\xfc")  # the end-of-string symbol
@example(b"\xff\xff\xff\xff")
@example(b"\x1f\xff")  # a padding of more than seven bits
@example(b"\x00\x00")
def test_huffman_code_is_valid_and_decoded_as_by_hpack(octets: bytes) -> None:
    try:
        expected = decode_huffman(octets)
    except hpack.HPACKDecodingError:
        with pytest.raises(ValueError, match="Huffman"):
            huffman.decode(octets)
    else:
        assert huffman.decode(octets) == expected


def literal(name: bytes, string: bytes, *, indexed: bool) -> bytes:
    """A literal field whose value is these octets, flagged as Huffman code."""
    return bytes((64 * indexed, len(name))) + name + encoded_integer(len(string), 127, 128) + string


INVALID = b"\0" * 1001  # the padding is zeros


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (literal(b"tracestate", INVALID, indexed=False), [(b"tracestate", UNDECODED)]),
        (literal(b"tracestate", INVALID, indexed=True), ErrorCode.COMPRESSION_ERROR),
        (literal(b"tracestate", b"\0" * 11, indexed=False), ErrorCode.COMPRESSION_ERROR),
        (literal(b":path", INVALID, indexed=False), ErrorCode.COMPRESSION_ERROR),
        (literal(b":path", b"\0" * 20_001, indexed=False), [(b":path", UNDECODED)]),
    ],
    ids=["long", "indexed", "short", "used", "used, but too long"],
)
def test_invalid_huffman_code_is_detected_if_the_string_is_decoded(block: bytes, expected: Fields | ErrorCode) -> None:
    assert decode(Decoder(), block) == expected


@pytest.mark.parametrize("step", [1, 100, 16_384, 100_000])
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("size", [100, 1000, MAX_STRING, MAX_STRING + 1, 90_000])
def test_a_string_that_is_too_long_for_the_table_is_not_buffered(step: int, size: int, *, indexed: bool) -> None:
    decoder, reference = Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    string = huffman_encoded(b"\n" * (size * 8 // 30))  # which has the longest code
    first, last = literal(b"x-before", huffman_encoded(b"a"), indexed=True), b"\x40\x07x-after\x01b"
    octets = first + literal(b"tracestate", string, indexed=indexed) + last
    block = FieldBlock(decoder)
    for at in range(0, len(octets), step):
        block.feed(octets[at : at + step])
        assert len(block._tail) <= MAX_STRING + 30
    block.end()
    assert [field.name for field in block.fields] == [b"x-before", b"tracestate", b"x-after"]
    decode_with_hpack(reference, octets)
    assert [(each.name, each.value) for each in reversed(decoder.entries)] == list(
        reference.header_table.dynamic_entries
    )


def test_the_huffman_code_decoded_for_one_block_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    huffman_decode = Mock(wraps=huffman.decode)
    monkeypatch.setattr(huffman, "decode", huffman_decode)
    string = huffman_encoded(b"a" * 8000)
    assert decode(Decoder(), literal(b"a", string, indexed=True) * 100) == ErrorCode.ENHANCE_YOUR_CALM
    assert 0 < sum(len(call.args[0]) for call in huffman_decode.call_args_list) <= MAX_HEADER_LIST
    huffman_decode.reset_mock()
    short = [huffman_encoded(b"%d" % encoded_integer + b"a" * 200) for encoded_integer in range(1000)]
    assert decode(Decoder(), *(literal(b"a", each, indexed=False) for each in short)) != ErrorCode.ENHANCE_YOUR_CALM
    assert 0 < sum(len(call.args[0]) for call in huffman_decode.call_args_list) <= MAX_HEADER_LIST


def test_a_name_that_is_too_long_is_rejected() -> None:
    name = b"\x00" + encoded_integer(MAX_STRING + 1, 127, 0) + b"a" * 100
    assert decode(Decoder(), name) == ErrorCode.ENHANCE_YOUR_CALM


# Encoding.


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=20_000)), max_size=5))
def test_encoded_fields_are_decoded_by_hpack_and_leave_its_table_alone(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert [tuple(each) for each in decoder.decode(compression.encode(*fields), raw=True)] == fields
    assert dynamic_table(decoder) == []


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 253, 254, 255, 16_509, 16_510, 16_511])
def test_encoded_strings_of_every_length_are_decoded_by_hpack(size: int) -> None:
    (field,) = hpack.Decoder().decode(compression.encode((b"a", b"x" * size)), raw=True)
    assert field == (b"a", b"x" * size)

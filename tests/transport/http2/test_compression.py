"""Our decoder of header blocks says what RFC 7541 says, and what ``hpack``'s says, on whatever comes."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
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
from transport.http2.client import GRPC, HEAD, dynamic_table

Fields = list[tuple[bytes, bytes]]


UNREAD = b"(not decoded)"


def ours(decoder: Decoder, *parts: bytes) -> Fields | ErrorCode:
    block = FieldBlock(decoder)
    try:
        for part in parts:
            block.feed(part)
        block.end()
    except Http2ConnectionError as fault:
        return fault.code
    return [(field.name, UNREAD if field.value is None else field.value) for field in block.fields]


def same(some: Fields | ErrorCode, others: Fields | ErrorCode) -> bool:
    """Whether they are, but for what is long and is not read."""
    if not isinstance(some, list) or not isinstance(others, list):
        return some == others
    unread = [n for n, (name, value) in enumerate(others) if name not in USED and len(value) > compression._SHORT]
    read = [field if n not in unread or field[1] != UNREAD else others[n] for n, field in enumerate(some)]
    return [name for name, _ in some] == [name for name, _ in others] and read == others


def theirs(decoder: hpack.Decoder, block: bytes) -> Fields | ErrorCode:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return ErrorCode.COMPRESSION_ERROR


# What the RFC gives as examples.

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


# With a table of 256 octets, as the appendix assumes.
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
    assert [ours(decoder, bytes.fromhex(block)) for block in blocks.split("\n")[1:-1]] == expected
    assert decoder._octets == octets


# Whatever comes.

NUMBERS = st.one_of(st.integers(0, 70), st.integers(0, 300), st.sampled_from([4096, 4097, 1 << 31, 1 << 35]))
STRINGS = st.one_of(st.binary(max_size=8), st.sampled_from([b"a", b"x" * 130, b"y" * 2000, b"z" * 4090]))


def number(value: int, prefix: int, first: int, padding: int = 0) -> bytes:
    """Section 5.1, with octets that say nothing at the end."""
    if value < prefix:
        return bytes((first | value,))
    octets, rest = [first | prefix], value - prefix
    while rest > 127 or padding > 0:
        octets.append(rest & 127 | 128)
        rest, padding = rest >> 7, padding - (rest <= 127)
    return bytes((*octets, rest))


@st.composite
def strings(draw: st.DrawFn) -> bytes:
    octets, first = draw(STRINGS), draw(st.sampled_from([0, 0, 0, 128]))
    if first and len(octets) > compression._SHORT:
        octets = huffman_of(octets)  # of a long one nobody may look whether it is broken
    length = draw(st.sampled_from([len(octets)] * 9 + [len(octets) + 1]))
    return number(length, 127, first) + octets


def huffman_of(string: bytes) -> bytes:
    """It in Huffman's code."""
    octets: bytes = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(string)
    return octets


def cut(drawn: st.DataObject, block: bytes) -> list[bytes]:
    """It in parts, as frames bring it."""
    places = sorted(drawn.draw(st.lists(st.integers(0, len(block)), max_size=4)))
    return [block[start:end] for start, end in zip([0, *places], [*places, len(block)], strict=True)]


@st.composite
def representations(draw: st.DrawFn) -> bytes:
    """One of any kind, more often right than wrong."""
    first, prefix = draw(st.sampled_from([(128, 127), (128, 127), (64, 63), (64, 63), (16, 15), (0, 15), (32, 31)]))
    index = draw(NUMBERS)
    octets = number(index, prefix, first, draw(st.sampled_from([0, 0, 0, 0, 1, 3, 6])))
    if first in {128, 32}:
        return octets
    return octets + (b"" if index else draw(strings())) + draw(strings())


@st.composite
def encoded(draw: st.DrawFn) -> tuple[Fields, bool]:
    names = st.sampled_from([b":method", b"traceparent", b"x-a", b"x-b", b"date"])
    return draw(st.lists(st.tuples(names, STRINGS), max_size=5)), draw(st.booleans())


@given(
    st.lists(
        st.one_of(
            encoded(),
            st.lists(representations(), max_size=6).map(b"".join),
            st.binary(max_size=40),
            st.integers(0, 20),  # one that was sent before
            st.sampled_from([0, 50, 1000, 4096]).map(float),  # a size of the table
        ),
        max_size=25,
    ),
    st.data(),
)
def test_it_decodes_what_hpack_decodes_and_refuses_what_hpack_refuses(
    steps: list[tuple[Fields, bool] | bytes | int | float], drawn: st.DataObject
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
        wanted = theirs(reference, sent[-1])
        assert same(ours(decoder, *cut(drawn, sent[-1])), wanted)
        if wanted == ErrorCode.COMPRESSION_ERROR:
            return
        entries = [(field.name, field.value) for field in reversed(decoder._entries)]
        assert entries == dynamic_table(reference)
        assert decoder._octets == sum(len(name) + len(value) + OVERHEAD for name, value in dynamic_table(reference))


@given(st.data())
def test_a_block_that_is_cut_or_changed_says_what_hpack_reads(drawn: st.DataObject) -> None:
    encoder, decoder, reference = hpack.Encoder(), Decoder(), hpack.Decoder()
    for traced in ("00-59a1e6629122d08928486cf912114a29-f38ca60e9f5b2871-00", "00-d7ce6f62-b12f8ea3bba74f72-01"):
        block = bytearray(encoder.encode([*HEAD, *GRPC, ("traceparent", traced), ("tracestate", "")]))
        for _ in range(drawn.draw(st.integers(0, 2))):
            block[drawn.draw(st.integers(0, len(block) - 1))] = drawn.draw(st.integers(0, 255))
        shortened = bytes(block[: drawn.draw(st.sampled_from([len(block)] * 3 + [*range(len(block))]))])
        wanted = theirs(reference, shortened)
        assert ours(decoder, *cut(drawn, shortened)) == wanted
        if wanted == ErrorCode.COMPRESSION_ERROR:
            return


def test_what_a_tracing_envoy_sent_is_decoded_and_changes_the_table_with_each_call() -> None:
    octets = (Path(__file__).parents[2] / "vectors" / "http2" / "envoy_traced.bin").read_bytes()
    decoder, reference, at, changes = Decoder(), hpack.Decoder(), len(frames.PREFACE), [0]
    while at < len(octets):
        high, low, kind, flags, _ = frames.HEADER.unpack_from(octets, at)
        start, at = at + frames.HEADER_BYTES, at + frames.HEADER_BYTES + (high << 16 | low)
        if kind == frames.HEADERS:
            assert flags & frames.END_HEADERS
            fields = ours(decoder, octets[start:at])
            assert fields == theirs(reference, octets[start:at])
            assert b"traceparent" in dict(fields if isinstance(fields, list) else [])
            changes.append(decoder.changes)
    assert len(set(changes)) == len(changes) == 7


# Its limits.


def test_the_table_is_resized_at_the_beginning_of_a_block_and_not_within() -> None:
    """Section 4.2."""
    block = compression.encode((b"x-a", b"b"))
    assert ours(Decoder(), b"\x20\x3f\x01" + block) == [(b"x-a", b"b")]
    assert ours(Decoder(), block + b"\x20") == ErrorCode.COMPRESSION_ERROR
    assert ours(Decoder(), number(4097, 31, 32) + block) == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("kind", [0, 64], ids=["not added", "added"])
def test_literals_that_come_again_are_one_field_and_so_many_are_remembered(kind: int) -> None:
    decoder = Decoder()
    literal = bytes((kind,)) + b"\x03x-a\x01b"
    assert decoder.decode(literal).fields[0] is decoder.decode(literal).fields[0]
    for some in range(200):
        decoder.decode(compression.encode((b"x-%d" % some, b"b")))
    decoder.decode(compression.encode((b"x-a", b"b" * 300)))
    assert 0 < len(decoder.literals) <= compression._MAX_LITERALS
    assert max(map(len, decoder.literals)) <= compression._SHORT


def test_a_literal_that_refers_to_an_entry_is_read_by_what_that_is_now() -> None:
    decoder = Decoder()
    again = b"\x0f\x2f\x01v"  # a value for the name of the newest entry
    decoder.decode(b"\x40\x03x-a\x01a")
    assert ours(decoder, again) == [(b"x-a", b"v")]
    decoder.decode(b"\x40\x03x-b\x01b")
    assert ours(decoder, again) == [(b"x-b", b"v")]


@pytest.mark.parametrize(
    "block",
    [b"\x82" * 100_000, compression.encode((b"a", b"")) * 100_000, b"\x20" * 100_000],
    ids=["of the table", "literals", "resizings"],
)
def test_a_block_of_many_fields_is_refused_before_all_of_them_are_decoded(
    block: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Mock(wraps=compression._integer)
    monkeypatch.setattr(compression, "_integer", read)
    assert ours(Decoder(), block) == ErrorCode.ENHANCE_YOUR_CALM
    assert read.call_count <= 3 * (MAX_HEADER_LIST // OVERHEAD + MAX_EXCESS_FIELDS + 1)


def test_a_list_that_is_too_long_is_known_for_it_and_does_to_the_table_what_it_says() -> None:
    decoder, reference = Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    size = len(b"x-1") + 5000 + OVERHEAD
    fields = [(b"x-1", b"y" * 5000)] * (MAX_HEADER_LIST // size)
    assert not decoder.decode(compression.encode(*fields)).too_long
    more = compression.encode(*fields, (b"x-1", b"y" * 5000)) + b"\x40\x03x-2\x01z"
    block = decoder.decode(more)
    assert block.too_long
    assert len(block.fields) == len(fields)
    theirs(reference, more)
    assert ours(decoder, b"\xbe") == theirs(reference, b"\xbe") == [(b"x-2", b"z")]


# Huffman's code.


@given(st.binary(max_size=300))
def test_what_is_encoded_is_decoded(string: bytes) -> None:
    assert huffman.decode(huffman_of(string)) == string


@given(st.binary(max_size=40))
@example(b"\xff\xff\xff\xfc")  # the end of a string, amid it
@example(b"\xff\xff\xff\xff")
@example(b"\x1f\xff")  # a padding of more than seven bits
@example(b"\x00\x00")
def test_octets_are_huffmans_code_where_hpack_says_so_and_mean_the_same(octets: bytes) -> None:
    try:
        wanted = decode_huffman(octets)
    except hpack.HPACKDecodingError:
        with pytest.raises(ValueError, match="Huffman"):
            huffman.decode(octets)
    else:
        assert huffman.decode(octets) == wanted


def literal(name: bytes, string: bytes, *, added: bool) -> bytes:
    """A field whose value is these octets as Huffman's code."""
    return bytes((64 * added, len(name))) + name + number(len(string), 127, 128) + string


BROKEN = b"\0" * 1001  # padded by zeros


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (literal(b"tracestate", BROKEN, added=False), [(b"tracestate", UNREAD)]),
        (literal(b"tracestate", BROKEN, added=True), ErrorCode.COMPRESSION_ERROR),
        (literal(b"tracestate", b"\0" * 11, added=False), ErrorCode.COMPRESSION_ERROR),
        (literal(b":path", BROKEN, added=False), ErrorCode.COMPRESSION_ERROR),
        (literal(b":path", b"\0" * 20_001, added=False), [(b":path", UNREAD)]),
    ],
    ids=["long", "added", "short", "read", "read, and too long for that"],
)
def test_broken_code_is_found_where_the_string_is_decoded(block: bytes, expected: Fields | ErrorCode) -> None:
    assert ours(Decoder(), block) == expected


@pytest.mark.parametrize("step", [1, 100, 16_384, 100_000])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("size", [100, 1000, MAX_STRING, MAX_STRING + 1, 90_000])
def test_of_a_string_nothing_is_kept_that_is_too_long_for_the_table(step: int, size: int, *, added: bool) -> None:
    decoder, reference = Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    string = huffman_of(b"\n" * (size * 8 // 30))  # which has the longest of codes
    first, last = literal(b"x-before", huffman_of(b"a"), added=True), b"\x40\x07x-after\x01b"
    octets = first + literal(b"tracestate", string, added=added) + last
    block = FieldBlock(decoder)
    for at in range(0, len(octets), step):
        block.feed(octets[at : at + step])
        assert len(block._tail) <= MAX_STRING + 30
    block.end()
    assert [field.name for field in block.fields] == [b"x-before", b"tracestate", b"x-after"]
    theirs(reference, octets)
    assert [(each.name, each.value) for each in reversed(decoder._entries)] == list(
        reference.header_table.dynamic_entries
    )


def test_of_one_block_no_more_is_decoded_than_a_list_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Mock(wraps=huffman.decode)
    monkeypatch.setattr(huffman, "decode", decode)
    string = huffman_of(b"a" * 8000)
    assert ours(Decoder(), literal(b"a", string, added=True) * 100) == ErrorCode.ENHANCE_YOUR_CALM
    assert 0 < sum(len(call.args[0]) for call in decode.call_args_list) <= MAX_HEADER_LIST
    decode.reset_mock()
    short = [huffman_of(b"%d" % number + b"a" * 200) for number in range(1000)]
    assert ours(Decoder(), *(literal(b"a", each, added=False) for each in short)) != ErrorCode.ENHANCE_YOUR_CALM
    assert 0 < sum(len(call.args[0]) for call in decode.call_args_list) <= MAX_HEADER_LIST


def test_a_name_without_end_is_refused() -> None:
    name = b"\x00" + number(MAX_STRING + 1, 127, 0) + b"a" * 100
    assert ours(Decoder(), name) == ErrorCode.ENHANCE_YOUR_CALM

"""Our decoder of header blocks says what RFC 7541 says, and what ``hpack``'s says, on whatever comes."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.transport.http2 import compression, frames, headers
from authz_service.transport.http2.compression import MOST_FIELDS, Decoder
from authz_service.transport.http2.frames import ConnectionFault, ErrorCode
from transport.http2.client import GRPC, HEAD, table_of

Fields = list[tuple[bytes, bytes]]


def ours(decoder: Decoder, block: bytes) -> Fields | ErrorCode:
    try:
        return [(field.name, field.value) for field in decoder.decode(block)]
    except ConnectionFault as fault:
        return fault.code


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
    octets = draw(STRINGS)
    length = draw(st.sampled_from([len(octets)] * 9 + [len(octets) + 1]))
    return number(length, 127, draw(st.sampled_from([0, 0, 0, 128]))) + octets


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
    )
)
def test_it_decodes_what_hpack_decodes_and_refuses_what_hpack_refuses(
    steps: list[tuple[Fields, bool] | bytes | int | float],
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
        assert ours(decoder, sent[-1]) == wanted
        if wanted == ErrorCode.COMPRESSION_ERROR:
            return
        entries = [(field.name, field.value) for field in reversed(decoder._entries)]
        assert entries == table_of(reference)
        assert decoder._octets == sum(len(name) + len(value) + 32 for name, value in entries)


@given(st.data())
def test_a_block_that_is_cut_or_changed_says_what_hpack_reads(drawn: st.DataObject) -> None:
    encoder, decoder, reference = hpack.Encoder(), Decoder(), hpack.Decoder()
    for traced in ("00-59a1e6629122d08928486cf912114a29-f38ca60e9f5b2871-00", "00-d7ce6f62-b12f8ea3bba74f72-01"):
        block = bytearray(encoder.encode([*HEAD, *GRPC, ("traceparent", traced), ("tracestate", "")]))
        for _ in range(drawn.draw(st.integers(0, 2))):
            block[drawn.draw(st.integers(0, len(block) - 1))] = drawn.draw(st.integers(0, 255))
        cut = bytes(block[: drawn.draw(st.sampled_from([len(block)] * 3 + [*range(len(block))]))])
        wanted = theirs(reference, cut)
        assert ours(decoder, cut) == wanted
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
    block = headers.block((b"x-a", b"b"))
    assert ours(Decoder(), b"\x20\x3f\x01" + block) == [(b"x-a", b"b")]
    assert ours(Decoder(), block + b"\x20") == ErrorCode.COMPRESSION_ERROR
    assert ours(Decoder(), number(4097, 31, 32) + block) == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("kind", [0, 64], ids=["not added", "added"])
def test_literals_that_come_again_are_one_field_and_so_many_are_remembered(kind: int) -> None:
    decoder = Decoder()
    literal = bytes((kind,)) + b"\x03x-a\x01b"
    assert decoder.decode(literal)[0] is decoder.decode(literal)[0]
    for some in range(200):
        decoder.decode(headers.block((b"x-%d" % some, b"b")))
    decoder.decode(headers.block((b"x-a", b"b" * 300)))
    assert 0 < len(decoder._literals) <= compression._REMEMBERED
    assert max(map(len, decoder._literals)) <= compression._SHORT


def test_a_literal_that_refers_to_an_entry_is_read_by_what_that_is_now() -> None:
    decoder = Decoder()
    again = b"\x0f\x2f\x01v"  # a value for the name of the newest entry
    decoder.decode(b"\x40\x03x-a\x01a")
    assert ours(decoder, again) == [(b"x-a", b"v")]
    decoder.decode(b"\x40\x03x-b\x01b")
    assert ours(decoder, again) == [(b"x-b", b"v")]


@pytest.mark.parametrize(
    "block",
    [b"\x82" * (MOST_FIELDS + 1), b"\x82" * 100_000, headers.block((b"a", b"")) * 100_000, b"\x20" * 100_000],
    ids=["a few too many", "of the table", "literals", "resizings"],
)
def test_a_block_of_many_fields_is_refused_before_all_of_them_are_decoded(
    block: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Mock(wraps=compression._number)
    monkeypatch.setattr(compression, "_number", read)
    assert ours(Decoder(), block) == ErrorCode.ENHANCE_YOUR_CALM
    assert MOST_FIELDS < read.call_count <= 10 * MOST_FIELDS
    assert ours(Decoder(), b"\x82" * MOST_FIELDS) == [(b":method", b"GET")] * MOST_FIELDS

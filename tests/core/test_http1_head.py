"""Heads are whole, bounded and free of forbidden bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import BadMessage
from authz_service.core.http1_head import HeadBuffer


def split_heads(data: bytes, size: int = 1000, max_bytes: int = 200, max_lines: int = 10) -> tuple[list[bytes], bytes]:
    """The heads in data that arrives in pieces of this size, and what follows them."""
    buffer = HeadBuffer(max_bytes, max_lines)
    heads = []
    for at in range(0, len(data), size):
        buffer.feed(data[at : at + size])
        while (head := buffer.take()) is not None:
            heads.append(head)
    return heads, buffer.take_remaining()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"])
def test_a_head_ends_with_an_empty_line_however_it_is_split(end: bytes, size: int) -> None:
    head = b"GET / HTTP/1.1\r\nA: b" + end
    assert split_heads(head + head + b"rest", size) == ([head, head], b"rest")


def test_a_head_may_have_the_maximum_size_and_not_one_byte_more() -> None:
    head = b"x" * 196 + b"\r\n\r\n"
    assert split_heads(head, 7) == ([head], b"")
    for size in (7, 1000):
        with pytest.raises(BadMessage, match="more than 200 bytes") as failed:
            split_heads(b"x" + head, size)
        assert failed.value.too_large


def test_an_endless_head_is_rejected_as_soon_as_it_is_too_large() -> None:
    assert split_heads(b"x" * 200, 7) == ([], b"x" * 200)
    with pytest.raises(BadMessage, match="more than 200 bytes"):
        split_heads(b"x" * 201, 7)


def test_a_head_may_have_the_maximum_number_of_lines_and_not_one_more() -> None:
    assert split_heads(b"a\n" * 9 + b"\n")[0]
    with pytest.raises(BadMessage, match="more than 10 lines"):
        split_heads(b"a\n" * 10 + b"\n")


@pytest.mark.parametrize("byte", [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
def test_a_head_with_a_control_character_is_rejected(byte: int) -> None:
    with pytest.raises(BadMessage, match="control characters"):
        split_heads(b"A: b" + bytes([byte]) + b"\r\n\r\n")


@pytest.mark.parametrize("head", [b"A: b\r\n c\r\n\r\n", b"A: b\n\tc\n\n", b"A: b\rC: d\r\n\r\n", b"A: b\r\r\n\r\n"])
def test_a_head_with_a_folded_line_or_a_bare_cr_is_rejected(head: bytes) -> None:
    with pytest.raises(BadMessage, match="folded"):
        split_heads(head)


def test_a_head_may_hold_tabs_and_bytes_beyond_ascii() -> None:
    head = b"A:\tb \xe9\xff\r\n\r\n"
    assert split_heads(head) == ([head], b"")


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b" ", b"\r\n\r\n"])).map(b"".join), st.integers(1, 9))
def test_the_same_bytes_give_the_same_heads_however_they_are_split(data: bytes, size: int) -> None:
    def outcome(size: int) -> object:
        try:
            return split_heads(data, size)
        except BadMessage:
            return None

    assert outcome(size) == outcome(1000)

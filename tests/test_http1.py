"""Heads are taken whole, within bounds, and without what no head may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import BadMessage
from authz_service.http1 import HeadBuffer


def taken(octets: bytes, size: int = 1000, max_bytes: int = 200, max_lines: int = 10) -> tuple[list[bytes], bytes]:
    """The heads that are found, and what is left."""
    buffer = HeadBuffer(max_bytes, max_lines)
    heads = []
    for at in range(0, len(octets), size):
        buffer.feed(octets[at : at + size])
        while (head := buffer.take()) is not None:
            heads.append(head)
    return heads, buffer.rest()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"])
def test_a_head_ends_with_an_empty_line_however_it_is_cut(end: bytes, size: int) -> None:
    head = b"GET / HTTP/1.1\r\nA: b" + end
    assert taken(head + head + b"rest", size) == ([head, head], b"rest")


def test_a_head_may_be_as_large_as_allowed_and_no_larger() -> None:
    head = b"x" * 196 + b"\r\n\r\n"
    assert taken(head, 7) == ([head], b"")
    for size in (7, 1000):
        with pytest.raises(BadMessage, match="more than 200 bytes") as failed:
            taken(b"x" + head, size)
        assert failed.value.too_large


def test_what_never_ends_is_refused_as_soon_as_it_is_too_large() -> None:
    assert taken(b"x" * 200, 7) == ([], b"x" * 200)
    with pytest.raises(BadMessage, match="more than 200 bytes"):
        taken(b"x" * 201, 7)


def test_a_head_may_have_as_many_lines_as_allowed_and_no_more() -> None:
    assert taken(b"a\n" * 9 + b"\n")[0]
    with pytest.raises(BadMessage, match="more than 10 lines"):
        taken(b"a\n" * 10 + b"\n")


@pytest.mark.parametrize("octet", [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
def test_no_control_character_is_in_a_head(octet: int) -> None:
    with pytest.raises(BadMessage, match="control characters"):
        taken(b"A: b" + bytes([octet]) + b"\r\n\r\n")


@pytest.mark.parametrize("head", [b"A: b\r\n c\r\n\r\n", b"A: b\n\tc\n\n", b"A: b\rC: d\r\n\r\n", b"A: b\r\r\n\r\n"])
def test_no_line_is_folded_and_none_ends_with_a_bare_carriage_return(head: bytes) -> None:
    with pytest.raises(BadMessage, match="folded"):
        taken(head)


def test_a_tab_and_octets_beyond_ascii_may_be_in_a_head() -> None:
    head = b"A:\tb \xe9\xff\r\n\r\n"
    assert taken(head) == ([head], b"")


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b" ", b"\r\n\r\n"])).map(b"".join), st.integers(1, 9))
def test_the_same_octets_give_the_same_heads_however_they_are_cut(octets: bytes, size: int) -> None:
    def outcome(cut: int) -> object:
        try:
            return taken(octets, cut)
        except BadMessage:
            return None

    assert outcome(size) == outcome(1000)

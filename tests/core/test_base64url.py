"""Every byte string has exactly one encoding; no other string decodes."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import base64url


@given(st.binary(max_size=100))
def test_what_is_encoded_decodes_to_the_same_bytes(data: bytes) -> None:
    encoded = base64url.encode(data)
    assert base64url.decode(encoded) == data
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.text(alphabet="AB+/-_=. \n\u00e9", max_size=12))
def test_only_the_canonical_encoding_decodes(text: str) -> None:
    try:
        data = base64url.decode(text)
    except ValueError:
        return
    assert base64url.encode(data) == text


@given(st.text(alphabet="AQgwE048B-_", min_size=1, max_size=9))
def test_a_string_decodes_exactly_if_the_library_encodes_its_octets_to_it(text: str) -> None:
    """``urlsafe_b64decode`` guesses: it ignores other characters and bits of no octet."""
    try:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        expected = octets if base64.urlsafe_b64encode(octets).rstrip(b"=") == text.encode() else None
    except ValueError:
        expected = None
    try:
        found = base64url.decode(text)
    except ValueError:
        found = None
    assert found == expected


@pytest.mark.parametrize("octet", [*range(128), "\u00e9", "\u0100", "\ud800"])
@pytest.mark.parametrize("place", range(5))
def test_a_character_outside_the_alphabet_is_refused_anywhere(octet: int | str, place: int) -> None:
    character = chr(octet) if isinstance(octet, int) else octet
    text = "QUJDRA"[:place] + character + "QUJDRA"[place:] + "A"
    if character in string.ascii_letters + string.digits + "-_":
        assert base64url.encode(base64url.decode(text)) == text
    else:
        with pytest.raises(ValueError, match=r"^not base64url$"):
            base64url.decode(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("QQ==", "not base64url"),  # padded
        ("QR", "not canonical base64url"),  # a bit set that no byte holds
        ("Q", "not base64url"),
        ("+A", "not base64url"),  # base64's own alphabet
        ("/A", "not base64url"),
        ("Q Q", "not base64url"),
        ("QQ\n", "not base64url"),
        ("\u00e9A", "not base64url"),
    ],
)
def test_any_other_string_is_refused_without_being_quoted(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^({problem})") as refused:
        base64url.decode(text)
    assert text not in str(refused.value)

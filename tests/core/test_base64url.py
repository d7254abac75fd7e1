"""Every byte string has exactly one encoding; no other string decodes."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("QQ==", "not base64url|not canonical"),  # padded
        ("QR", "not canonical base64url"),  # a bit set that no byte holds
        ("Q", "not base64url"),
        ("+A", "not base64url|not canonical"),  # base64's own alphabet
        ("/A", "not base64url|not canonical"),
        ("Q Q", "not base64url"),
        ("QQ\n", "not base64url"),
        ("\u00e9A", "not base64url"),
    ],
)
def test_any_other_string_is_refused_without_being_quoted(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^({problem})") as refused:
        base64url.decode(text)
    assert text not in str(refused.value)

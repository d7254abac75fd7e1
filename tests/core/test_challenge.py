"""A challenge parses, by an independent parser of RFC 9110, into the parameters that it was made from."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.challenge import challenge, quote

# RFC 9110 sections 5.6.2, 5.6.4 and 11.2, over characters; a sender may put obs-text into a quoted-string.
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\U0010ffff]|\\[\t \x21-\x7e\x80-\U0010ffff])*)"'
_PARAMETER = re.compile(rf"({_TOKEN})={_QUOTED}(?:, (?!\Z)|\Z)")


def read(challenge: str) -> dict[str, str]:
    """The parameters of one Bearer challenge."""
    scheme, _, text = challenge.partition(" ")
    assert scheme == "Bearer"
    parameters: dict[str, str] = {}
    place = 0
    while place < len(text):
        match = _PARAMETER.match(text, place)
        assert match, text[place:]
        assert match[1] not in parameters
        parameters[match[1]] = re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
        place = match.end()
    return parameters


def _as_sendable(text: str) -> str:
    return "".join(" " if c != "\t" and (c < " " or c == "\x7f") else c for c in text)


@given(st.text(), st.none() | st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_quoted_text_is_read_back(
    realm: str, error: str | None, description: str | None, scope: str | None
) -> None:
    value = challenge("Bearer", realm, error=error, description=description, scope=scope)
    given_parts = {"realm": realm, "error": error, "error_description": description, "scope": scope}
    assert read(value) == {name: _as_sendable(text) for name, text in given_parts.items() if text is not None}


@given(st.text())
def test_no_quoted_text_ends_the_header_line(text: str) -> None:
    assert not set(quote(text)) & set("\r\n\x00")


def test_parameters_are_in_the_order_of_the_examples_in_the_standard() -> None:
    assert challenge("Bearer", "r", scope="a b", error="invalid_token", description="d") == (
        'Bearer realm="r", error="invalid_token", error_description="d", scope="a b"'
    )
    assert challenge("Bearer", "r") == 'Bearer realm="r"'
    assert quote('a"b\\c\r\nd') == '"a\\"b\\\\c  d"'


def test_an_error_of_dpop_is_the_first_parameter() -> None:
    """Duende's client splits at commas and finds no parameter behind a space; it then gets a new token for a nonce."""
    value = challenge("DPoP", "r", error="use_dpop_nonce", description="d", algs="ES256")
    assert value == 'DPoP error="use_dpop_nonce", error_description="d", realm="r", algs="ES256"'
    assert challenge("DPoP", "r", algs="ES256") == 'DPoP realm="r", algs="ES256"'

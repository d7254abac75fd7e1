"""A token has one reading, or is malformed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt import jws
from support.signing import base64url

HEADER = base64url(b'{"alg":"x"}')
CRITICAL, ENCRYPTED = b'{"crit":[]}', b'{"alg":"x","enc":null}'
_JSON = st.dictionaries(
    st.text(st.characters(codec="utf-8")), st.integers(-9, 9) | st.text(st.characters(codec="utf-8"))
)


@given(
    header=_JSON.filter(lambda header: not {*jws._EXTENSIONS, *jws._JWE_MEMBERS} & header.keys()),
    claims=_JSON,
    algorithm=st.text(st.characters(codec="utf-8")),
    kid=st.text(st.characters(codec="utf-8")) | st.none(),
    signature=st.binary(),
)
def test_parsing_inverts_serialization(
    header: dict[str, Any], claims: dict[str, Any], algorithm: str, kid: str | None, signature: bytes
) -> None:
    header |= {"alg": algorithm} if kid is None else {"alg": algorithm, "kid": kid}
    parts = [base64url(json.dumps(header).encode()), base64url(json.dumps(claims).encode()), base64url(signature)]
    token = jws.parse(".".join(parts))
    assert token == (algorithm, kid, header, claims, ".".join(parts[:2]).encode(), signature)


@given(st.text(st.sampled_from("ABab01-_+/=. \n"), max_size=9) | st.text(max_size=9))
def test_a_signature_has_exactly_one_encoding(signature: str) -> None:
    try:
        decoded = jws.parse(f"{HEADER}.e30.{signature}").signature
    except Rejected as rejected:
        assert rejected.reason is Reason.MALFORMED_TOKEN
    else:
        assert base64.urlsafe_b64encode(decoded).decode().rstrip("=") == signature


@pytest.mark.parametrize(
    ("token", "cause"),
    [
        ("a.b", "2 parts; expected three"),
        ("a.b.c.d.e", "five parts, as in an encrypted token (JWE); expected three"),
        ("=.e30.", "the header: not base64url"),
        ("e31.e30.", "the header: not canonical base64url"),
        ("e30.e30.", "alg or kid in the header is not a string"),
        (f"{base64url(ENCRYPTED)}.e30.", "enc in the header, as in an encrypted token (JWE)"),
        (f"{base64url(b'[]')}.e30.", "the header: not a JSON object"),
        (f"{base64url(b'x')}.e30.", "the header: not JSON"),
        (f"{base64url(CRITICAL)}.e30.", "crit in the header is not supported"),
        (f"{HEADER}.e30.*", "the signature: not base64url"),
        (f"{HEADER}.e31.", "the claims: not canonical base64url"),
    ],
)
def test_the_cause_names_the_malformed_part(token: str, cause: str) -> None:
    with pytest.raises(Rejected) as rejected:
        jws.parse(token)
    assert (rejected.value.reason, rejected.value.cause) == (Reason.MALFORMED_TOKEN, cause)


def test_a_token_has_the_same_reading_with_a_known_header() -> None:
    token = f"{HEADER}.{base64url(b'{}')}."
    known = jws.KnownHeaders()
    first = jws.parse(token, known)
    known.add(token, first.header)
    assert jws.parse(token, known) == first
    assert jws.parse(token, known).header is first.header


def test_known_headers_are_bounded_in_number_and_length() -> None:
    known = jws.KnownHeaders()
    for number in range(1000):
        known.add(f"{number}.e.s", {"alg": "x"})
        known.add(f"{number}{'x' * 600}.e.s", {"alg": "x"})
    encoded = list(known._headers)
    assert "999" in encoded
    assert len(encoded) <= 64
    assert max(map(len, encoded)) <= 512

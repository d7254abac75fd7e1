"""The Authorization header has one bearer token, or is rejected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.credential import bearer_token
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

MAX = 64


def _reason(authorization: str | None) -> Reason:
    with pytest.raises(Rejected) as rejected:
        bearer_token(authorization, MAX)
    return rejected.value.reason


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("spaces", [" ", "   "])
def test_the_scheme_may_be_in_any_case_and_followed_by_several_spaces(scheme: str, spaces: str) -> None:
    assert bearer_token(f"{scheme}{spaces}a.b.c", MAX) == "a.b.c"


def test_the_characters_of_a_token_are_not_validated() -> None:
    assert bearer_token("Bearer !\u00e9=~", MAX) == "!\u00e9=~"


def test_a_token_may_have_max_bytes_and_not_one_more() -> None:
    assert bearer_token("Bearer " + "a" * MAX, MAX) == "a" * MAX
    assert _reason("Bearer " + "a" * (MAX + 1)) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic dXNlcjpwYXNz",
        "DPoP a.b.c",
        "Digest username=a, realm=b",
        'Digest username="a", bearer="b"',
        "Negotiate a==",
        "Bearertoken",
        "Bearer=a.b.c",
        "Bearer:a.b.c",
        "Token a.b.c",
        "a.b.c",
        "eyJhbGciOiJFUzI1NiJ9.e30.AA",
        "\u0412earer a.b.c",  # a Cyrillic letter
        "Bearer\u00a0a.b.c",
    ],
)
def test_no_header_or_another_scheme_is_a_missing_token(authorization: str | None) -> None:
    assert _reason(authorization) is Reason.MISSING_TOKEN


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        " ",
        "Bearer",
        "bearer ",
        "Bearer    ",
        "Bearer a.b.c,Bearer d.e.f",
        "Bearer a.b.c, Bearer d.e.f",
        "Bearer a.b.c,Basic x",
        "Bearer a.b.c,",
        "Bearer ,a.b.c",
        "Bearer a.b.c d.e.f",
        "Bearer Bearer a.b.c",
        "Bearer,Bearer a.b.c",
        "Bearer,a.b.c",
        "Basic x,Bearer a.b.c",
        "Basic x,bearer a.b.c",
        "Basic x , Bearer a.b.c",
        "Basic x,Bearer",
        "Basic x,Bearer,Basic y",
        ", Bearer a.b.c",
        ",Bearer a.b.c",
        "Basic ,Bearer a.b.c",
        "Bearer a.b.c\n",
        "Bearer a.b.c\r\nx-auth-subject: root",
        "Bearer\ta.b.c",
        "Bearer a.b.c\t",
        "Bearer a.b\x00.c",
        "Bearer a.b.c\x7f",
        "\x00Bearer a.b.c",
        "Basic x\n",
        " Bearer a.b.c",  # RFC 9113 section 8.2.1: a value neither begins nor ends with whitespace
        "Bearer a.b.c ",
        "  bearer a.b.c  ",
        "\tBearer a.b.c",
        " Basic x",
        "Basic x ",
        "Bearer a.b.c\u00a0",
        "\u3000Bearer a.b.c",
    ],
)
def test_two_credentials_an_empty_one_and_control_characters_are_malformed(authorization: str) -> None:
    assert _reason(authorization) is Reason.MALFORMED_REQUEST


_TOKEN = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="-._~+/="), min_size=1)


@given(_TOKEN, st.sampled_from(["Bearer", "Basic", "DPoP", ""]), st.sampled_from([",", ", ", " ,", " , ", ",  "]))
def test_two_joined_headers_with_a_bearer_token_are_malformed(token: str, scheme: str, comma: str) -> None:
    other = f"{scheme} x".strip()
    for joined in (f"Bearer {token}{comma}{other}", f"{other}{comma}bEARER {token}"):
        with pytest.raises(Rejected) as rejected:
            bearer_token(joined, 10_000)
        assert rejected.value.reason is Reason.MALFORMED_REQUEST


@given(st.text(st.characters() | st.sampled_from("Bearer ,\t")))
def test_any_header_is_a_token_from_it_or_rejected_without_repeating_it(text: str) -> None:
    for authorization in (text, f"Bearer {text}"):
        try:
            token = bearer_token(authorization, MAX)
        except Rejected as rejected:
            assert rejected.reason in {Reason.MISSING_TOKEN, Reason.MALFORMED_REQUEST}
            assert len(text) < 12 or text not in rejected.cause
        else:
            assert token
            assert token in authorization
            assert len(token) <= MAX
            assert token.isprintable() or not token.isascii()
            assert not set(token) & set(" ,")

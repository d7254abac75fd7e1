"""The header that a rule names has one token, or is rejected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.credential import CredentialHeader, _is_plain
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX = 64


def bearer_token(authorization: str | None, max_bytes: int) -> str:
    headers = {} if authorization is None else {"authorization": authorization}
    return CredentialHeader().token_of(headers, max_bytes)[0]


def _reason(authorization: str | None) -> Reason:
    with pytest.raises(Rejected) as rejected:
        bearer_token(authorization, MAX)
    return rejected.value.reason


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("spaces", [" ", "   "])
def test_the_scheme_may_be_in_any_case_and_followed_by_several_spaces(scheme: str, spaces: str) -> None:
    assert bearer_token(f"{scheme}{spaces}a.b.c", MAX) == "a.b.c"


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP"])
def test_dpop_is_accepted_where_bearer_is_and_only_there(scheme: str) -> None:
    headers = {"authorization": f"{scheme} a.b.c", "x-token": f"{scheme} a.b.c"}
    assert CredentialHeader().token_of(headers, MAX) == ("a.b.c", True)
    assert CredentialHeader(scheme="DPoP").token_of(headers, MAX) == ("a.b.c", True)
    for other in (CredentialHeader(scheme="Token"), CredentialHeader("x-token", None)):
        with pytest.raises(Rejected):
            other.token_of(headers, MAX)


def test_the_characters_of_a_token_are_not_validated() -> None:
    assert bearer_token("Bearer !\u00e9=~", MAX) == "!\u00e9=~"


@given(st.text("aZ9-._~+/=,; \t\x00é", max_size=8))
def test_a_plain_token_has_the_form_of_rfc_6750(token: str) -> None:
    assert _is_plain(token) == (re.fullmatch("[A-Za-z0-9._~+/-]+=*", token) is not None)


def test_a_token_may_have_max_bytes_and_not_one_more() -> None:
    assert bearer_token("Bearer " + "a" * MAX, MAX) == "a" * MAX
    assert _reason("Bearer " + "a" * (MAX + 1)) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic dXNlcjpwYXNz",
        "DPoPs a.b.c",
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


_JWT_HEADER = CredentialHeader("x-jwt", None)


def in_header(value: str, credential: CredentialHeader = _JWT_HEADER, *, others: Mapping[str, str] = {}) -> str:
    """The token of a request with this value in the credential's header, or the reason why there is none."""
    try:
        return credential.token_of({credential.name: value, **others}, MAX)[0]
    except Rejected as rejected:
        assert credential.name.title() in rejected.cause
        return rejected.reason.value


@pytest.mark.parametrize("token", ["a.b.c", "a", "Bearer", "!\u00e9=~", "a" * MAX])
def test_without_a_scheme_the_whole_value_is_the_token(token: str) -> None:
    assert in_header(token) == token
    assert in_header(token, others={"authorization": "Bearer other"}) == token


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "a.b.c,d.e.f", "a.b.c, d.e.f", "a.b.c,", "Bearer a.b.c", "a b", " a", "a ", "\ta", "a\n"),
        *("a\r\nb: c", "a\0", "a\x7f", "\u00a0a", "a" * (MAX + 1)),
    ],
)
def test_a_header_without_a_scheme_is_read_as_strictly(value: str) -> None:
    assert in_header(value) == "malformed_request"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("x-jwt", "x_jwt"),
        ("x-jwt", "x.jwt"),
        ("x-jwt", "x~jwt"),
        ("x_jwt", "x-jwt"),
        ("x.jwt", "x-jwt"),
        ("x+t", "x~t"),
    ],
)
def test_a_header_that_some_servers_read_as_the_credential_is_malformed(name: str, other: str) -> None:
    credential = CredentialHeader(name, None)
    for headers in ({other: "d.e.f"}, {name: "a.b.c", other: "d.e.f"}):
        with pytest.raises(Rejected) as rejected:
            credential.token_of(headers, MAX)
        assert rejected.value.reason is Reason.MALFORMED_REQUEST


def test_the_token_is_read_from_no_other_header() -> None:
    for headers in ({}, {"authorization": "Bearer a.b.c"}, {"x-jwt2": "a.b.c"}):
        with pytest.raises(Rejected) as rejected:
            _JWT_HEADER.token_of(headers, MAX)
        assert rejected.value.reason is Reason.MISSING_TOKEN


def test_a_scheme_may_be_configured() -> None:
    token = CredentialHeader("authorization", "JWT")
    assert [in_header(value, token) for value in ("JWT a", "jwt a", "Jwt  a", "Bearer a", "JWT a,jwt b", "a")] == [
        *("a", "a", "a", "missing_token", "malformed_request", "missing_token")
    ]
    bearer = CredentialHeader("x-token", "Bearer")
    assert [in_header(value, bearer) for value in ("Bearer a", "a", "Basic x,Bearer a")] == [
        *("a", "missing_token", "malformed_request")
    ]


@pytest.mark.parametrize("credential", [CredentialHeader(), _JWT_HEADER, CredentialHeader("x-token", "JWT")], ids=str)
def test_the_value_with_a_token_is_read_as_that_token(credential: CredentialHeader) -> None:
    assert credential.token_of({credential.name: credential.value_with("a.b.c")}, MAX) == ("a.b.c", False)

"""The protected service learns who calls from the token alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.claims import Claims
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.core.upstream import UpstreamHeaders

DEFAULTS = {"x-auth-subject": "sub", "x-auth-issuer": "iss", "x-auth-client": "client_id", "x-auth-scopes": "scope"}


def claims(*, subject: str = "alice", client_id: str = "app", scope: str = "read", **members: Any) -> Claims:
    return Claims("main", subject, client_id, frozenset(), frozenset(scope.split()), scope, members)


def upstream(headers: dict[str, str] | None = None, *, forward_authorization: bool = True) -> UpstreamHeaders:
    return UpstreamHeaders(DEFAULTS if headers is None else headers, forward_authorization=forward_authorization)


def told(
    upstream: UpstreamHeaders, claims: Claims, sent: dict[str, str] | None = None
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """What is overwritten and what is removed on a request with a token."""
    overwrite, remove = upstream.from_claims(claims)
    return overwrite, remove + upstream.disguised(sent or {})


def test_each_header_is_overwritten_from_its_claim() -> None:
    overwrite, remove = told(upstream(), claims(iss="https://issuer.example/"), {})
    assert dict(overwrite) == {
        "x-auth-subject": "alice",
        "x-auth-issuer": "https://issuer.example/",
        "x-auth-client": "app",
        "x-auth-scopes": "read",
    }
    assert remove == ()


def test_what_the_token_does_not_fill_is_removed_and_never_left_as_it_was_sent() -> None:
    sent = dict.fromkeys(DEFAULTS, "forged")
    overwrite, remove = told(upstream(), claims(subject="", client_id="", scope=""), sent)
    assert overwrite == ()
    assert set(remove) == set(DEFAULTS)


def test_without_a_token_all_of_them_are_removed() -> None:
    assert set(upstream().without_claims({})) == set(DEFAULTS)


@pytest.mark.parametrize(
    "disguise",
    [
        "x_auth_subject",
        "x-auth_subject",
        "x.auth.subject",
        "x_auth.subject",
        "x!auth~subject",
        "x|auth^subject",
        "x`auth%subject",
    ],
)
def test_a_header_that_a_cgi_server_reads_as_one_of_ours_is_removed_too(disguise: str) -> None:
    sent = {disguise: "root", "x-auth-subjects": "kept", "accept": "*/*"}
    with_token = told(upstream(), claims(iss="i"), sent)[1]
    without_token = upstream().without_claims(sent)
    assert with_token == (disguise,)
    assert set(without_token) == {*DEFAULTS, disguise}


def test_a_header_that_is_configured_with_an_underscore_hides_the_one_with_a_hyphen_and_is_itself_kept() -> None:
    overwrite, remove = told(upstream({"x_user": "sub"}), claims(), {"x-user": "forged", "x_user": "forged"})
    assert overwrite == (("x_user", "alice"),)
    assert remove == ("x-user",)


def test_authorization_is_removed_when_it_is_not_to_be_forwarded() -> None:
    bare = upstream({}, forward_authorization=False)
    assert told(bare, claims(), {"authorization": "Bearer x"}) == ((), ("authorization",))
    assert bare.without_claims({"authorization": "Basic x"}) == ("authorization",)
    assert upstream({}).without_claims({"authorization": "Basic x"}) == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("acme", "acme"),
        ("caf\u00e9 \u4e2d", "caf\u00e9 \u4e2d"),
        ("a, b", "a, b"),
        (7, "7"),
        (0, "0"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (["a", "b c"], "a,b c"),
        (["a"], "a"),
    ],
)
def test_a_claim_of_any_plain_type_becomes_one_text(value: Any, text: str) -> None:
    assert told(upstream({"x-tenant": "tenant"}), claims(tenant=value), {}) == ((("x-tenant", text),), ())


@pytest.mark.parametrize("value", [None, "", []])
def test_an_empty_claim_is_as_good_as_none(value: Any) -> None:
    assert told(upstream({"x-tenant": "tenant"}), claims(tenant=value), {}) == ((), ("x-tenant",))


_CONTROLS = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))]


@pytest.mark.parametrize(
    "value",
    [
        *(f"a{control}b" for control in _CONTROLS),
        "a\r\nx-auth-subject: root",
        *(" a", "a ", "\u00a0a", "a\u2003"),
        "a\ud800",
        {"a": 1},
        [["a"]],
        [1],
        [None],
        ["a", ""],
        ["a,b"],  # would read as two
        ["a\n"],
    ],
    ids=ascii,
)
def test_a_claim_that_could_split_or_disguise_a_header_is_refused(value: Any) -> None:
    with pytest.raises(Rejected) as refused:
        told(upstream({"x-tenant": "tenant"}), claims(tenant=value), {})
    assert refused.value.reason is Reason.INVALID_CLAIM
    assert "tenant" in refused.value.cause


@pytest.mark.parametrize("field", ["subject", "client_id"])
@pytest.mark.parametrize("value", ["a\r\nb", "a\0", " a"])
def test_the_subject_and_the_client_are_judged_like_any_other(field: str, value: str) -> None:
    with pytest.raises(Rejected):
        told(upstream(), claims(**{field: value}), {})


@given(
    sent=st.dictionaries(
        st.sampled_from([*DEFAULTS, "x_auth_subject", "x.auth.client", "x+auth#scopes", "accept", "x_other"]), st.text()
    ),
    subject=st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"])),
    forward=st.booleans(),
)
def test_no_sent_value_of_a_header_of_ours_is_ever_left(sent: dict[str, str], subject: str, *, forward: bool) -> None:
    headers = upstream(forward_authorization=forward)
    overwrite, remove = told(headers, claims(subject=subject), sent)
    for gone in ({name for name, _ in overwrite} | set(remove), set(headers.without_claims(sent))):
        assert {name for name in sent if re.sub("[^a-z0-9]", "-", name) in DEFAULTS} <= gone
        assert not {"accept", "x_other"} & gone
    assert all(value for _, value in overwrite)

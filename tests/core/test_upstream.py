"""The identity headers that the upstream receives come from the token alone."""

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


def changes(
    upstream: UpstreamHeaders, claims: Claims, sent: dict[str, str] | None = None
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The headers overwritten and those removed on a request with a token."""
    overwrite, remove = upstream.for_token(claims)
    return overwrite, remove + upstream.spoofed(sent or {})


def test_each_header_is_overwritten_from_its_claim() -> None:
    overwrite, remove = changes(upstream(), claims(iss="https://issuer.example/"), {})
    assert dict(overwrite) == {
        "x-auth-subject": "alice",
        "x-auth-issuer": "https://issuer.example/",
        "x-auth-client": "app",
        "x-auth-scopes": "read",
    }
    assert remove == ()


def test_a_header_whose_claim_the_token_lacks_is_removed() -> None:
    sent = dict.fromkeys(DEFAULTS, "forged")
    overwrite, remove = changes(upstream(), claims(subject="", client_id="", scope=""), sent)
    assert overwrite == ()
    assert set(remove) == set(DEFAULTS)


def test_without_a_token_every_identity_header_is_removed() -> None:
    assert set(upstream().without_token({})) == set(DEFAULTS)


@pytest.mark.parametrize(
    "spoofed",
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
def test_a_header_that_a_cgi_server_reads_as_an_identity_header_is_removed(spoofed: str) -> None:
    sent = {spoofed: "root", "x-auth-subjects": "kept", "accept": "*/*"}
    with_token = changes(upstream(), claims(iss="i"), sent)[1]
    without_token = upstream().without_token(sent)
    assert with_token == (spoofed,)
    assert set(without_token) == {*DEFAULTS, spoofed}


def test_a_header_configured_with_an_underscore_is_set_and_the_one_with_a_hyphen_is_removed() -> None:
    overwrite, remove = changes(upstream({"x_user": "sub"}), claims(), {"x-user": "forged", "x_user": "forged"})
    assert overwrite == (("x_user", "alice"),)
    assert remove == ("x-user",)


def test_authorization_is_removed_if_it_is_not_forwarded() -> None:
    bare = upstream({}, forward_authorization=False)
    assert changes(bare, claims(), {"authorization": "Bearer x"}) == ((), ("authorization",))
    assert bare.without_token({"authorization": "Basic x"}) == ("authorization",)
    assert upstream({}).without_token({"authorization": "Basic x"}) == ()


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
def test_a_claim_of_any_plain_type_becomes_one_string(value: Any, text: str) -> None:
    assert changes(upstream({"x-tenant": "tenant"}), claims(tenant=value), {}) == ((("x-tenant", text),), ())


@pytest.mark.parametrize("value", [None, "", []])
def test_an_empty_claim_counts_as_absent(value: Any) -> None:
    assert changes(upstream({"x-tenant": "tenant"}), claims(tenant=value), {}) == ((), ("x-tenant",))


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
        changes(upstream({"x-tenant": "tenant"}), claims(tenant=value), {})
    assert refused.value.reason is Reason.INVALID_CLAIM
    assert "tenant" in refused.value.cause


@pytest.mark.parametrize("field", ["subject", "client_id"])
@pytest.mark.parametrize("value", ["a\r\nb", "a\0", " a"])
def test_the_subject_and_the_client_are_validated_like_any_other_claim(field: str, value: str) -> None:
    with pytest.raises(Rejected):
        changes(upstream(), claims(**{field: value}), {})


@given(
    sent=st.dictionaries(
        st.sampled_from([*DEFAULTS, "x_auth_subject", "x.auth.client", "x+auth#scopes", "accept", "x_other"]), st.text()
    ),
    subject=st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"])),
    forward=st.booleans(),
)
def test_no_identity_header_keeps_the_value_that_was_sent(sent: dict[str, str], subject: str, *, forward: bool) -> None:
    headers = upstream(forward_authorization=forward)
    overwrite, remove = changes(headers, claims(subject=subject), sent)
    for replaced in ({name for name, _ in overwrite} | set(remove), set(headers.without_token(sent))):
        assert {name for name in sent if re.sub("[^a-z0-9]", "-", name) in DEFAULTS} <= replaced
        assert not {"accept", "x_other"} & replaced
    assert all(value for _, value in overwrite)

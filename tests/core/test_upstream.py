"""The identity headers that the upstream receives come from the token alone."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core import base64url
from authz_service.core.claim_path import parse_claim_path
from authz_service.core.claims import Claims
from authz_service.core.upstream import HeaderSource, TokenHeaders, UpstreamHeaders

DEFAULTS = {"x-auth-subject": "sub", "x-auth-issuer": "iss", "x-auth-client": "client_id", "x-auth-scopes": "scope"}


def claims(*, subject: str = "alice", client_id: str = "app", scope: str = "read", **members: Any) -> Claims:
    return Claims("main", subject, client_id, frozenset(), frozenset(scope.split()), scope, members)


def upstream(
    headers: dict[str, str] | None = None, *, encoding: str | None = None, forward_authorization: bool = True
) -> UpstreamHeaders:
    claim_of = DEFAULTS if headers is None else headers
    sources = {name: HeaderSource(parse_claim_path(claim), encoding) for name, claim in claim_of.items()}
    return UpstreamHeaders(sources, () if forward_authorization else ("authorization", "x-jwt"))


def of_tenant(value: Any, claim: str = "tenant", encoding: str | None = None) -> TokenHeaders:
    """The header x-tenant, for a token whose claim ``tenant`` has this value."""
    return upstream({"x-tenant": claim}, encoding=encoding).for_token(claims(tenant=value))


def changes(
    upstream: UpstreamHeaders, claims: Claims, sent: dict[str, str] | None = None
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The headers overwritten and those removed on a request with a token."""
    overwrite, remove, _ = upstream.for_token(claims)
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


def test_the_credential_headers_are_removed_if_they_are_not_forwarded() -> None:
    bare = upstream({}, forward_authorization=False)
    sent = {"authorization": "Bearer x", "x-jwt": "x", "x_jwt": "y"}
    assert changes(bare, claims(), sent) == ((), ("authorization", "x-jwt", "x_jwt"))
    assert bare.without_token(sent) == ("authorization", "x-jwt", "x_jwt")
    assert upstream({}).without_token(sent) == ()


def test_a_credential_header_that_carries_a_claim_is_overwritten_or_removed_once() -> None:
    bare = upstream({"x-jwt": "tenant"}, forward_authorization=False)
    assert changes(bare, claims(tenant="acme")) == ((("x-jwt", "acme"),), ("authorization",))
    assert changes(bare, claims()) == ((), ("authorization", "x-jwt"))
    assert bare.without_token({}) == ("authorization", "x-jwt")


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
        [{"a": 1}],
        [None],
        ["a", ""],
        ["a,b"],  # would read as two
        ["a", " b"],
        ["a "],
        ["a\n"],
        "a" * 8001,
        "\u00e9" * 4001,
        ["a" * 100] * 100,
    ],
    ids=ascii,
)
def test_a_claim_that_could_split_or_disguise_a_header_is_left_out(value: Any) -> None:
    overwrite, remove, omitted = of_tenant(value)
    assert (overwrite, remove) == ((), ("x-tenant",))
    assert [name for name, _ in omitted] == ["x-tenant"]


@pytest.mark.parametrize("value", [None, "", [], "a" * 8000, {"name": "acme"}])
def test_a_claim_that_is_absent_or_can_be_sent_is_not_counted_as_left_out(value: Any) -> None:
    path = "tenant.name" if isinstance(value, dict) else "tenant"
    assert of_tenant(value, path).omitted == ()


def test_one_header_is_left_out_and_the_others_are_sent() -> None:
    headers = upstream({"x-user": "sub", "x-groups": "groups", "x-same": "groups", "x-first": "name"})
    overwrite, remove, omitted = headers.for_token(claims(groups=["CN=ops,DC=corp"], name="Al"))
    assert dict(overwrite) == {"x-user": "alice", "x-first": "Al"}
    assert remove == ("x-groups", "x-same")
    assert omitted == (("x-groups", "an item with a comma"), ("x-same", "an item with a comma"))


@pytest.mark.parametrize("field", ["subject", "client_id"])
@pytest.mark.parametrize("value", ["a\r\nb", "a\0", " a"])
def test_the_subject_and_the_client_are_encoded_like_any_other_claim(field: str, value: str) -> None:
    overwrite, remove, omitted = upstream().for_token(claims(**{field: value}))
    assert len(omitted) == 1
    assert omitted[0][0] in remove
    assert value not in dict(overwrite).values()


@pytest.mark.parametrize(
    ("claim", "members", "text"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["admin", "user"]}}, "admin,user"),
        (r"https://a\.example/role", {"https://a.example/role": "admin"}, "admin"),
        (r"kubernetes\.io.namespace", {"kubernetes.io": {"namespace": "shop"}}, "shop"),
        ("a.b", {"a.b": "top"}, ""),
        ("a.b", {"a": None}, ""),
        ("a.b", {}, ""),
    ],
)
def test_a_claim_is_found_by_its_dotted_path(claim: str, members: dict[str, Any], text: str) -> None:
    overwrite, _, omitted = upstream({"x": claim}).for_token(claims(**members))
    assert (dict(overwrite).get("x", ""), omitted) == (text, ())


def test_a_path_through_a_value_that_is_not_an_object_leaves_the_header_out() -> None:
    assert of_tenant("acme", "tenant.name").omitted == (
        ("x-tenant", "tenant.name leads through a value that is not an object"),
    )


@pytest.mark.parametrize(
    ("encoding", "value", "text"),
    [
        ("csv", ["a", "b"], "a,b"),
        ("csv", [7, 8, True, 1.5], "7,8,true,1.5"),
        ("csv", "a", "a"),
        ("csv", 7, "7"),
        ("json", ["CN=ops,DC=corp", ""], '["CN=ops,DC=corp",""]'),
        ("json", {"a": [1, {"b": None}]}, '{"a":[1,{"b":null}]}'),
        ("json", " caf\u00e9\r\n", r'" caf\u00e9\r\n"'),
        ("json", [], "[]"),
        ("json", 7, "7"),
        ("base64url-json", {"a": "?>"}, "eyJhIjoiPz4ifQ"),
    ],
)
def test_a_value_is_encoded_as_configured(encoding: str, value: Any, text: str) -> None:
    assert of_tenant(value, encoding=encoding) == ((("x-tenant", text),), (), ())


@pytest.mark.parametrize(
    ("encoding", "value"),
    [("csv", "a,b"), ("csv", {"a": 1}), ("json", ["a" * 7997]), ("base64url-json", "a" * 5999)],
)
def test_what_an_encoding_cannot_express_or_is_too_long_is_left_out(encoding: str, value: Any) -> None:
    overwrite, remove, omitted = of_tenant(value, encoding=encoding)
    assert (overwrite, remove, len(omitted)) == ((), ("x-tenant",), 1)


@pytest.mark.parametrize("encoding", ["csv", "json", "base64url-json"])
def test_an_absent_claim_has_no_header_under_any_encoding(encoding: str) -> None:
    assert of_tenant(None, encoding=encoding) == ((), ("x-tenant",), ())
    empty = claims(subject="", client_id="", scope="")
    assert upstream(encoding=encoding).for_token(empty).overwrite == ()


def test_the_whole_claim_set_and_the_scopes_can_be_sent_as_json() -> None:
    token = claims(iss="i", scope="b a", nested={"x": [1]})
    assert upstream({"x": "*"}, encoding="json").for_token(token).overwrite == (
        ("x", '{"iss":"i","nested":{"x":[1]}}'),
    )
    assert upstream({"x": "scope"}, encoding="json").for_token(token).overwrite == (("x", '["a","b"]'),)
    assert upstream({"x": "scope"}, encoding="csv").for_token(token).overwrite == (("x", "a,b"),)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["a,b", " a", "a\n", "\u00e9"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(_JSON, st.sampled_from([None, "csv", "json", "base64url-json"]))
def test_a_header_decodes_to_its_claim_or_is_left_out(value: Any, encoding: str | None) -> None:
    overwrite, remove, omitted = of_tenant(value, encoding=encoding)
    assert len(overwrite) + len(remove) == 1
    assert len(omitted) <= len(remove)
    for _, text in overwrite:
        assert text
        assert text == text.strip()
        assert not re.search("[\x00-\x1f\x7f-\x9f]", text)
        if encoding == "json":
            assert json.loads(text) == value
        elif encoding == "base64url-json":
            assert json.loads(base64url.decode(text)) == value
        elif isinstance(value, list):
            assert len(text.split(",")) == len(value)


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

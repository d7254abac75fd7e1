"""An introspection response is validated like a token; ``active`` alone accepts nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.claims import Identity
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.introspection.response import (
    IntrospectionFailure,
    IntrospectionResponse,
    VerifiedJwt,
    conclude,
    validate_response,
)
from authz_service.tokens.jwt.claims import REQUIREMENTS_BEFORE_INTROSPECTION, validate_claims
from support.fake_introspection import INACTIVE, active_response, issuer_with
from support.trust import ISSUER, NOW, OTHER


def validated(
    body: dict[str, Any], verified: VerifiedJwt | None = None, *, now: float = NOW, **settings: Any
) -> IntrospectionResponse:
    introspection = settings.pop("introspection", {})
    issuer = issuer_with(introspection, **settings)
    assert issuer.introspection is not None
    return validate_response(issuer, issuer.introspection, body, verified, now)


def reason(response: IntrospectionResponse) -> str:
    try:
        response.token()
    except Rejected as rejected:
        return rejected.reason.value
    return "ok"


def test_the_claims_of_an_active_token_are_those_of_the_response() -> None:
    claims = validated(active_response(tenant="acme", username="alice")).token().claims
    assert (claims.issuer, claims.subject, claims.client_id) == ("main", "u1", "app")
    assert (claims.audiences, claims.scopes) == (frozenset({"api"}), frozenset({"a", "b"}))
    assert claims.scope == "a b"
    assert claims.raw["tenant"] == "acme"
    assert claims.raw["iss"] == ISSUER


@pytest.mark.parametrize(
    "active", [None, False, "true", "True", 1, 1.0, "yes", [True], {"value": True}, {}, [], "", 0, "active"]
)
def test_active_must_be_exactly_true(active: Any) -> None:
    response = validated(active_response() | {"active": active})
    assert (reason(response), response.active) == ("inactive", False)


def test_a_response_without_active_is_inactive() -> None:
    assert reason(validated(active_response(active=None))) == "inactive"
    assert reason(validated({})) == "inactive"
    assert reason(validated({"error": "invalid_token"})) == "inactive"


@pytest.mark.parametrize(
    ("changes", "settings", "expected"),
    [
        ({"iss": ISSUER}, {}, "ok"),
        ({"iss": None}, {}, "ok"),
        ({"iss": OTHER}, {}, "unknown_issuer"),
        ({"iss": ISSUER.rstrip("/")}, {}, "unknown_issuer"),
        ({"iss": ""}, {}, "unknown_issuer"),
        ({"iss": [ISSUER]}, {}, "unknown_issuer"),
        ({"exp": None}, {}, "missing_claim"),
        ({"exp": NOW - 30}, {}, "expired"),
        ({"exp": NOW - 29}, {}, "ok"),
        ({"exp": NOW}, {"leeway": "0s"}, "expired"),
        ({"exp": str(NOW + 600)}, {}, "invalid_claim"),
        ({"exp": True}, {}, "invalid_claim"),
        ({"nbf": NOW + 31}, {}, "not_yet_valid"),
        ({"nbf": NOW + 30}, {}, "ok"),
        ({"iat": NOW + 31}, {}, "not_yet_valid"),
        ({"iat": NOW - 120}, {"max_token_age": "1m"}, "too_old"),
        ({"iat": None}, {"max_token_age": "1m"}, "missing_claim"),
        ({"sub": None}, {"required_claims": ["exp", "sub"]}, "missing_claim"),
        ({"sub": 7}, {}, "invalid_claim"),
        ({"jti": 7}, {}, "invalid_claim"),
        ({"azp": ["app"]}, {}, "invalid_claim"),
        ({"nbf": "soon"}, {}, "invalid_claim"),
        ({"type": "refresh"}, {}, "wrong_token_type"),
        ({"typ": "refresh_token"}, {}, "wrong_token_type"),
        ({"sub": "a\nb"}, {}, "invalid_claim"),
        ({"client_id": ["app"]}, {}, "invalid_claim"),
        ({"scope": ["a", 7]}, {}, "invalid_claim"),
        ({"aud": 7}, {}, "invalid_claim"),
        # The kind of token.
        ({"token_type": None}, {}, "ok"),
        ({"token_type": "bearer"}, {}, "ok"),
        ({"token_type": "BEARER"}, {}, "ok"),
        ({"token_type": ""}, {}, "wrong_token_type"),
        ({"token_type": "DPoP"}, {}, "wrong_token_type"),
        ({"token_type": "refresh_token"}, {}, "wrong_token_type"),
        ({"token_type": "access_token"}, {}, "wrong_token_type"),
        ({"token_type": 7}, {}, "invalid_claim"),
        ({"nonce": "n"}, {}, "id_token"),
        ({"nonce": "n"}, {"id_token_markers": []}, "ok"),
        ({"typ": "ID"}, {}, "id_token"),
        ({"typ": "Bearer"}, {}, "ok"),
        ({"typ": "Refresh"}, {}, "wrong_token_type"),
        ({"typ": "Offline"}, {}, "wrong_token_type"),
        ({"token_use": "id"}, {}, "id_token"),
        ({"token_use": "refresh"}, {}, "wrong_token_type"),
        ({"events": {}}, {}, "wrong_token_type"),
        ({"aud": "app"}, {}, "id_token"),
        ({"aud": "app"}, {"allow_client_audience": True}, "ok"),
        # The profile requires its claims. Its type would be in a header, and a response has none.
        ({"jti": "j"}, {"access_token_profile": "rfc9068"}, "ok"),
        ({}, {"access_token_profile": "rfc9068"}, "missing_claim"),
        ({"jti": "j", "aud": "app"}, {"access_token_profile": "rfc9068"}, "id_token"),
    ],
)
def test_a_response_is_validated_like_a_token(changes: dict[str, Any], settings: dict[str, Any], expected: str) -> None:
    response = validated(active_response(**changes), **settings)
    assert reason(response) == expected
    assert response.active  # although the token may be rejected


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        *((name, {}, "ok") for name in ("iss", "sub", "jti", "client_id", "azp", "nbf", "iat", "scope", "aud")),
        *((name, {}, "ok") for name in ("username", "token_type", "typ", "cnf", "scp")),
        ("active", {}, "inactive"),
        ("exp", {}, "missing_claim"),
        ("sub", {"required_claims": ["exp", "sub"]}, "missing_claim"),
        ("iat", {"max_token_age": "1m"}, "missing_claim"),
        ("nonce", {}, "id_token"),
        ("events", {}, "wrong_token_type"),
    ],
)
def test_a_null_member_counts_as_absent(name: str, settings: dict[str, Any], expected: str) -> None:
    """Many servers write null for an absent member. The markers of other kinds of tokens count even when null."""
    response = validated(active_response() | {name: None}, **settings)
    assert reason(response) == expected
    if expected == "ok":
        assert name not in response.token().claims.raw or name == "iss"
    verified = validated(active_response() | {name: None}, jwt())
    assert reason(verified) == ("inactive" if name == "active" else "ok")


@pytest.mark.parametrize(
    ("changes", "introspection", "settings", "seconds"),
    [
        ({}, {}, {}, 30),
        ({"exp": NOW + 7}, {}, {}, 7),
        ({"exp": NOW}, {}, {}, 0),
        ({}, {"cache_ttl": "2m"}, {}, 120),
        ({}, {"cache_ttl": "0s"}, {}, 0),
        ({"iat": NOW - 50}, {}, {"max_token_age": "1m", "leeway": "0s"}, 10),
        ({"active": False}, {}, {}, 10),
        ({"active": False}, {"negative_cache_ttl": "1s"}, {}, 1),
        ({"nonce": "n"}, {}, {}, 10),
        ({"exp": NOW - 60}, {}, {}, 10),
        ({"nbf": NOW + 60}, {}, {}, 10),
    ],
)
def test_a_response_expires_after_its_ttl_and_never_after_the_token(
    changes: dict[str, Any], introspection: dict[str, Any], settings: dict[str, Any], seconds: float
) -> None:
    response = validated(active_response(**changes), introspection=introspection, **settings)
    assert (response.since, response.until) == (NOW, NOW + seconds)


# Responses about verified JWTs.


@pytest.mark.parametrize(
    ("cnf", "settings", "expected"),
    [
        (None, {}, "wrong_token_type"),
        ({"x5t#S256": "A" * 43}, {}, "wrong_token_type"),
        ({"jkt": "A" * 43}, {}, "ok"),
        ({"jkt": "A" * 43, "x5t#S256": "A" * 43}, {}, "ok"),
        ({}, {"confirmation": "ignore"}, "ok"),
    ],
)
def test_a_token_of_type_dpop_must_name_its_key(cnf: Any, settings: dict[str, Any], expected: str) -> None:
    for name in ("DPoP", "dpop"):
        body = active_response(token_type=name, cnf=cnf)
        assert reason(validated(body, **settings)) == expected
        assert reason(validated(body, jwt(), **settings)) == expected
    if cnf:
        body = active_response(token_type="DPoP")
        assert reason(validated(body, jwt(cnf=cnf), **settings)) == expected


def jwt(header: dict[str, Any] | None = None, **changes: Any) -> VerifiedJwt:
    """A JWT as the validator passes it on; None removes a claim."""
    given = {"iss": ISSUER, "sub": "u1", "client_id": "app", "aud": "api", "scope": "a", "exp": NOW + 600} | changes
    raw = {name: value for name, value in given.items() if value is not None}
    header = header or {"typ": "JWT"}
    claims = validate_claims(issuer_with(), header, raw, NOW, REQUIREMENTS_BEFORE_INTROSPECTION)
    return VerifiedJwt(header, claims)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ({"active": True}, "ok"),
        ({"active": True, "exp": NOW + 600}, "ok"),
        (active_response(), "ok"),
        (active_response(iss=ISSUER), "ok"),
        (INACTIVE, "inactive"),
        ({"active": "true"}, "inactive"),
        ({"active": True, "iss": OTHER}, "inactive"),
        ({"active": True, "sub": "u2"}, "inactive"),
        ({"active": True, "sub": ["u1"]}, "inactive"),
        ({"active": True, "client_id": "other"}, "inactive"),
        ({"active": True, "exp": NOW - 30}, "inactive"),
        ({"active": True, "exp": "soon"}, "invalid_claim"),
    ],
)
def test_a_response_about_a_verified_jwt_must_be_active_and_not_contradict_it(
    response: dict[str, Any], expected: str
) -> None:
    assert reason(validated(response, jwt())) == expected


@pytest.mark.parametrize(
    ("claims", "response", "settings"),
    [
        ({"client_id": None, "appid": "app"}, {"azp": "other"}, {}),
        ({"client_id": None, "appid": "app"}, {"client_id": "other"}, {}),
        ({"client_id": "app"}, {"azp": "other"}, {"client_claims": ["azp", "client_id"]}),
    ],
)
def test_a_response_does_not_change_the_client_by_another_claim(
    claims: dict[str, Any], response: dict[str, Any], settings: dict[str, Any]
) -> None:
    verified = jwt(**claims)
    assert verified.claims.client_id == "app"
    assert reason(validated({"active": True} | response, verified, **settings)) == "inactive"


def test_a_response_adds_the_claims_that_the_jwt_lacks_and_replaces_none() -> None:
    response = active_response(scope="admin", aud="other", tenant="acme", roles={"a": ["b"]})
    claims = validated(response, jwt(sub=None)).token().claims
    assert (claims.subject, claims.scope, set(claims.audiences)) == ("u1", "a", {"api"})
    added = {"sub": "u1", "tenant": "acme", "roles": {"a": ["b"]}, "token_type": "Bearer", "iat": NOW}
    assert claims.raw == added | dict(jwt().claims.raw)


@pytest.mark.parametrize(
    ("settings", "changes", "lacking", "expected"),
    [
        ({}, {}, ("sub", "aud", "scope", "client_id"), "ok"),
        ({"required_claims": ["exp", "sub"]}, {}, ("sub",), "ok"),
        ({"required_claims": ["exp", "sub"]}, {"sub": None}, ("sub",), "missing_claim"),
        ({"required_claims": ["exp", "tenant"]}, {}, (), "missing_claim"),
        ({"max_token_age": "1m"}, {}, ("iat",), "ok"),
        ({"max_token_age": "1m"}, {"iat": None}, ("iat",), "missing_claim"),
        ({"max_token_age": "1m"}, {"iat": NOW - 120}, ("iat",), "too_old"),
        ({}, {"nbf": NOW + 60}, (), "not_yet_valid"),
        ({}, {"sub": ["u1"]}, ("sub",), "invalid_claim"),
        ({}, {"sub": "u\n1"}, ("sub",), "invalid_claim"),
        ({}, {"scope": 7}, ("scope",), "invalid_claim"),
        ({}, {"typ": "ID"}, (), "id_token"),
        ({}, {"nonce": "n"}, (), "id_token"),
        ({}, {"aud": "app"}, ("aud",), "id_token"),
        ({}, {"token_use": "refresh"}, (), "wrong_token_type"),
    ],
)
def test_the_claims_of_a_jwt_and_of_the_response_are_validated_together(
    settings: dict[str, Any], changes: dict[str, Any], lacking: tuple[str, ...], expected: str
) -> None:
    verified = jwt(**dict.fromkeys(lacking))
    assert reason(validated(active_response(**changes), verified, **settings)) == expected


def test_the_type_of_the_jwt_counts_when_its_claims_are_validated_again() -> None:
    assert reason(validated({"active": True}, jwt({"typ": "at+jwt"}, aud="app"))) == "ok"
    assert reason(validated({"active": True, "aud": "app"}, jwt({"typ": "at+jwt"}, aud=None))) == "ok"


def test_a_merged_token_expires_with_the_earlier_of_both_times() -> None:
    response = validated(active_response(exp=NOW + 20, iat=NOW - 50), jwt(), max_token_age="1m", leeway="0s")
    assert response.until == NOW + 10


@pytest.mark.parametrize(("exp", "seconds"), [(None, 30), (NOW + 600, 30), (NOW + 7, 7), (NOW - 7, -7)])
def test_a_response_about_a_jwt_expires_no_later_than_its_exp(exp: float | None, seconds: float) -> None:
    assert validated(active_response(exp=exp), jwt()).until == NOW + seconds


# Responses without exp.


@pytest.mark.parametrize("exp", [None, 0, 0.0])
def test_a_response_without_exp_is_accepted_where_it_is_optional_and_expires_after_its_ttl(exp: float | None) -> None:
    response = validated(active_response(exp=exp), introspection={"exp": "optional", "cache_ttl": "40s"})
    assert response.until == NOW + 40
    assert "exp" not in response.token().claims.raw
    profile: dict[str, Any] = {"access_token_profile": "rfc9068", "introspection": {"exp": "optional"}}
    assert reason(validated(active_response(exp=exp, jti="j"), **profile)) == "ok"


@pytest.mark.parametrize(
    ("exp", "expected"),
    [
        (NOW - 30, "expired"),
        (1, "expired"),
        (-1, "expired"),
        (False, "invalid_claim"),
        ("0", "invalid_claim"),
        ([], "invalid_claim"),
        (NOW + 600, "ok"),
    ],
)
def test_an_exp_that_is_optional_counts_where_there_is_one(exp: Any, expected: str) -> None:
    assert reason(validated(active_response(exp=exp), introspection={"exp": "optional"})) == expected


@pytest.mark.parametrize(("exp", "expected"), [(0, "expired"), (None, "missing_claim")])
def test_exp_is_required_by_default(exp: float | None, expected: str) -> None:
    assert reason(validated(active_response(exp=exp))) == expected


@pytest.mark.parametrize(("exp", "expected"), [(None, "ok"), (0, "ok"), (NOW - 30, "inactive")])
def test_a_response_about_a_jwt_may_lack_exp_and_the_jwt_may_not(exp: float | None, expected: str) -> None:
    assert reason(validated(active_response(exp=exp), jwt(), introspection={"exp": "optional"})) == expected
    with pytest.raises(Rejected, match="claim exp is missing"):
        jwt(exp=None)


def test_max_token_age_bounds_a_token_without_exp() -> None:
    response = validated(
        active_response(exp=None, iat=NOW - 50), max_token_age="1m", leeway="0s", introspection={"exp": "optional"}
    )
    assert response.until == NOW + 10


# Several servers.

GOOD = validated(active_response())
NOT_ACTIVE = validated(INACTIVE)
ID_TOKEN = validated(active_response(nonce="n"))
FAILURE = IntrospectionFailure("unavailable", 7)
LATER_FAILURE = IntrospectionFailure("unavailable for longer", 9)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([GOOD], "ok"),
        ([NOT_ACTIVE, GOOD], "ok"),
        ([FAILURE, GOOD], "ok"),
        ([NOT_ACTIVE], "inactive"),
        ([NOT_ACTIVE, NOT_ACTIVE], "inactive"),
        ([FAILURE], "introspection_unavailable"),
        ([FAILURE, NOT_ACTIVE], "introspection_unavailable"),
        ([NOT_ACTIVE, FAILURE], "introspection_unavailable"),
        ([ID_TOKEN], "id_token"),
        ([NOT_ACTIVE, ID_TOKEN], "id_token"),
        ([FAILURE, ID_TOKEN], "id_token"),
        ([ID_TOKEN, GOOD], "id_token"),
    ],
)
def test_the_first_active_response_decides_and_a_failure_is_not_inactive(
    results: list[IntrospectionResponse | IntrospectionFailure], expected: str
) -> None:
    try:
        conclude(results)
    except Rejected as rejected:
        assert rejected.reason.value == expected
        assert (rejected.retry_after is not None) == (expected == "introspection_unavailable")
    else:
        assert expected == "ok"


def test_retry_after_is_the_shortest_of_several_failures() -> None:
    with pytest.raises(Rejected) as rejected:
        conclude([LATER_FAILURE, FAILURE])
    assert rejected.value.retry_after == 7


# Properties.

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_MEMBERS = st.sampled_from(
    ["active", "iss", "aud", "exp", "nbf", "iat", "scope", "client_id", "sub", "token_type", "typ", "nonce", "events"]
)


@given(changes=st.dictionaries(_MEMBERS, _JSON), is_jwt=st.booleans())
def test_any_response_is_claims_or_a_reason(*, changes: dict[str, Any], is_jwt: bool) -> None:
    response = validated(active_response() | changes, jwt() if is_jwt else None)
    if reason(response) == "ok":
        members = active_response() | changes
        assert members["active"] is True
        assert members.get("token_type") is None or is_jwt or members["token_type"].lower() == "bearer"
        assert response.until <= NOW + 30
    else:
        assert isinstance(response.outcome, tuple)
        assert response.outcome[0] in Reason
        assert response.until == NOW + 10


def identity_in(response: IntrospectionResponse) -> object:
    with pytest.raises(Rejected) as raised:
        response.token()
    return raised.value.identity


def test_a_refused_response_about_an_active_token_keeps_its_identity() -> None:
    assert identity_in(validated(active_response(exp=1))) == Identity("main", "u1", "app")
    assert identity_in(validated(active_response(token_type="refresh"))) == Identity("main", "u1", "app")


def test_an_inactive_token_has_no_identity_whatever_the_response_contains() -> None:
    assert identity_in(validated(active_response() | INACTIVE)) is None

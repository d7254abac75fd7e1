"""An introspection response is validated like a token; ``active`` alone accepts nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.claims import Claims
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.introspection.response import (
    IntrospectionFailure,
    IntrospectionResponse,
    conclude,
    validate_response,
)
from support.fake_introspection import INACTIVE, active_response, issuer_with
from support.trust import ISSUER, NOW, OTHER


def validated(
    body: dict[str, Any], verified: Claims | None = None, *, now: float = NOW, **settings: Any
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
    verified = validated(active_response() | {name: None}, JWT)
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

JWT = Claims("main", "u1", "app", frozenset({"api"}), frozenset({"a"}), "a", {"iss": ISSUER})


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
    assert reason(validated(response, JWT)) == expected


def test_the_claims_are_those_of_the_jwt_and_not_of_the_response() -> None:
    assert validated(active_response(scope="admin", tenant="evil"), JWT).token().claims is JWT


def test_a_response_may_name_a_subject_that_the_jwt_does_not() -> None:
    anonymous = Claims("main", "", "", frozenset(), frozenset(), "", {"iss": ISSUER})
    assert reason(validated(active_response(), anonymous)) == "ok"


@pytest.mark.parametrize(("exp", "seconds"), [(None, 30), (NOW + 600, 30), (NOW + 7, 7), (NOW - 7, -7)])
def test_a_response_about_a_jwt_expires_no_later_than_its_exp(exp: float | None, seconds: float) -> None:
    assert validated(active_response(exp=exp), JWT).until == NOW + seconds


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
    response = validated(active_response() | changes, JWT if is_jwt else None)
    if reason(response) == "ok":
        members = active_response() | changes
        assert members["active"] is True
        assert members.get("token_type") is None or is_jwt or members["token_type"].lower() == "bearer"
        assert response.until <= NOW + 30
    else:
        assert isinstance(response.outcome, tuple)
        assert response.outcome[0] in Reason
        assert response.until == NOW + 10

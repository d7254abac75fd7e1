"""Claims are validated against their issuer's settings."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

from authz_service.config.model import Issuer
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.jwt.claims import valid_until, validate_claims
from support.trust import ISSUER, NOW, RS, LocalValidator, claims


def issuer(**settings: Any) -> Issuer:
    return Issuer.read({"issuer": ISSUER, "name": "main", "audiences": ["api"]} | settings)


def reason(settings: dict[str, Any], now: float = NOW, **changes: Any) -> str:
    try:
        validate_claims(issuer(**settings), {"typ": "JWT"}, claims(**changes), now)
    except Rejected as rejected:
        return rejected.reason.value
    return "ok"


@pytest.mark.parametrize(
    ("settings", "changes", "expected"),
    [
        # A token is not valid any more at exp, and valid at nbf.
        ({}, {"exp": NOW - 29}, "ok"),
        ({}, {"exp": NOW - 29.99}, "ok"),
        ({}, {"exp": NOW - 30}, "expired"),
        ({"leeway": "0s"}, {"exp": NOW + 0.01}, "ok"),
        ({"leeway": "0s"}, {"exp": NOW}, "expired"),
        ({}, {"nbf": NOW + 30}, "ok"),
        ({}, {"nbf": NOW + 30.01}, "not_yet_valid"),
        ({"leeway": "0s"}, {"nbf": NOW}, "ok"),
        ({"leeway": "0s"}, {"nbf": NOW + 1}, "not_yet_valid"),
        ({}, {"iat": NOW + 30}, "ok"),
        ({}, {"iat": NOW + 31}, "not_yet_valid"),
        ({}, {"iat": None}, "ok"),
        ({}, {"iat": 0, "nbf": 0}, "ok"),
        ({}, {"exp": 10**39}, "ok"),
        ({}, {"exp": 10**400}, "invalid_claim"),
        ({}, {"nbf": -(10**400)}, "invalid_claim"),
        ({"max_token_age": "5m"}, {"iat": NOW - 329}, "ok"),
        ({"max_token_age": "5m"}, {"iat": NOW - 330}, "too_old"),
        ({"max_token_age": "5m"}, {"iat": None}, "missing_claim"),
        ({"max_token_age": "5m"}, {"iat": NOW - 400, "exp": NOW - 40}, "expired"),
        # Required claims.
        ({"required_claims": ["exp", "jti"]}, {}, "missing_claim"),
        ({"required_claims": ["exp", "jti"]}, {"jti": ""}, "ok"),  # present, though empty
        ({"required_claims": ["exp", "jti"]}, {"jti": 0}, "invalid_claim"),
        ({"required_claims": ["exp", "tenant"]}, {"tenant": 0}, "ok"),
        # Optional claims.
        ({}, {"sub": None, "client_id": None, "scope": None, "aud": None}, "ok"),
        # Kinds of tokens.
        ({"id_token_markers": []}, {"nonce": "x", "at_hash": "x"}, "ok"),
        ({"id_token_markers": ["sid"]}, {"sid": "x"}, "id_token"),
        ({"id_token_markers": ["sid"]}, {"nonce": "x"}, "ok"),
        ({"id_token_markers": []}, {"typ": "ID"}, "id_token"),
        ({"allow_client_audience": True}, {"aud": "app"}, "ok"),
        ({"allow_client_audience": True}, {"aud": "app", "nonce": "x"}, "id_token"),
        ({"allow_client_audience": True}, {"aud": "app", "token_use": "id"}, "id_token"),
        ({}, {"aud": ["app", "api"]}, "ok"),
        ({}, {"aud": "app", "client_id": None, "cid": "app"}, "ok"),  # the audience is up to the rule
        ({}, {"aud": "", "client_id": ""}, "ok"),
        ({}, {"aud": [], "client_id": "app"}, "ok"),
        ({}, {"typ": "Bearer", "token_use": "access"}, "ok"),
        # Of an expired ID token, its kind is reported: it is validated first.
        ({}, {"exp": NOW - 60, "nonce": "x"}, "id_token"),
    ],
)
def test_claims_are_valid_or_rejected_with_their_reason(
    settings: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    assert reason(settings, **changes) == expected


@pytest.mark.parametrize(
    ("typ", "changes", "expected"),
    [
        ("at+jwt", {}, "ok"),
        ("application/AT+JWT", {}, "ok"),
        ("JWT", {}, "wrong_token_type"),
        (None, {}, "wrong_token_type"),
        *(("at+jwt", {name: None}, "missing_claim") for name in ("exp", "aud", "sub", "client_id", "iat", "jti")),
        ("at+jwt", {"nonce": "x"}, "id_token"),
        ("at+jwt", {"aud": "app"}, "ok"),  # typ marks an access token
    ],
)
def test_the_profile_rfc9068_requires_its_type_and_claims(
    typ: str | None, changes: dict[str, Any], expected: str
) -> None:
    local = LocalValidator(access_token_profile="rfc9068")
    assert local.reason(RS.sign(claims(**{"jti": "1"} | changes), {"typ": typ})) == expected


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt", "JWT", "jwt", None])
def test_these_values_of_typ_are_accepted(typ: str | None) -> None:
    assert LocalValidator().reason(RS.sign(claims(), {"typ": typ})) == "ok"


@pytest.mark.parametrize(
    ("settings", "changes", "scopes"),
    [
        ({}, {"scope": "a b"}, {"a", "b"}),
        ({}, {"scope": "  a  b a "}, {"a", "b"}),
        ({}, {"scope": ["a", "b"]}, {"a", "b"}),
        ({}, {"scope": "a", "scp": ["b", "c"]}, {"a", "b", "c"}),
        ({}, {"scope": None}, set()),
        ({}, {"scope": ""}, set()),
        ({}, {"scope": []}, set()),
        ({}, {"scope": "a\tb"}, set()),
        ({}, {"scope": "a\nb c"}, {"c"}),
        ({}, {"scope": "a\u00a0b c\u2003d e"}, {"e"}),
        ({}, {"scope": "a,b"}, {"a,b"}),
        ({}, {"scope": "a " * 512}, {"a"}),
        ({}, {"scope": "a " * 512 + "b c\td"}, {"a", "b"}),
        ({}, {"scope": ["a b", "c", "", " d"]}, {"c"}),
        ({}, {"scope": 'a"b c\\d e\x7f f'}, {"f"}),
        ({}, {"scope": "caf\u00e9 a"}, {"a"}),
        ({}, {"scope": "api://x/.default urn:a:b https://a/b?c#d"}, {"api://x/.default", "urn:a:b", "https://a/b?c#d"}),
        ({}, {"permissions": ["p"]}, {"a", "b"}),
        ({"scope_claims": ["permissions"]}, {"permissions": ["p", "q:r"]}, {"p", "q:r"}),
        ({"scope_claims": []}, {}, set()),
        ({"scope_claims": ["realm_access.roles"]}, {"realm_access": {"roles": ["p", "q r"]}}, {"p"}),
        ({"scope_claims": ["realm_access.roles"]}, {"realm_access": {"roles": "p q"}}, {"p", "q"}),
        ({"scope_claims": ["realm_access.roles"]}, {"realm_access": {}}, set()),
        ({"scope_claims": ["realm_access.roles"]}, {"realm_access.roles": ["p"]}, set()),
        ({"scope_claims": [r"https://example\.com/roles"]}, {"https://example.com/roles": ["p"]}, {"p"}),
        ({"scope_claims": ["scope", "a.b.c"]}, {"scope": "x", "a": {"b": {"c": "y"}}}, {"x", "y"}),
    ],
)
def test_scopes_are_split_at_spaces_only(settings: dict[str, Any], changes: dict[str, Any], scopes: set[str]) -> None:
    found = validate_claims(issuer(**settings), {}, claims(**changes), NOW)
    assert found.scopes == scopes
    assert found.scope == " ".join(sorted(scopes))


@pytest.mark.parametrize(
    ("settings", "changes", "client"),
    [
        ({}, {"azp": "b", "cid": "c", "appid": "d"}, "app"),
        ({}, {"client_id": None, "azp": "b", "cid": "c"}, "b"),
        ({}, {"client_id": None, "appid": "d"}, "d"),
        ({}, {"client_id": "", "azp": "b"}, "b"),
        ({}, {"client_id": None}, ""),
        ({"client_claims": ["cid"]}, {"cid": "c"}, "c"),
        ({"client_claims": []}, {}, ""),
        ({"client_claims": ["act.client", "azp"]}, {"act": {"client": "c"}, "azp": "b"}, "c"),
        ({"client_claims": ["act.client", "azp"]}, {"azp": "b"}, "b"),
    ],
)
def test_the_client_is_the_first_client_claim_present(
    settings: dict[str, Any], changes: dict[str, Any], client: str
) -> None:
    assert validate_claims(issuer(**settings), {}, claims(**changes), NOW).client_id == client


@pytest.mark.parametrize(
    ("settings", "changes", "audiences"),
    [
        ({}, {"aud": "api"}, {"api"}),
        ({}, {"aud": ["api", "b"]}, {"api", "b"}),
        ({}, {"aud": None}, set()),
        ({}, {"aud": "api other"}, {"api other"}),  # one audience, with a space
        ({"audience_claims": ["client_id"]}, {"aud": "api"}, {"app"}),
        ({"audience_claims": ["aud", "client_id"]}, {"aud": "api"}, {"api", "app"}),
        ({"audience_claims": ["cluster.audiences"]}, {"cluster": {"audiences": ["a", "b"]}}, {"a", "b"}),
    ],
)
def test_audiences_of_several_claims_are_united(
    settings: dict[str, Any], changes: dict[str, Any], audiences: set[str]
) -> None:
    assert validate_claims(issuer(**settings), {}, claims(**changes), NOW).audiences == audiences


@pytest.mark.parametrize("outer", ["roles", ["roles"], None, 1])
@pytest.mark.parametrize("key", ["scope_claims", "client_claims", "audience_claims"])
def test_a_path_through_a_value_that_is_not_an_object_is_refused(key: str, outer: Any) -> None:
    raw = claims() | {"realm": outer}
    with pytest.raises(Rejected, match=r"claim realm\.roles cannot be read") as rejected:
        validate_claims(issuer(**{key: ["realm.roles"]}), {}, raw, NOW)
    assert rejected.value.reason is Reason.INVALID_CLAIM


@pytest.mark.parametrize("key", ["scope_claims", "client_claims", "audience_claims"])
@pytest.mark.parametrize("value", [None, 1, {"x": "y"}, [1]])
def test_a_nested_claim_of_a_wrong_type_is_refused_like_a_top_level_one(key: str, value: Any) -> None:
    assert reason({key: ["a.b"]}, a={"b": value}) == "invalid_claim"


def test_raw_claims_are_those_of_the_token() -> None:
    raw = claims(realm_access={"roles": ["x"]}, acr="1")
    found = validate_claims(issuer(), {}, raw, NOW)
    assert (found.issuer, found.subject, found.raw) == ("main", "u1", raw)


def test_another_iss_is_rejected() -> None:
    assert reason({}, iss="https://other.example/") == "unknown_issuer"
    assert reason({}, iss=None) == "unknown_issuer"


@hypothesis.settings(
    suppress_health_check=[HealthCheck.filter_too_much]
)  # few of the generated times are those of a valid token
@given(
    exp=st.integers(-10, 1000),
    iat=st.none() | st.integers(-1000, 10),
    nbf=st.none() | st.integers(-1000, 10),
    leeway=st.integers(0, 100),
    age=st.none() | st.integers(500, 2000),
    later=st.integers(-1, 1),
)
def test_valid_until_is_the_first_time_at_which_validation_fails(
    exp: int, iat: int | None, nbf: int | None, leeway: int, age: int | None, later: int
) -> None:
    settings = issuer(leeway=f"{leeway}s", **({} if age is None else {"max_token_age": f"{age}s"}))
    times = {"exp": NOW + exp, "iat": None if iat is None else NOW + iat, "nbf": None if nbf is None else NOW + nbf}

    def is_valid(now: float) -> bool:
        try:
            validate_claims(settings, {}, claims(**times), now)
        except Rejected:
            return False
        return True

    assume(is_valid(NOW))
    until = valid_until(settings, validate_claims(settings, {}, claims(**times), NOW))
    assert until > NOW
    assert is_valid(until + later) == (later < 0) or until + later < NOW
    assert is_valid((NOW + until) / 2)


TEMPLATE = {"issuer": "https://login.example/{tenantid}/v2.0", "keys": {"jwks_uri": "https://login.example/keys"}}


@pytest.mark.parametrize(
    ("settings", "changes", "expected"),
    [
        ({}, {"iss": "https://login.example/t1/v2.0"}, "ok"),
        ({}, {"iss": "https://login.example/t1/v2.0", "tid": "t1"}, "ok"),
        ({}, {"iss": "https://login.example/t1/v2.0", "tid": "t2"}, "invalid_claim"),
        ({}, {"iss": "https://login.example/t1/v2.0", "tid": "T1"}, "invalid_claim"),
        ({}, {"iss": "https://login.example/t1/v2.0", "tid": ["t1"]}, "invalid_claim"),
        ({}, {"iss": "https://login.example/t1/v2.0", "tid": ""}, "invalid_claim"),
        ({}, {"iss": "https://login.example/t1/x/v2.0"}, "unknown_issuer"),
        ({}, {"iss": "https://login.example//v2.0"}, "unknown_issuer"),
        ({}, {"iss": "https://login.example/{tenantid}/v2.0"}, "unknown_issuer"),
        ({}, {"iss": ["https://login.example/t1/v2.0"]}, "unknown_issuer"),
        ({}, {"iss": None}, "unknown_issuer"),
        ({"tenants": ["t1", "t2"]}, {"iss": "https://login.example/t2/v2.0"}, "ok"),
        ({"tenants": ["t1", "t2"]}, {"iss": "https://login.example/t3/v2.0"}, "unknown_issuer"),
    ],
)
def test_the_issuer_of_a_tenant_has_the_form_of_the_template(
    settings: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    assert reason(TEMPLATE | settings, **changes) == expected


def test_a_tid_that_is_null_is_not_the_tenant() -> None:
    raw = claims(iss="https://login.example/t1/v2.0") | {"tid": None}
    with pytest.raises(Rejected, match="claim tid is None"):
        validate_claims(issuer(**TEMPLATE), {}, raw, NOW)


def test_the_label_of_a_template_is_its_name_and_its_claims_have_the_iss_of_the_token() -> None:
    iss = "https://login.example/t1/v2.0"
    found = validate_claims(issuer(**TEMPLATE), {}, claims(iss=iss), NOW)
    assert (found.issuer, found.raw["iss"]) == ("main", iss)


def test_without_a_template_tid_is_a_claim_like_any_other() -> None:
    assert reason({}, tid="x") == "ok"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"exp": NOW - 3600}, "exp has passed, 3600 s ago (leeway 30 s)"),
        ({"exp": -(10**300)}, "exp has passed, years ago (leeway 30 s)"),
        ({"nbf": NOW + 45}, "nbf is in the future, in 45 s (leeway 30 s)"),
        ({"iat": NOW * 1000}, "iat is in the future, in years (leeway 30 s)"),  # milliseconds
    ],
)
def test_the_cause_tells_an_old_token_from_a_wrong_clock(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(Rejected) as rejected:
        validate_claims(issuer(), {"typ": "JWT"}, claims(**changes), NOW)
    assert rejected.value.cause == cause

"""The requirements of a rule, and its denials and challenges."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.claims import Claims
from authz_service.core.errors import ProofRejected, Rejected
from authz_service.core.reasons import DENIALS, Reason
from authz_service.rules.operators import NO_PARTS, RequestParts
from authz_service.rules.policy import Rule

ISSUERS = [
    Issuer.read({"issuer": "https://a.example/", "name": "a", "audiences": ["api"]}),
    Issuer.read({"issuer": "https://b.example/", "name": "b", "audiences": ["b-api", "other"]}),
]


def rule(access: str = "token", **require: Any) -> Rule:
    settings = {"name": "r", "access": access} | ({"require": require} if require else {})
    return Rule(RuleSettings.read(settings), ISSUERS)


def claims(issuer: str = "a", audiences: str = "api", scopes: str = "", client: str = "app", **members: Any) -> Claims:
    return Claims(issuer, "u", client, frozenset(audiences.split()), frozenset(scopes.split()), scopes, members)


def reason(rule_: Rule, request: RequestParts = NO_PARTS, now: float = 0.0, **values: Any) -> str:
    try:
        rule_.evaluate(claims(**values), request, now)
    except Rejected as rejected:
        return rejected.reason.value
    return "ok"


@pytest.mark.parametrize(
    ("require", "values", "expected"),
    [
        ({}, {}, "ok"),
        ({}, {"audiences": "x api"}, "ok"),
        ({}, {"audiences": ""}, "wrong_audience"),
        ({}, {"audiences": "b-api"}, "wrong_audience"),
        ({}, {"issuer": "b"}, "wrong_audience"),
        ({}, {"issuer": "b", "audiences": "other"}, "ok"),
        ({"audiences": ["x"]}, {}, "wrong_audience"),
        ({"audiences": ["x"]}, {"issuer": "b", "audiences": "x"}, "ok"),
        ({"issuers": ["b"]}, {}, "issuer_not_allowed"),
        ({"issuers": ["b"]}, {"issuer": "b", "audiences": "b-api"}, "ok"),
        ({}, {"issuer": "c"}, "wrong_audience"),
        ({"clients": ["app"]}, {}, "ok"),
        ({"clients": ["web"]}, {}, "client_not_allowed"),
        ({"clients": ["web"]}, {"client": ""}, "client_not_allowed"),
        ({"scopes": ["x", "y"]}, {"scopes": "x y z"}, "ok"),
        ({"scopes": ["x", "y"]}, {"scopes": "x"}, "insufficient_scope"),
        ({"scopes": ["x"]}, {"scopes": "X"}, "insufficient_scope"),
        ({"scopes": ["x"]}, {"scopes": ""}, "insufficient_scope"),
        ({"scopes": {"any": ["x", "y"]}}, {"scopes": "y"}, "ok"),
        ({"scopes": {"any": ["x", "y"]}}, {"scopes": "z"}, "insufficient_scope"),
        ({"scopes": {"none": ["x"]}}, {"scopes": "y"}, "ok"),
        ({"scopes": {"none": ["x"]}}, {"scopes": "x y"}, "insufficient_scope"),
        ({"scopes": {"all": ["x"], "any": ["y"], "none": ["z"]}}, {"scopes": "x y"}, "ok"),
        ({"scopes": {"all": ["x"], "any": ["y"], "none": ["z"]}}, {"scopes": "x y z"}, "insufficient_scope"),
    ],
)
def test_a_rule_evaluates_issuer_audience_client_and_scopes(
    require: dict[str, Any], values: dict[str, Any], expected: str
) -> None:
    assert reason(rule(**require), **values) == expected


_NAMES = st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=2)
_SOME = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True)
_SCOPES = st.fixed_dictionaries({}, optional={"all": _NAMES, "any": _NAMES, "none": _NAMES}).filter(bool)
_REQUIRE = st.fixed_dictionaries(
    {}, optional={"scopes": _SCOPES, "issuers": _SOME, "clients": _SOME, "audiences": _SOME}
)


@settings(max_examples=400)
@given(
    require=_REQUIRE,
    issuer=st.sampled_from(["a", "b"]),
    audiences=st.sets(st.sampled_from(["a", "b", "api", "b-api", "other"])),
    scopes=st.sets(st.sampled_from(["x", "y", "z"])),
    client=st.sampled_from(["a", "b", ""]),
)
def test_claims_pass_exactly_when_every_requirement_holds(
    require: dict[str, Any], issuer: str, audiences: set[str], scopes: set[str], client: str
) -> None:
    rule_ = rule(**require)
    required = {"all": [], "any": [], "none": []} | require.get("scopes", {})
    everything = {
        "issuer_not_allowed": issuer in require.get("issuers", ["a", "b"]),
        "wrong_audience": bool(audiences & set(require.get("audiences", ISSUERS["ab".index(issuer)].audiences))),
        "client_not_allowed": client in require.get("clients", [client]),
        "insufficient_scope": all(scope in scopes for scope in required["all"])
        and (not required["any"] or any(scope in scopes for scope in required["any"]))
        and not any(scope in scopes for scope in required["none"]),
    }
    expected = next((reason for reason, holds in everything.items() if not holds), "ok")
    found = reason(rule_, issuer=issuer, audiences=" ".join(audiences), scopes=" ".join(scopes), client=client)
    assert found == expected
    assert found in set(rule_.possible_reasons())


def challenge(rule_: Rule, why: Reason) -> str | None:
    return next(iter(rule_.deny(Rejected(why, "cause")).challenges), None)


def test_the_challenge_for_a_missing_token_has_no_error() -> None:
    assert challenge(rule(), Reason.MISSING_TOKEN) == 'Bearer realm="api"'
    assert challenge(rule(scopes=["x", "y"]), Reason.MISSING_TOKEN) == 'Bearer realm="api", scope="x y"'


def test_the_challenge_for_insufficient_scope_names_the_scopes() -> None:
    value = challenge(rule(scopes={"all": ["x"], "any": ["y"], "none": ["z"]}), Reason.INSUFFICIENT_SCOPE)
    assert value is not None
    assert value.startswith('Bearer realm="api", error="insufficient_scope", error_description="')
    assert value.endswith(', scope="x y"')


def test_the_realm_is_the_required_audience() -> None:
    assert challenge(rule(audiences=['the "best" API']), Reason.MISSING_TOKEN) == r'Bearer realm="the \"best\" API"'
    assert challenge(rule(issuers=["b"]), Reason.MISSING_TOKEN) == 'Bearer realm="b-api"'


def test_without_any_audience_the_realm_is_the_rule() -> None:
    nameless = [Issuer.read({"issuer": "https://a.example/", "name": "a"})]
    rule_ = Rule(RuleSettings.read({"name": "r"}), nameless)
    assert challenge(rule_, Reason.MISSING_TOKEN) == 'Bearer realm="r"'
    assert reason(rule_) == "wrong_audience"  # without a configured audience, none is accepted


def test_a_challenge_names_each_scope_once_and_in_the_order_of_the_configuration() -> None:
    value = challenge(rule(scopes={"all": ["z", "a", "z"], "any": ["a", "m"]}), Reason.MISSING_TOKEN)
    assert value == 'Bearer realm="api", scope="z a m"'


def test_the_cause_of_a_denial_names_what_is_missing_and_escapes_what_was_sent() -> None:
    with pytest.raises(Rejected, match="missing scopes: x y"):
        rule(scopes=["y", "x"]).evaluate(claims(), NO_PARTS, 0.0)
    with pytest.raises(Rejected, match=r"client 'a\\nb'"):
        rule(clients=["web"]).evaluate(claims(client="a\nb"), NO_PARTS, 0.0)


@pytest.mark.parametrize("why", DENIALS)
def test_a_denial_has_the_error_and_description_of_its_reason(why: Reason) -> None:
    of_proof = DENIALS[why].error in {"invalid_dpop_proof", "use_dpop_nonce"}
    rejected = ProofRejected(why, "cause", scheme="DPoP") if of_proof else Rejected(why, "cause", retry_after=7)
    deny = rule().deny(rejected)
    assert (deny.reason, deny.rule, deny.cause, deny.retry_after) == (why, "r", "cause", None if of_proof else 7)
    assert bool(deny.challenges) == DENIALS[why].challenged
    if DENIALS[why].error:
        assert f'error="{DENIALS[why].error}"' in str(deny.challenges)
        assert DENIALS[why].detail in str(deny.challenges)


def test_possible_reasons_depend_on_access_and_requirements() -> None:
    assert set(rule("public").possible_reasons()) == {"public", "internal_error", "deadline_exceeded"}
    plain = set(rule().possible_reasons())
    assert (
        plain & {"public", "anonymous", "no_rule", "resource_metadata", "insufficient_scope", "client_not_allowed"}
        == set()
    )
    assert {"ok", "missing_token", "id_token"} <= plain
    assert "anonymous" in set(rule("optional").possible_reasons())
    full = set(rule(scopes=["x"], clients=["c"], issuers=["a"]).possible_reasons())
    assert {"insufficient_scope", "client_not_allowed", "issuer_not_allowed"} <= full


def test_claim_and_step_up_reasons_are_possible_only_with_their_conditions() -> None:
    conditional = {"claim_mismatch", "stale_authentication", "weak_authentication"}
    assert set(rule().possible_reasons()) & conditional == set()
    full = rule(claims={"tenant": "acme"}, max_auth_age="15m", acr_values=["urn:mfa"])
    assert conditional <= set(full.possible_reasons())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tenant": "acme", "auth_time": 1000, "acr": "urn:mfa", "scopes": "x"}, "ok"),
        ({"audiences": "other"}, "wrong_audience"),
        ({"client": "web"}, "client_not_allowed"),
        ({"tenant": "other"}, "claim_mismatch"),
        ({"tenant": "acme"}, "insufficient_scope"),
        ({"tenant": "acme", "scopes": "x"}, "stale_authentication"),
        ({"tenant": "acme", "scopes": "x", "auth_time": 100}, "stale_authentication"),
        ({"tenant": "acme", "scopes": "x", "auth_time": 1000}, "weak_authentication"),
    ],
)
def test_conditions_that_no_new_token_meets_come_first_and_step_up_last(values: dict[str, Any], expected: str) -> None:
    rule_ = rule(clients=["app"], claims={"tenant": "acme"}, scopes=["x"], max_auth_age="15m", acr_values=["urn:mfa"])
    assert reason(rule_, now=1100.0, **values) == expected


@pytest.mark.parametrize("why", [Reason.STALE_AUTHENTICATION, Reason.WEAK_AUTHENTICATION])
def test_a_step_up_challenge_has_max_age_and_acr_values(why: Reason) -> None:
    value = challenge(rule(max_auth_age="15m", acr_values=["urn:mfa", "gold"], scopes=["x"]), why)
    assert value is not None
    assert 'error="insufficient_user_authentication"' in value
    assert value.endswith('max_age="900", acr_values="urn:mfa gold"')
    assert "scope" not in value
    assert "max_age" not in str(challenge(rule(acr_values=["urn:mfa"]), why))
    assert "acr_values" not in str(challenge(rule(max_auth_age="1h"), why))


def test_a_challenge_names_the_scope_for_this_path_unless_no_token_could_hold_it() -> None:
    paths = {"paths": ["/{tenant}/x"]}
    settings = {"name": "r", "match": paths, "require": {"scopes": ["read:{tenant}", "b"]}}
    rule_ = Rule(RuleSettings.read(settings), ISSUERS)
    for segment, scope in (("acme", "read:acme b"), ('a"b', "b"), ("a b", "b"), ("é", "b")):
        request = rule_.parts_of({}, [segment, "x"])
        denied = rule_.deny(Rejected(Reason.INSUFFICIENT_SCOPE, "cause"), request)
        assert denied.challenges[0].endswith(f', scope="{scope}"')


def test_captures_come_from_the_first_pattern_that_matches() -> None:
    paths = ["/v1/{tenant}", "/v2/{x}/{tenant}", "/v3/{tenant}/**"]
    settings = {"name": "r", "match": {"paths": paths}, "require": {"claims": {"t": {"equals_path": "tenant"}}}}
    rule_ = Rule(RuleSettings.read(settings), ISSUERS)
    assert rule_.parts_of({}, ["v1", "a"]).captures == {"tenant": "a"}
    assert rule_.parts_of({}, ["v2", "b", "a"]).captures == {"x": "b", "tenant": "a"}
    assert rule_.parts_of({}, ["v3", "a", "b", "c"]).captures == {"tenant": "a"}


def test_a_rule_reads_no_parts_of_a_request_that_its_conditions_do_not_use() -> None:
    sent = {"x-tenant": "a"}
    assert rule(scopes=["x"], claims={"t": "a"}).parts_of(sent, ["v1", "a"]) is NO_PARTS
    assert rule(claims={"t": {"equals_header": "X-Tenant"}}).parts_of(sent, ["v1", "a"]) == ({}, sent)

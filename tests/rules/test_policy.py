"""What a rule wants of a token, and what it says when it does not get it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.claims import Claims
from authz_service.core.errors import Rejected
from authz_service.core.reasons import DENIALS, Reason
from authz_service.rules.policy import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

ISSUERS = [
    Issuer.model_validate({"issuer": "https://a.example/", "name": "a", "audiences": ["api"]}),
    Issuer.model_validate({"issuer": "https://b.example/", "name": "b", "audiences": ["b-api", "other"]}),
]


def rule(access: str = "token", **require: Any) -> Rule:
    settings = {"name": "r", "access": access} | ({"require": require} if require else {})
    return Rule(RuleSettings.model_validate(settings), ISSUERS)


def claims(issuer: str = "a", audiences: str = "api", scopes: str = "", client: str = "app", **members: Any) -> Claims:
    return Claims(issuer, "u", client, frozenset(audiences.split()), frozenset(scopes.split()), scopes, members)


def reason(judge: Rule, captures: Mapping[str, str] = MappingProxyType({}), now: float = 0.0, **said: Any) -> str:
    try:
        judge.judge(claims(**said), captures, now)
    except Rejected as rejected:
        return rejected.reason.value
    return "ok"


@pytest.mark.parametrize(
    ("require", "said", "expected"),
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
def test_a_rule_judges_issuer_audience_client_and_scopes(
    require: dict[str, Any], said: dict[str, Any], expected: str
) -> None:
    assert reason(rule(**require), **said) == expected


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
def test_claims_suffice_exactly_when_everything_that_is_required_holds(
    require: dict[str, Any], issuer: str, audiences: set[str], scopes: set[str], client: str
) -> None:
    judge = rule(**require)
    wanted = {"all": [], "any": [], "none": []} | require.get("scopes", {})
    everything = {
        "issuer_not_allowed": issuer in require.get("issuers", ["a", "b"]),
        "wrong_audience": bool(audiences & set(require.get("audiences", ISSUERS["ab".index(issuer)].audiences))),
        "client_not_allowed": client in require.get("clients", [client]),
        "insufficient_scope": all(scope in scopes for scope in wanted["all"])
        and (not wanted["any"] or any(scope in scopes for scope in wanted["any"]))
        and not any(scope in scopes for scope in wanted["none"]),
    }
    expected = next((reason for reason, holds in everything.items() if not holds), "ok")
    found = reason(judge, issuer=issuer, audiences=" ".join(audiences), scopes=" ".join(scopes), client=client)
    assert found == expected
    assert found in set(judge.possible_reasons())


def challenge(judge: Rule, why: Reason) -> str | None:
    return judge.deny(Rejected(why, "cause")).challenge


def test_a_missing_token_is_asked_for_without_an_error() -> None:
    assert challenge(rule(), Reason.MISSING_TOKEN) == 'Bearer realm="api"'
    assert challenge(rule(scopes=["x", "y"]), Reason.MISSING_TOKEN) == 'Bearer realm="api", scope="x y"'


def test_an_insufficient_scope_names_what_is_wanted() -> None:
    wanted = challenge(rule(scopes={"all": ["x"], "any": ["y"], "none": ["z"]}), Reason.INSUFFICIENT_SCOPE)
    assert wanted is not None
    assert wanted.startswith('Bearer realm="api", error="insufficient_scope", error_description="')
    assert wanted.endswith(', scope="x y"')


def test_the_realm_is_the_audience_that_a_token_is_needed_for() -> None:
    assert challenge(rule(audiences=['the "best" API']), Reason.MISSING_TOKEN) == r'Bearer realm="the \"best\" API"'
    assert challenge(rule(issuers=["b"]), Reason.MISSING_TOKEN) == 'Bearer realm="b-api"'


def test_without_any_audience_the_realm_is_the_rule() -> None:
    nameless = [Issuer.model_validate({"issuer": "https://a.example/", "name": "a"})]
    judge = Rule(RuleSettings.model_validate({"name": "r"}), nameless)
    assert challenge(judge, Reason.MISSING_TOKEN) == 'Bearer realm="r"'
    assert reason(judge) == "wrong_audience"  # no audience configured is no audience accepted


def test_a_challenge_names_each_scope_once_and_in_the_order_of_the_configuration() -> None:
    wanted = challenge(rule(scopes={"all": ["z", "a", "z"], "any": ["a", "m"]}), Reason.MISSING_TOKEN)
    assert wanted == 'Bearer realm="api", scope="z a m"'


def test_the_cause_of_a_denial_names_what_was_missing_and_escapes_what_was_sent() -> None:
    with pytest.raises(Rejected, match="scopes missing: x y"):
        rule(scopes=["y", "x"]).judge(claims(), {}, 0.0)
    with pytest.raises(Rejected, match=r"client 'a\\nb'"):
        rule(clients=["web"]).judge(claims(client="a\nb"), {}, 0.0)


@pytest.mark.parametrize("why", DENIALS)
def test_a_denial_says_what_its_reason_says(why: Reason) -> None:
    deny = rule().deny(Rejected(why, "cause", retry_after=7))
    assert (deny.reason, deny.rule, deny.cause, deny.retry_after) == (why, "r", "cause", 7)
    assert (deny.challenge is not None) == DENIALS[why].challenged
    if DENIALS[why].error:
        assert f'error="{DENIALS[why].error}"' in str(deny.challenge)
        assert DENIALS[why].detail in str(deny.challenge)


def test_the_series_of_a_rule_are_those_of_the_reasons_that_it_can_have() -> None:
    assert set(rule("public").possible_reasons()) == {"public", "internal_error", "deadline_exceeded"}
    plain = set(rule().possible_reasons())
    assert plain & {"public", "anonymous", "no_rule", "insufficient_scope", "client_not_allowed"} == set()
    assert {"ok", "missing_token", "id_token"} <= plain
    assert "anonymous" in set(rule("optional").possible_reasons())
    full = set(rule(scopes=["x"], clients=["c"], issuers=["a"]).possible_reasons())
    assert {"insufficient_scope", "client_not_allowed", "issuer_not_allowed"} <= full


def test_the_series_of_claims_and_step_up_are_those_of_rules_that_ask_for_them() -> None:
    asked = {"claim_mismatch", "stale_authentication", "weak_authentication"}
    assert set(rule().possible_reasons()) & asked == set()
    full = rule(claims={"tenant": "acme"}, max_auth_age="15m", acr_values=["urn:mfa"])
    assert asked <= set(full.possible_reasons())


@pytest.mark.parametrize(
    ("said", "expected"),
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
def test_what_nothing_can_mend_is_said_first_and_what_another_login_mends_last(
    said: dict[str, Any], expected: str
) -> None:
    judge = rule(clients=["app"], claims={"tenant": "acme"}, scopes=["x"], max_auth_age="15m", acr_values=["urn:mfa"])
    assert reason(judge, now=1100.0, **said) == expected


@pytest.mark.parametrize("why", [Reason.STALE_AUTHENTICATION, Reason.WEAK_AUTHENTICATION])
def test_a_step_up_challenge_says_how_recent_and_how_strong_a_login_must_be(why: Reason) -> None:
    told = challenge(rule(max_auth_age="15m", acr_values=["urn:mfa", "gold"], scopes=["x"]), why)
    assert told is not None
    assert 'error="insufficient_user_authentication"' in told
    assert told.endswith('max_age="900", acr_values="urn:mfa gold"')
    assert "scope" not in told
    assert "max_age" not in str(challenge(rule(acr_values=["urn:mfa"]), why))
    assert "acr_values" not in str(challenge(rule(max_auth_age="1h"), why))


def test_a_challenge_names_the_scope_for_this_path_unless_no_token_could_hold_it() -> None:
    paths = {"paths": ["/{tenant}/x"]}
    settings = {"name": "r", "match": paths, "require": {"scopes": ["read:{tenant}", "b"]}}
    judge = Rule(RuleSettings.model_validate(settings), ISSUERS)
    for segment, told in (("acme", "read:acme b"), ('a"b', "b"), ("a b", "b"), ("é", "b")):
        captures = judge.captures([segment, "x"])
        denied = judge.deny(Rejected(Reason.INSUFFICIENT_SCOPE, "cause"), captures)
        assert str(denied.challenge).endswith(f', scope="{told}"')


def test_what_a_path_captured_is_read_by_the_first_pattern_that_matches() -> None:
    paths = ["/v1/{tenant}", "/v2/{x}/{tenant}", "/v3/{tenant}/**"]
    settings = {"name": "r", "match": {"paths": paths}, "require": {"claims": {"t": {"equals_path": "tenant"}}}}
    judge = Rule(RuleSettings.model_validate(settings), ISSUERS)
    assert judge.captures(["v1", "a"]) == {"tenant": "a"}
    assert judge.captures(["v2", "b", "a"]) == {"x": "b", "tenant": "a"}
    assert judge.captures(["v3", "a", "b", "c"]) == {"tenant": "a"}
    assert rule(scopes=["x"]).captures(["v1", "a"]) == {}  # nobody asks

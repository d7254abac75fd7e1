"""Alternatives and implied scopes: whole rules, compared with the plain meaning of ``require``."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.claims import Claims
from authz_service.core.confirmation import confirmation_of
from authz_service.core.errors import Rejected
from authz_service.core.headers import combined
from authz_service.core.reasons import Reason
from authz_service.core.scope_hierarchy import ScopeHierarchy
from authz_service.rules.operators import NO_PARTS, RequestParts
from authz_service.rules.policy import Rule
from support import plain_rules

AUDIENCES = {"people": ["api"], "workloads": ["api", "w-api"]}
ISSUERS = [
    Issuer.read({"issuer": f"https://{name}.example/", "name": name, "audiences": audiences})
    for name, audiences in AUDIENCES.items()
]


def rule(scope_implies: dict[str, list[str]] | None = None, /, **require: Any) -> Rule:
    written = {"name": "r", "match": {"paths": ["/{id}/{tenant}"]}} | ({"require": require} if require else {})
    return Rule(RuleSettings.read(written), ISSUERS, ScopeHierarchy(scope_implies or {}))


def claims(
    issuer: str = "people", audiences: str = "api", scopes: str = "", client: str = "app", **members: Any
) -> Claims:
    return Claims(issuer, "u", client, frozenset(audiences.split()), frozenset(scopes.split()), scopes, members)


def rejection(compiled: Rule, request: RequestParts = NO_PARTS, **values: Any) -> Rejected:
    with pytest.raises(Rejected) as rejected:
        compiled.evaluate(claims(**values), request, 1000.0)
    return rejected.value


OWNER = rule(any_of=[{"claims": {"roles": {"contains": "admin"}}}, {"claims": {"account": {"equals_path": "id"}}}])
SEVEN = OWNER.parts_of({}, ["7", "x"])


def test_one_alternative_suffices_and_all_of_its_conditions_must_hold() -> None:
    OWNER.evaluate(claims(roles=["admin"]), SEVEN, 0.0)
    OWNER.evaluate(claims(roles="user", account="7"), SEVEN, 0.0)
    both = rule(any_of=[{"clients": ["a"], "scopes": ["x"]}, {"clients": ["b"], "scopes": ["y"]}])
    both.evaluate(claims(client="b", scopes="y"), NO_PARTS, 0.0)
    assert rejection(both, client="a", scopes="y").reason is Reason.CLIENT_NOT_ALLOWED
    assert rejection(both, client="b", scopes="x").reason is Reason.INSUFFICIENT_SCOPE


def test_the_reason_is_that_of_the_last_alternative_and_the_cause_names_each() -> None:
    refused = rejection(OWNER, SEVEN, roles=["user"], account="8")
    assert refused.reason is Reason.CLAIM_MISMATCH
    assert refused.cause == (
        "any_of[0]: claim roles is not 'admin' or a list with it; any_of[1]: claim account is not {id} of the path"
    )


def test_the_cause_is_bounded_and_names_the_last_alternative() -> None:
    many = rule(any_of=[{"claims": {"x" * 200: str(number)}} for number in range(50)])
    cause = rejection(many).cause
    assert len(cause) < 1000
    assert cause.startswith("any_of[0]: claim xxx")
    assert "; ...; any_of[49]: claim xxx" in cause


def test_the_rules_own_requirements_hold_besides() -> None:
    compiled = rule(scopes=["read"], any_of=[{"clients": ["a"]}, {"clients": ["b"]}])
    compiled.evaluate(claims(client="b", scopes="read"), NO_PARTS, 0.0)
    assert rejection(compiled, client="b").reason is Reason.INSUFFICIENT_SCOPE
    assert rejection(compiled, client="c", scopes="read").reason is Reason.CLIENT_NOT_ALLOWED


def test_alternatives_come_before_the_strength_of_the_login_that_the_rule_requires() -> None:
    compiled = rule(acr_values=["mfa"], any_of=[{"clients": ["a"]}])
    assert rejection(compiled, client="b").reason is Reason.CLIENT_NOT_ALLOWED
    assert rejection(compiled, client="a").reason is Reason.WEAK_AUTHENTICATION


def test_an_alternative_that_cannot_be_evaluated_does_not_hold() -> None:
    recent = {"max_auth_age": "15m"}
    compiled = rule(any_of=[recent, {"clients": ["a"]}])
    compiled.evaluate(claims(client="a", auth_time="soon"), NO_PARTS, 1000.0)
    assert rejection(compiled, client="b", auth_time="soon").reason is Reason.CLIENT_NOT_ALLOWED
    last = rule(any_of=[{"clients": ["a"]}, recent])
    assert rejection(last, client="b", auth_time="soon").reason is Reason.INVALID_CLAIM


@pytest.mark.parametrize(
    ("require", "values", "reason"),
    [
        # Without audiences, those of the token's issuer apply.
        ({"any_of": [{"clients": ["app"]}]}, {"audiences": "mine"}, Reason.WRONG_AUDIENCE),
        # Those of an alternative replace the issuer's, there alone.
        ({"any_of": [{"audiences": ["mine"]}, {"clients": ["app"]}]}, {"audiences": "mine"}, None),
        ({"any_of": [{"audiences": ["mine"]}, {"clients": ["app"]}]}, {"audiences": "api"}, None),
        ({"any_of": [{"audiences": ["mine"]}, {"clients": ["b"]}]}, {"audiences": "api"}, Reason.CLIENT_NOT_ALLOWED),
        ({"any_of": [{"audiences": ["mine"]}, {"clients": ["app"]}]}, {"audiences": "x"}, Reason.WRONG_AUDIENCE),
        # Those of the rule hold besides.
        ({"audiences": ["x"], "any_of": [{"audiences": ["mine"]}]}, {"audiences": "mine"}, Reason.WRONG_AUDIENCE),
        ({"audiences": ["x"], "any_of": [{"audiences": ["mine"]}]}, {"audiences": "x"}, Reason.WRONG_AUDIENCE),
        ({"audiences": ["x"], "any_of": [{"audiences": ["mine"]}]}, {"audiences": "x mine"}, None),
        ({"audiences": ["x"], "any_of": [{"clients": ["app"]}]}, {"audiences": "x"}, None),
        ({"audiences": ["x"], "any_of": [{"clients": ["app"]}]}, {"audiences": "api"}, Reason.WRONG_AUDIENCE),
    ],
)
def test_audiences_of_an_alternative(require: dict[str, Any], values: dict[str, Any], reason: Reason | None) -> None:
    if reason is None:
        rule(**require).evaluate(claims(**values), NO_PARTS, 0.0)
    else:
        assert rejection(rule(**require), **values).reason is reason


@pytest.mark.parametrize(
    ("require", "issuers"),
    [
        ({"any_of": [{"issuers": ["people"]}, {"issuers": ["workloads"]}]}, {"people", "workloads"}),
        ({"any_of": [{"issuers": ["people"]}]}, {"people"}),
        ({"any_of": [{"issuers": ["people"]}, {"clients": ["a"]}]}, None),
        ({"issuers": ["people"], "any_of": [{"clients": ["a"]}]}, {"people"}),
        ({"issuers": ["people"], "any_of": [{"issuers": ["people", "workloads"]}]}, {"people"}),
        ({}, None),
    ],
)
def test_an_opaque_token_may_come_from_any_issuer_of_an_alternative(
    require: dict[str, Any], issuers: set[str] | None
) -> None:
    assert rule(**require).issuers == issuers


def challenge(compiled: Rule, rejected: Rejected) -> str:
    return str(*compiled.deny(rejected).challenges)


MISSING = Rejected(Reason.MISSING_TOKEN, "no Authorization header")


def test_the_challenge_is_that_of_the_last_alternative() -> None:
    compiled = rule(scopes=["read"], any_of=[{"scopes": ["first"]}, {"scopes": ["admin", "read"]}])
    assert challenge(compiled, MISSING) == 'Bearer realm="api", scope="read admin"'
    assert challenge(compiled, rejection(compiled, scopes="read")).endswith('scope="read admin"')
    assert challenge(compiled, rejection(compiled)).endswith('scope="read"')  # the rule's own scopes failed


def test_a_step_up_challenge_is_that_of_the_part_that_failed() -> None:
    compiled = rule(max_auth_age="1h", any_of=[{"clients": ["a"]}, {"max_auth_age": "5m", "acr_values": ["mfa"]}])
    stale = rejection(compiled, auth_time=600)
    assert stale.reason is Reason.STALE_AUTHENTICATION
    assert challenge(compiled, stale).endswith('max_age="300", acr_values="mfa"')
    own = rejection(compiled, client="a")
    assert challenge(compiled, own).endswith('max_age="3600"')


def test_possible_reasons_are_those_of_the_last_alternative() -> None:
    compiled = rule(any_of=[{"claims": {"a": 1}}, {"scopes": ["x"], "acr_values": ["mfa"]}])
    reasons = set(compiled.possible_reasons())
    assert {Reason.INSUFFICIENT_SCOPE, Reason.WEAK_AUTHENTICATION} <= reasons
    assert not reasons & {Reason.CLAIM_MISMATCH, Reason.CLIENT_NOT_ALLOWED}


def test_a_challenge_names_the_required_scope_and_not_one_that_implies_it() -> None:
    compiled = rule({"admin": ["read"]}, scopes=["read"])
    assert challenge(compiled, rejection(compiled, scopes="write")).endswith('scope="read"')


def test_an_implied_scope_may_have_a_capture_of_the_path() -> None:
    compiled = rule({"all-tenants": ["read:acme"]}, scopes=["read:{tenant}"])
    compiled.evaluate(claims(scopes="all-tenants"), compiled.parts_of({}, ["7", "acme"]), 0.0)
    request = compiled.parts_of({}, ["7", "other"])
    assert rejection(compiled, request, scopes="all-tenants").cause == "missing scopes: read:other"


_VALUES: list[Any] = ["a", "b", "ab", "1", 1, True, 1.5]
_SOME = st.lists(st.sampled_from(_VALUES), min_size=1, max_size=2)
_TEXTS = st.sampled_from(["a", "b", "ab", "1"])
_CONDITIONS = st.one_of(
    st.sampled_from(_VALUES),
    st.builds(lambda name, value: {name: value}, st.sampled_from(["equals", "contains"]), st.sampled_from(_VALUES)),
    st.builds(lambda name, each: {name: each}, st.sampled_from(["in", "contains_any", "contains_all"]), _SOME),
    st.builds(lambda name, text: {name: text}, st.sampled_from(["prefix", "suffix"]), _TEXTS),
    st.sampled_from([{"present": True}, {"absent": True}]),
    st.builds(lambda name: {name: "id"}, st.sampled_from(["equals_path", "contains_path"])),
    st.builds(lambda name: {name: "x-h"}, st.sampled_from(["equals_header", "contains_header"])),
)
_NAMES = st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=2)
_PART: dict[str, Any] = {
    "issuers": st.lists(st.sampled_from(list(AUDIENCES)), min_size=1, max_size=2),
    "audiences": st.lists(st.sampled_from(["api", "w-api", "mine"]), min_size=1, max_size=2),
    "scopes": _NAMES | st.fixed_dictionaries({}, optional={"all": _NAMES, "any": _NAMES, "none": _NAMES}).filter(bool),
    "clients": st.lists(st.sampled_from(["app", "web"]), min_size=1, max_size=1),
    "claims": st.dictionaries(st.sampled_from(["c", "c.d", "e"]), _CONDITIONS, min_size=1, max_size=2),
    "proof": st.sampled_from(["any", "dpop", "mtls"]),
}
_ALTERNATIVE = st.fixed_dictionaries({}, optional=_PART).filter(bool)
_REQUIRE = st.fixed_dictionaries({}, optional=_PART | {"any_of": st.lists(_ALTERNATIVE, min_size=1, max_size=3)})
_CLAIMS = st.recursive(
    st.none() | st.sampled_from(_VALUES) | st.integers(-1, 12) | st.just(""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("cd"), inner, max_size=2),
    max_leaves=4,
)
_DIGEST = "A" * 43
_CONFIRMATIONS: list[dict[str, Any]] = [
    {},
    *({"cnf": each} for each in ({"jkt": _DIGEST}, {"x5t#S256": _DIGEST}, {"jkt": _DIGEST, "x5t#S256": _DIGEST})),
]
_TOKENS = st.builds(
    plain_rules.Token,
    st.sampled_from(list(AUDIENCES)),
    st.sampled_from(["app", "web", ""]),
    st.sets(st.sampled_from(["api", "w-api", "mine", "x"])),
    st.sets(st.sampled_from(["x", "y", "z", "w"])),
    st.builds(operator.or_, st.dictionaries(st.sampled_from("ce"), _CLAIMS), st.sampled_from(_CONFIRMATIONS)),
)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["x-h", "x_h", "x-other"]),
        st.sampled_from(["a", "ab", "1", "1.5", "true", " a\t", "", "a,b", "a\ufffd", "\x00a", "\xa0a", "a\x85"]),
    ),
    max_size=2,
)


@settings(max_examples=1000)
@given(
    _REQUIRE,
    st.dictionaries(st.sampled_from("xyzw"), st.lists(st.sampled_from("xyzw"), min_size=1, max_size=2)),
    _TOKENS,
    _HEADERS,
    st.sampled_from(["a", "ab", "1", "true", "1.5"]),
)
def test_a_rule_admits_exactly_the_tokens_that_its_plain_meaning_admits(
    require: dict[str, Any],
    scope_implies: dict[str, list[str]],
    token: plain_rules.Token,
    headers: list[tuple[str, str]],
    segment: str,
) -> None:
    compiled = rule(scope_implies, **require)
    request = compiled.parts_of(combined(headers), [segment, "acme"])
    made = Claims(
        token.issuer,
        "u",
        token.client,
        frozenset(token.audiences),
        frozenset(token.scopes),
        " ".join(sorted(token.scopes)),
        token.claims,
        confirmation_of(token.claims),
    )
    reason = None
    try:
        compiled.evaluate(made, request, 0.0)
    except Rejected as rejected:
        reason = rejected.reason
    plain = plain_rules.Request({"id": segment, "tenant": "acme"}, headers)
    assert (reason is None) == plain_rules.admits(require, token, plain, AUDIENCES, scope_implies)
    assert reason is None or reason in set(compiled.possible_reasons())

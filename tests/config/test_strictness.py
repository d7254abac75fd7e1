"""When one rule is as strict as another: only if no token is a counterexample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import ClaimCondition, Issuer, Require, RuleSettings
from authz_service.config.strictness import Strictness, condition_implies
from authz_service.core.claims import Claims
from authz_service.core.confirmation import IGNORED, Confirmation
from authz_service.core.errors import Rejected
from authz_service.core.scope_hierarchy import ScopeHierarchy
from authz_service.rules.operators import RequestParts, operator_of
from authz_service.rules.policy import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

ISSUERS = [
    Issuer.read({"issuer": "https://a.example/", "name": "a", "audiences": ["api", "other"]}),
    Issuer.read({"issuer": "https://b.example/", "name": "b", "audiences": ["api"]}),
]
IMPLIES = {"admin": ["write"], "write": ["read"]}
STRICTNESS = Strictness(ISSUERS, ScopeHierarchy(IMPLIES))
REQUEST = RequestParts({"p": "a"}, {"h": "ab"})


def condition(written: Any) -> ClaimCondition:
    require = Require.read({"claims": {"x": written}})
    assert require.claims is not None
    return next(iter(require.claims.values()))


_VALUES: list[Any] = ["a", "b", "ab", "1", 1, 0, True, False]
_STRINGS = ["a", "b", "ab", "1"]
_SOME_VALUES = st.lists(st.sampled_from(_VALUES), min_size=1, max_size=3)
_CONDITIONS = st.one_of(
    st.sampled_from(_VALUES).map(lambda value: {"equals": value}),
    st.sampled_from(_VALUES).map(lambda value: {"contains": value}),
    _SOME_VALUES.map(lambda values: {"in": values}),
    _SOME_VALUES.map(lambda values: {"contains_any": values}),
    _SOME_VALUES.map(lambda values: {"contains_all": values}),
    st.sampled_from(_STRINGS).map(lambda text: {"prefix": text}),
    st.sampled_from(_STRINGS).map(lambda text: {"suffix": text}),
    st.sampled_from(
        [
            *({"present": True}, {"absent": True}, {"equals_path": "p"}, {"contains_path": "p"}),
            *({"equals_header": "h"}, {"contains_header": "h"}),
        ]
    ),
)
_CLAIMS: list[Any] = [
    None,
    *_VALUES,
    [],
    {},
    ["a"],
    ["b"],
    ["ab"],
    [1],
    [True],
    ["a", "b"],
    ["a", 1],
    ["ab", "1", True],
]
_CLAIMS += [["b", "ab"], [["a"]], [0, False]]


@settings(max_examples=500)
@given(_CONDITIONS, _CONDITIONS)
def test_no_claim_meets_a_condition_but_not_one_that_it_implies(ours: Any, theirs: Any) -> None:
    one, other = condition(ours), condition(theirs)
    if condition_implies(one, other):
        (_, meets_one), (_, meets_other) = operator_of(one), operator_of(other)
        assert not [value for value in _CLAIMS if meets_one(value, REQUEST) and not meets_other(value, REQUEST)]


@pytest.mark.parametrize(
    ("ours", "theirs", "implied"),
    [
        ("a", {"in": ["a", "b"]}, True),
        ({"in": ["a", "b"]}, "a", False),
        (1, True, False),  # which are equal to Python
        (1, 1.0, True),
        ({"in": ["a", 1]}, {"in": [1, "a", "b"]}, True),
        ("a", {"contains": "a"}, True),
        (1, {"contains": 1}, False),
        ({"contains": "a"}, "a", False),
        ({"contains": "a"}, {"contains_any": ["a", "b"]}, True),
        ({"contains_all": ["a", "b"]}, {"contains": "a"}, True),
        ({"contains_all": ["a", "b"]}, {"contains_any": ["b", "c"]}, True),
        ({"contains_any": ["a", "b"]}, {"contains_any": ["b", "c"]}, False),
        ({"contains_any": ["a", "b"]}, {"contains_all": ["a"]}, False),
        ({"contains_any": ["team-a", "team-b"]}, {"prefix": "team-"}, True),
        ({"contains_any": ["team-a", "b"]}, {"prefix": "team-"}, False),
        ({"contains_all": ["team-a", "b"]}, {"prefix": "team-"}, True),
        ({"prefix": "team-a"}, {"prefix": "team-"}, True),
        ({"prefix": "team-"}, {"prefix": "team-a"}, False),
        ({"suffix": "@x.corp"}, {"suffix": ".corp"}, True),
        ({"suffix": ".corp"}, {"prefix": "."}, False),
        ({"equals_path": "p"}, {"contains_path": "p"}, True),
        ({"contains_path": "p"}, {"equals_path": "p"}, False),
        ({"equals_header": "h"}, {"contains_header": "h"}, True),
        ({"equals_header": "h"}, {"contains_header": "g"}, False),
        ({"suffix": "a"}, {"present": True}, True),
        ({"absent": True}, {"present": True}, False),
        ({"present": True}, {"absent": True}, False),
    ],
)
def test_a_condition_implies_another_if_that_is_plain_from_both(ours: Any, theirs: Any, *, implied: bool) -> None:
    assert condition_implies(condition(ours), condition(theirs)) == implied


def rule(require: dict[str, Any], paths: Sequence[str] = ()) -> RuleSettings:
    match = {"match": {"paths": list(paths)}} if paths else {}
    return RuleSettings.read({"name": "r"} | match | ({"require": require} if require else {}))


@pytest.mark.parametrize(
    ("ours", "theirs", "as_much"),
    [
        ({"any_of": [{"scopes": ["read"]}]}, {"scopes": ["read"]}, True),
        ({"scopes": ["read"]}, {"any_of": [{"scopes": ["read"]}, {"clients": ["x"]}]}, True),
        ({}, {"any_of": [{"scopes": ["read"]}, {"clients": ["x"]}]}, False),
        ({"any_of": [{"scopes": ["read"]}, {"clients": ["x"]}]}, {"scopes": ["read"]}, False),
        (
            {"any_of": [{"clients": ["x"]}, {"scopes": ["b"]}]},
            {"any_of": [{"scopes": ["b"]}, {"clients": ["x"]}]},
            True,
        ),
        ({"any_of": [{"clients": ["x"]}], "scopes": ["b"]}, {"clients": ["x", "y"], "scopes": ["b"]}, True),
        ({"any_of": [{"audiences": ["mine"]}]}, {}, False),
        ({"any_of": [{"audiences": ["mine"]}], "audiences": ["api"]}, {}, True),
        ({}, {"any_of": [{"audiences": ["api"]}, {"audiences": ["other"]}]}, False),  # a token may name either
        ({"issuers": ["b"]}, {"any_of": [{"audiences": ["api"]}]}, True),
        ({"any_of": [{"issuers": ["a"]}]}, {"issuers": ["a"]}, True),
        ({"any_of": [{"issuers": ["a"]}, {"issuers": ["b"]}]}, {"issuers": ["a"]}, False),
        ({"scopes": ["admin"]}, {"scopes": ["read"]}, True),
        ({"scopes": ["read"]}, {"scopes": ["admin"]}, False),
        ({"scopes": {"any": ["write", "admin"]}}, {"scopes": ["read"]}, True),
        ({"scopes": {"none": ["read"]}}, {"scopes": {"none": ["admin"]}}, True),
        ({"scopes": {"none": ["admin"]}}, {"scopes": {"none": ["read"]}}, False),
        ({"claims": {"x": True}}, {"claims": {"x": 1}}, False),
        ({"proof": "dpop"}, {"proof": "any"}, True),
        ({"proof": "mtls"}, {"proof": "any"}, True),
        ({"proof": "any"}, {"proof": "dpop"}, False),
        ({"proof": "mtls"}, {"proof": "dpop"}, False),
        ({"proof": "any"}, {}, True),
        ({}, {"proof": "any"}, False),
        ({"proof": "any", "any_of": [{"proof": "dpop"}]}, {"proof": "dpop"}, True),
        ({"any_of": [{"proof": "dpop"}, {"proof": "mtls"}]}, {"proof": "any"}, True),
        ({"any_of": [{"proof": "dpop"}, {"clients": ["x"]}]}, {"proof": "any"}, False),
        ({"proof": "any"}, {"any_of": [{"proof": "dpop"}, {"proof": "mtls"}]}, False),  # not provable part by part
    ],
)
def test_alternatives_and_implied_scopes_are_compared_by_what_they_admit(
    ours: dict[str, Any], theirs: dict[str, Any], *, as_much: bool
) -> None:
    assert STRICTNESS.requires_as_much(rule(ours), rule(theirs)) == as_much


@pytest.mark.parametrize(
    ("ours", "theirs", "as_much"),
    [
        (["/v1/{t}/a"], ["/v1/{t}/b"], True),
        (["/v1/{t}/a", "/v1/{t}"], ["/v1/{t}/**"], True),
        (["/v1/{x}/{t}"], ["/v1/{t}/admin"], False),  # /v1/acme/ADMIN: not the tenant that the other rule compares
        (["/v1/{t}/a", "/b/c/{t}"], ["/v1/{t}/b"], True),
        (["/v1/{t}/a", "/v1/{x}/{t}"], ["/v1/{t}/b"], False),
        (["/v1/{t}/a", "/v1/{x}/{t}"], ["/v1/{x}/{t}", "/v1/{t}/b"], False),
        (["/v1/{t}"], ["/v1/{t}:purge"], False),
    ],
)
@pytest.mark.parametrize("require", [{"claims": {"x": {"equals_path": "t"}}}, {"scopes": ["read:{t}"]}])
def test_captures_are_the_same_only_at_the_same_place_in_a_path(
    require: dict[str, Any], ours: list[str], theirs: list[str], *, as_much: bool
) -> None:
    alternatives = {"any_of": [{"clients": ["c"]}, require]}
    assert STRICTNESS.requires_as_much(rule(require, ours), rule(require, theirs)) == as_much
    assert STRICTNESS.requires_as_much(rule(alternatives, ours), rule(alternatives, theirs)) == as_much
    assert STRICTNESS.requires_as_much(rule({"clients": ["c"]}, ours), rule(alternatives, theirs))


_NAMES = st.lists(st.sampled_from(["admin", "write", "read"]), min_size=1, max_size=2)
_LABELS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True)
_AUDIENCES = st.lists(st.sampled_from(["api", "other", "mine"]), min_size=1, max_size=2, unique=True)
_PART: dict[str, Any] = {
    "issuers": _LABELS,
    "audiences": _AUDIENCES,
    "scopes": st.fixed_dictionaries({}, optional={"all": _NAMES, "any": _NAMES, "none": _NAMES}).filter(bool),
    "clients": st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2),
    "claims": st.dictionaries(st.sampled_from(["x", "y"]), _CONDITIONS, min_size=1),
    "proof": st.sampled_from(["any", "dpop", "mtls"]),
}
_ALTERNATIVE = st.fixed_dictionaries({}, optional=_PART).filter(bool)
_REQUIRE = st.fixed_dictionaries({}, optional=_PART | {"any_of": st.lists(_ALTERNATIVE, min_size=1, max_size=2)})
_TOKENS = st.builds(
    lambda issuer, client, audiences, scopes, x, y, bound: Claims(
        issuer, "u", client, frozenset(audiences), frozenset(scopes), " ".join(sorted(scopes)), {"x": x, "y": y}, bound
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["x", "y"]),
    st.sets(st.sampled_from(["api", "other", "mine"])),
    st.sets(st.sampled_from(["admin", "write", "read"])),
    st.sampled_from(_CLAIMS),
    st.sampled_from(_CLAIMS),
    st.sampled_from([None, IGNORED, Confirmation(b"j"), Confirmation(None, b"x"), Confirmation(b"j", b"x")]),
)


def admits(settings_: RuleSettings, token: Claims) -> bool:
    try:
        Rule(settings_, ISSUERS, ScopeHierarchy(IMPLIES)).evaluate(token, REQUEST, 0.0)
    except Rejected:
        return False
    return True


@settings(max_examples=400)
@given(_REQUIRE, _REQUIRE, st.lists(_TOKENS, min_size=1, max_size=20))
def test_a_rule_as_strict_as_another_admits_no_token_that_the_other_refuses(
    ours: dict[str, Any], theirs: dict[str, Any], tokens: list[Claims]
) -> None:
    for one, other in ((rule(ours), rule(theirs)), (rule(ours | theirs), rule(theirs)), (rule(ours), rule(ours))):
        if STRICTNESS.requires_as_much(one, other):
            assert not [token for token in tokens if admits(one, token) and not admits(other, token)]
    assert STRICTNESS.requires_as_much(rule(ours), rule(ours))

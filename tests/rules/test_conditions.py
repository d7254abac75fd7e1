"""The conditions that a rule can set for a token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.config import model
from authz_service.core.claim_path import parse_claim_path
from authz_service.core.claims import Claims
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.rules.conditions import (
    RequiredScopes,
    authenticated_as,
    authenticated_within,
    claim_holds,
)
from authz_service.rules.operators import NO_PARTS, RequestParts

NOW = 1_800_000_000.0
X = parse_claim_path("x")
CAPTURES = {"tenant": "acme", "number": "42"}
HEADERS = {"x-tenant": "\tacme ", "x-number": "42", "x-empty": " ", "x-two": "acme,acme", "x_odd": "acme"}
REQUEST = RequestParts(CAPTURES, HEADERS)


def claims(*, scopes: str = "", **members: Any) -> Claims:
    return Claims("a", "u", "app", frozenset({"api"}), frozenset(scopes.split()), scopes, members)


def condition_of(text: Any) -> model.ClaimCondition:
    """The condition as the configuration writes it."""
    require = model.Require.read({"claims": {"x": text}})
    assert require.claims is not None
    return require.claims[X]


def holds(text: Any, value: Any) -> bool:
    condition = claim_holds(X, condition_of(text))
    cause = condition.evaluate(claims(x=value), REQUEST, NOW)
    assert condition.reason is Reason.CLAIM_MISMATCH
    assert cause is None or cause.startswith("claim x")
    return cause is None


# Every kind of value that a claim can have; a condition holds for those named with it, and for no other.
VALUES: list[Any] = [None, True, False, 0, 1, 1.5, 42, "", "1", "42", "acme", "Acme", "admin", "true", [], {}]
VALUES += [["admin"], ["x", "admin"], [["admin"]], [1], [True], ["1"], [None], {"admin": 1}, {"acme": "acme"}]
VALUES += [["x", "acme"], ["42"], [42], [42.0], ["administrators"], ["admin", "admin", 1], ["ad", "min"]]


UNREADABLE = ["x-empty", "x-two", "x-odd", "x-missing"]


@pytest.mark.parametrize(
    ("text", "met_by"),
    [
        ("acme", ["acme"]),
        ({"equals": "acme"}, ["acme"]),
        (1, [1]),
        (1.0, [1]),
        ("1", ["1"]),
        (True, [True]),
        (False, [False]),
        (0, [0]),
        ({"in": ["acme", 1, False]}, ["acme", 1, False]),
        ({"in": ["1"]}, ["1"]),
        ({"contains": "admin"}, ["admin", ["admin"], ["x", "admin"], ["admin", "admin", 1]]),
        ({"contains": 1}, [[1], ["admin", "admin", 1]]),
        ({"contains": True}, [[True]]),
        ({"contains": "1"}, ["1", ["1"]]),
        ({"contains_any": ["acme", 1]}, ["acme", ["x", "acme"], [1], ["admin", "admin", 1]]),
        ({"contains_any": ["1", True]}, ["1", ["1"], [True]]),
        ({"contains_all": ["admin", "x"]}, [["x", "admin"]]),
        ({"contains_all": ["admin", 1]}, [["admin", "admin", 1]]),
        ({"contains_all": ["admin", "admin"]}, ["admin", ["admin"], ["x", "admin"], ["admin", "admin", 1]]),
        ({"contains_all": [42]}, [[42], [42.0]]),
        (
            {"prefix": "ad"},
            ["admin", ["admin"], ["x", "admin"], ["administrators"], ["admin", "admin", 1], ["ad", "min"]],
        ),
        ({"prefix": "administrators"}, [["administrators"]]),
        ({"prefix": "4"}, ["42", ["42"]]),
        ({"suffix": "cme"}, ["acme", "Acme", ["x", "acme"]]),
        ({"suffix": "\n"}, []),
        ({"present": True}, [value for value in VALUES if value is not None]),
        ({"absent": True}, [None]),
        ({"equals_path": "tenant"}, ["acme"]),
        ({"equals_path": "number"}, ["42", 42]),
        ({"contains_path": "tenant"}, ["acme", ["x", "acme"]]),
        ({"contains_path": "number"}, ["42", 42, ["42"], [42]]),
        ({"equals_header": "X-Tenant"}, ["acme"]),
        ({"equals_header": "x-number"}, ["42", 42]),
        ({"contains_header": "x-tenant"}, ["acme", ["x", "acme"]]),
        ({"contains_header": "x-number"}, ["42", 42, ["42"], [42]]),
        *((({operator: name}), []) for operator in ("equals_header", "contains_header") for name in UNREADABLE),
    ],
)
def test_a_claim_condition_holds_for_exactly_its_values(text: Any, met_by: list[Any]) -> None:
    # By repr: 1 == True in Python, and they are different values in JSON.
    assert {repr(value) for value in VALUES if holds(text, value)} == {repr(value) for value in met_by}


ONE_OF_EACH: list[Any] = [
    *("acme", {"in": ["acme"]}, {"contains": "a"}, {"contains_any": ["a"]}, {"contains_all": ["a"]}, {"prefix": "a"}),
    *({"suffix": "e"}, {"present": True}, {"absent": True}, {"equals_path": "tenant"}, {"contains_path": "tenant"}),
    *({"equals_header": "x-tenant"}, {"contains_header": "x-tenant"}),
]


def test_there_is_one_of_each_operator() -> None:
    assert {condition_of(text).operator[0] for text in ONE_OF_EACH} == set(model.OPERATORS)


@pytest.mark.parametrize("text", ONE_OF_EACH)
def test_a_path_through_anything_but_an_object_meets_no_condition(text: Any) -> None:
    condition = claim_holds(parse_claim_path("a.b"), condition_of(text))
    for between in ("acme", 1, ["acme"], [], True, False, 0, ""):
        assert condition.evaluate(claims(a=between), REQUEST, NOW) is not None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@example(1.0)
@example(-0.0)
def test_a_plain_value_is_met_only_by_the_same_json_value(value: Any) -> None:
    for configured in ("acme", "1", 1, 0, True, False):
        numbers = {type(configured), type(value)} <= {int, float}  # of which JSON has one kind
        same = configured == value if numbers else json.dumps(configured) == json.dumps(value)
        assert holds(configured, value) == same


def test_the_cause_names_the_claim_and_the_requirement_but_not_the_tokens_value() -> None:
    condition = claim_holds(X, condition_of({"in": ["a", 1]}))
    assert condition.evaluate(claims(x="secret"), NO_PARTS, NOW) == "claim x is not one of 'a', 1"


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ({"contains": "a"}, "'a' or a list with it"),
        ({"contains": 1}, "a list with 1"),
        ({"contains_any": ["a", 1]}, "a list with one of 'a', 1, or such a string"),
        ({"contains_all": ["a", "b"]}, "a list with all of 'a', 'b'"),
        ({"prefix": "a"}, "a string that starts with 'a', or a list with one"),
        ({"contains_path": "tenant"}, "{tenant} of the path, or a list with it"),
        ({"equals_header": "x-tenant"}, "the value of the header x-tenant"),
    ],
)
def test_a_requirement_in_words_is_true(text: Any, requirement: str) -> None:
    assert claim_holds(X, condition_of(text)).requirement == requirement


def test_a_cause_does_not_contain_the_value_of_a_header() -> None:
    condition = claim_holds(X, condition_of({"equals_header": "x-tenant"}))
    cause = condition.evaluate(claims(x="other"), REQUEST, NOW)
    assert cause == "claim x is not the value of the header x-tenant"


# Scopes.


def scopes(text: Any) -> RequiredScopes:
    return RequiredScopes(model.Require.read({"scopes": text}).scopes)


def evaluate_scopes(text: Any, granted: str, captures: dict[str, str]) -> str | None:
    condition = scopes(text).condition()
    assert condition is not None
    return condition.evaluate(claims(scopes=granted), RequestParts(captures, {}), NOW)


@pytest.mark.parametrize(
    ("text", "granted", "met"),
    [
        (["read:{tenant}"], "read:acme", True),
        (["read:{tenant}"], "read:other", False),
        (["read:{tenant}"], "read:{tenant}", False),
        (["read:{tenant}", "b"], "read:acme", False),
        (["{tenant}:{number}"], "acme:42", True),
        ({"any": ["read:{tenant}", "admin"]}, "admin", True),
        ({"any": ["read:{tenant}", "admin"]}, "read:acme", True),
        ({"any": ["read:{tenant}", "admin"]}, "read:x", False),
        ({"none": ["blocked:{tenant}"]}, "blocked:acme", False),
        ({"none": ["blocked:{tenant}"]}, "blocked:other", True),
    ],
)
def test_a_scope_may_contain_captures_of_the_path(text: Any, granted: str, *, met: bool) -> None:
    assert (evaluate_scopes(text, granted, CAPTURES) is None) == met


@given(st.text(min_size=1))
def test_a_captured_segment_never_adds_a_second_scope(segment: str) -> None:
    cause = evaluate_scopes(["read:{tenant}"], "read:acme read: a b", {"tenant": segment})
    assert (cause is None) == (segment == "acme")
    named = scopes(["read:{tenant}", "b"]).for_challenge({"tenant": segment})
    assert named in (["b"], [f"read:{segment}", "b"])
    assert all(scope.isascii() and not set(scope) & {'"', " "} for scope in named)


def test_a_capture_is_filled_in_once() -> None:
    assert evaluate_scopes(["{tenant}"], "{number}", {"tenant": "{number}", "number": "7"}) is None
    assert evaluate_scopes(["{tenant}"], "7", {"tenant": "{number}", "number": "7"}) is not None


def test_empty_scopes_are_no_condition() -> None:
    assert RequiredScopes(model.Scopes()).condition() is None


# Step-up (RFC 9470).


def since_login(max_age: float, **members: Any) -> str | None:
    return authenticated_within(max_age, {"a": 30.0}).evaluate(claims(**members), NO_PARTS, NOW)


@pytest.mark.parametrize(
    ("auth_time", "met"),
    [
        (NOW, True),
        (NOW - 900, True),
        (NOW - 930, True),
        (NOW - 930.5, False),
        (NOW - 931, False),
        (NOW + 30, True),
        (NOW + 31, False),
        (0, False),
        (-5, False),
        (None, False),
    ],
)
def test_an_authentication_is_recent_up_to_max_auth_age_plus_leeway(auth_time: float | None, *, met: bool) -> None:
    assert (since_login(900, auth_time=auth_time) is None) == met


def test_a_token_without_auth_time_is_stale() -> None:
    assert since_login(900) == "the token has no auth_time"


@pytest.mark.parametrize("auth_time", ["1800000000", True, [NOW], {}])
def test_an_auth_time_that_is_not_a_number_is_an_invalid_claim(auth_time: Any) -> None:
    with pytest.raises(Rejected) as rejected:
        since_login(900, auth_time=auth_time)
    assert rejected.value.reason is Reason.INVALID_CLAIM


@pytest.mark.parametrize(
    ("acr", "met"),
    [("urn:mfa", True), ("gold", True), ("URN:MFA", False), ("", False), (None, False), (["gold"], False), (1, False)],
)
def test_the_acr_must_be_one_of_acr_values(acr: Any, *, met: bool) -> None:
    condition = authenticated_as(["urn:mfa", "gold"])
    assert condition.reason is Reason.WEAK_AUTHENTICATION
    assert (condition.evaluate(claims(acr=acr), NO_PARTS, NOW) is None) == met

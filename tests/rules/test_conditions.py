"""What a rule can want of a token."""

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
    WantedScopes,
    authenticated_as,
    authenticated_within,
    claim_holds,
)

NOW = 1_800_000_000.0
X = parse_claim_path("x")
PATH = {"tenant": "acme", "number": "42"}


def claims(*, scopes: str = "", **members: Any) -> Claims:
    return Claims("a", "u", "app", frozenset({"api"}), frozenset(scopes.split()), scopes, members)


def wanted(text: Any) -> model.ClaimCondition:
    """The condition as the configuration writes it."""
    require = model.Require.model_validate({"claims": {"x": text}})
    assert require.claims is not None
    return require.claims[X]


def holds(text: Any, value: Any) -> bool:
    condition = claim_holds(X, wanted(text))
    cause = condition.unmet(claims(x=value), PATH, NOW)
    assert condition.reason is Reason.CLAIM_MISMATCH
    assert cause is None or cause.startswith("claim x")
    return cause is None


# Every kind of value that a claim can have; a condition holds for those named with it, and for no other.
VALUES: list[Any] = [None, True, False, 0, 1, 1.5, 42, "", "1", "42", "acme", "Acme", "admin", "true", [], {}]
VALUES += [["admin"], ["x", "admin"], [["admin"]], [1], [True], ["1"], [None], {"admin": 1}, {"acme": "acme"}]


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
        ({"contains": "admin"}, [["admin"], ["x", "admin"]]),
        ({"contains": 1}, [[1]]),
        ({"contains": True}, [[True]]),
        ({"contains": "1"}, [["1"]]),
        ({"present": True}, [value for value in VALUES if value is not None]),
        ({"absent": True}, [None]),
        ({"equals_path": "tenant"}, ["acme"]),
        ({"equals_path": "number"}, ["42", 42]),
    ],
)
def test_a_claim_condition_holds_for_exactly_its_values(text: Any, met_by: list[Any]) -> None:
    # By repr: 1 == True in Python, and they are different values in JSON.
    assert {repr(value) for value in VALUES if holds(text, value)} == {repr(value) for value in met_by}


@pytest.mark.parametrize("text", ["acme", {"in": ["acme"]}, {"contains": "a"}, {"present": True}, {"absent": True}])
def test_a_path_through_what_is_no_object_meets_no_condition(text: Any) -> None:
    condition = claim_holds(parse_claim_path("a.b"), wanted(text))
    for between in ("acme", 1, ["acme"], [], True, False, 0, ""):
        assert condition.unmet(claims(a=between), PATH, NOW) is not None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@example(1.0)
@example(-0.0)
def test_a_plain_value_is_met_by_what_json_writes_the_same_and_by_nothing_else(value: Any) -> None:
    for configured in ("acme", "1", 1, 0, True, False):
        numbers = {type(configured), type(value)} <= {int, float}  # of which JSON has one kind
        same = configured == value if numbers else json.dumps(configured) == json.dumps(value)
        assert holds(configured, value) == same


def test_the_cause_names_the_claim_and_what_was_wanted_and_nothing_of_the_token() -> None:
    condition = claim_holds(X, wanted({"in": ["a", 1]}))
    assert condition.unmet(claims(x="secret"), {}, NOW) == "claim x is not: one of 'a', 1"


# Scopes.


def scopes(text: Any) -> WantedScopes:
    return WantedScopes(model.Require.model_validate({"scopes": text}).scopes)


def missing(text: Any, held: str, captures: dict[str, str]) -> str | None:
    condition = scopes(text).condition()
    assert condition is not None
    return condition.unmet(claims(scopes=held), captures, NOW)


@pytest.mark.parametrize(
    ("text", "held", "met"),
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
def test_a_scope_may_name_what_the_path_captured(text: Any, held: str, *, met: bool) -> None:
    assert (missing(text, held, PATH) is None) == met


@given(st.text(min_size=1))
def test_what_the_path_captured_is_one_scope_and_never_two(segment: str) -> None:
    cause = missing(["read:{tenant}"], "read:acme read: a b", {"tenant": segment})
    assert (cause is None) == (segment == "acme")
    told = scopes(["read:{tenant}", "b"]).for_challenge({"tenant": segment})
    assert told in {"b", f"read:{segment} b"}
    assert told is not None
    assert told.isascii()
    assert '"' not in told
    assert told.count(" ") <= 1


def test_a_capture_is_filled_in_once() -> None:
    assert missing(["{tenant}"], "{number}", {"tenant": "{number}", "number": "7"}) is None
    assert missing(["{tenant}"], "7", {"tenant": "{number}", "number": "7"}) is not None


def test_scopes_that_ask_for_nothing_are_no_condition() -> None:
    assert WantedScopes(model.Scopes()).condition() is None


# Step-up (RFC 9470).


def since_login(max_age: float, **members: Any) -> str | None:
    return authenticated_within(max_age, {"a": 30.0}).unmet(claims(**members), {}, NOW)


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
def test_a_login_is_fresh_up_to_its_age_and_the_leeway(auth_time: float | None, *, met: bool) -> None:
    assert (since_login(900, auth_time=auth_time) is None) == met


def test_a_token_that_does_not_say_when_the_user_logged_in_is_stale() -> None:
    assert since_login(900) == "the token does not say when the user logged in (auth_time)"


@pytest.mark.parametrize("auth_time", ["1800000000", True, [NOW], {}])
def test_an_auth_time_that_is_no_number_is_an_invalid_claim(auth_time: Any) -> None:
    with pytest.raises(Rejected) as rejected:
        since_login(900, auth_time=auth_time)
    assert rejected.value.reason is Reason.INVALID_CLAIM


@pytest.mark.parametrize(
    ("acr", "met"),
    [("urn:mfa", True), ("gold", True), ("URN:MFA", False), ("", False), (None, False), (["gold"], False), (1, False)],
)
def test_the_context_of_the_login_is_one_of_those_named(acr: Any, *, met: bool) -> None:
    condition = authenticated_as(["urn:mfa", "gold"])
    assert condition.reason is Reason.WEAK_AUTHENTICATION
    assert (condition.unmet(claims(acr=acr), {}, NOW) is None) == met

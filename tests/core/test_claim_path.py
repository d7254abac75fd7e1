"""Paths into nested claims."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.claim_path import ClaimPath, NotAnObjectError, parse_claim_path

A_B = parse_claim_path("a.b")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("tenant", ("tenant",)),
        ("realm_access.roles", ("realm_access", "roles")),
        (r"https://example\.com/roles", ("https://example.com/roles",)),
        (r"resource_access.my\.api.roles", ("resource_access", "my.api", "roles")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\\\.b", ("a\\.b",)),
        ("cognito:groups", ("cognito:groups",)),
        ("a b", ("a b",)),
    ],
)
def test_a_path_is_parsed_into_names(path: str, names: tuple[str, ...]) -> None:
    assert parse_claim_path(path) == ClaimPath(path, names)


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a\\", r"a\b", "a\nb", "a\x00"])
def test_a_malformed_path_is_refused_and_the_error_says_how_to_write_it(path: str) -> None:
    with pytest.raises(ValueError, match="write names separated by single dots"):
        parse_claim_path(path)


@given(st.lists(st.text("ab.\\ :/", min_size=1), min_size=1, max_size=4).map(tuple))
def test_every_list_of_names_can_be_written_as_a_path(names: tuple[str, ...]) -> None:
    written = ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in names)
    assert parse_claim_path(written).names == names


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"a": {"b": 1}}, 1),
        ({"a": {"b": {"c": 1}}}, {"c": 1}),
        ({"a": {"b": None}}, None),
        ({"a": {}}, None),
        ({"a": None}, None),
        ({}, None),
        ({"a.b": 1}, None),
        ({"a": {"b": False}}, False),
    ],
)
def test_following_a_path_returns_the_value_and_null_counts_as_absent(members: dict[str, Any], found: Any) -> None:
    assert A_B.follow(members) == found


@pytest.mark.parametrize("between", ['"x"', "1", "true", "[]", '[{"b": 1}]', "false", '""', "0"])
def test_a_path_through_anything_but_an_object_cannot_be_followed(between: str) -> None:
    with pytest.raises(NotAnObjectError):
        A_B.follow({"a": json.loads(between)})


ABSENT = object()


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"a": {"b": 1}}, 1),
        ({"a": {"b": None}}, None),
        ({"a": {}}, ABSENT),
        ({}, ABSENT),
        ({"a.b": 1}, ABSENT),
    ],
)
def test_finding_a_value_distinguishes_null_from_absent(members: dict[str, Any], found: Any) -> None:
    assert A_B.find(members, ABSENT) == found


@pytest.mark.parametrize("outer", [None, 1, "b", ["b"], True])
def test_finding_a_value_through_one_that_is_not_an_object_fails(outer: Any) -> None:
    with pytest.raises(NotAnObjectError):
        A_B.find({"a": outer}, ABSENT)

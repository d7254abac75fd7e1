"""Claims become members of the dynamic metadata with their JSON values, or are left out."""

from __future__ import annotations

from typing import Any

import pytest

from authz_service.core.claim_path import parse_claim_path
from authz_service.core.claims import Claims
from authz_service.core.upstream_metadata import UpstreamMetadata


def members(metadata: dict[str, str], **claims: Any) -> dict[str, Any]:
    token = Claims("main", "alice", "app", frozenset(), frozenset({"a", "b"}), "a b", claims)
    return UpstreamMetadata({name: parse_claim_path(path) for name, path in metadata.items()}).for_token(token)


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        "acme",
        "",
        7,
        1.5,
        True,
        False,
        0,
        [],
        {},
        ["a", None, {"b": [1]}],
        "x" * 8192,
        [0] * 1023,
        nested(8),
        "caf\u00e9",
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_claim_keeps_its_json_value(value: Any) -> None:
    assert members({"tenant": "tenant_id"}, tenant_id=value) == {"tenant": value}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "x" * 8193,
        [0] * 1024,
        {"x" * 8200: 1},
        nested(9),
        "a\n",
        ["a\r\nb"],
        {"a": {"b": "\x00"}},
        {"a\t": 1},
        "\x85",
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_claim_that_is_absent_too_large_too_deep_or_could_split_a_line_is_left_out(value: Any) -> None:
    assert members({"tenant": "tenant_id", "other": "other"}, tenant_id=value, other=1) == {"other": 1}


def test_a_claim_is_found_by_its_dotted_path() -> None:
    metadata = {"a": "a.b", "c": r"c\.d", "through": "a.b.c", "sub": "sub", "client": "client_id", "scope": "scope"}
    assert members(metadata, a={"b": [1]}, **{"c.d": 2}) == {
        "a": [1], "c": 2, "sub": "alice", "client": "app", "scope": "a b"
    }  # fmt: skip


def test_the_whole_claim_set_is_an_object() -> None:
    assert members({"claims": "*"}, a={"b": 1}, iss="i") == {"claims": {"a": {"b": 1}, "iss": "i"}}

"""``match.mcp``: which conditions are accepted, and the methods that names are for."""

from __future__ import annotations

from typing import Any

import pytest

from authz_service.config.model import McpMatch


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({}, "needs methods or names"),
        ({"methods": []}, "no members"),
        ({"methods": None}, "methods"),
        ({"methods": [""]}, "is empty"),
        ({"names": ["a*b"]}, "not at its end"),
        ({"names": ["**"]}, "not at its end"),
        ({"names": [1]}, "wrong type"),
        ({"tools": ["a"]}, "tools"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_an_error(written: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        McpMatch.read(written)


def test_names_alone_are_those_of_the_methods_with_a_name() -> None:
    assert McpMatch.read({"names": ["get_*"]}).condition == (
        ("tools/call", "resources/read", "prompts/get"),
        ("get_*",),
    )

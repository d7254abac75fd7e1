"""pydantic's findings in our words, and the nearest name."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from authz_service.config import document
from authz_service.config.messages import _TEXTS, nearest, problems
from authz_service.config.model import Settings

EMPTY = document.parse(b"a: 1")
# What a bound is called in a schema, and what pydantic calls its breach.
BOUNDS = {
    "minimum": "greater_than_equal",
    "maximum": "less_than_equal",
    "exclusiveMinimum": "greater_than",
    "exclusiveMaximum": "less_than",
    "multipleOf": "multiple_of",
    "minItems": "too_short",
    "maxItems": "too_long",
    "minProperties": "too_short",
    "maxProperties": "too_long",
    "minLength": "string_too_short",
    "maxLength": "string_too_long",
}


def words(schema: object) -> set[str]:
    """All the keys in a schema, at whatever depth."""
    if isinstance(schema, dict):
        return {*schema, *(word for part in schema.values() for word in words(part))}
    return {word for part in schema for word in words(part)} if isinstance(schema, list) else set()


def test_each_bound_that_the_configuration_has_is_told_in_our_words() -> None:
    bounds = BOUNDS.keys() & words(Settings.model_json_schema())
    assert bounds >= {"minimum", "maximum", "minItems"}
    assert {BOUNDS[bound] for bound in bounds} <= _TEXTS.keys()


def test_a_finding_that_has_no_text_of_ours_keeps_pydantics_without_its_address() -> None:
    with pytest.raises(ValidationError) as refusal:
        TypeAdapter(dict[str, bytes]).validate_python({"a": 1})
    assert list(problems(refusal.value, EMPTY)) == [document.Problem(("a",), "Input should be a valid bytes")]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mian", "did you mean main?"), ("MAIN", "write one of main, other"), ("x", "write one of main, other")],
)
def test_the_nearest_name_is_named_or_else_all(name: str, hint: str) -> None:
    assert nearest(name, ["main", "other"]) == hint

"""pydantic's findings in our words, and the nearest name."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from authz_service.config import document
from authz_service.config.messages import _TEXTS, _flat, nearest, problems
from authz_service.config.model import RuleSettings, Settings
from authz_service.config.values import Many, OrAbsent
from authz_service.core.claim_path import ClaimPath
from authz_service.core.patterns import HostPattern, PathPattern
from authz_service.policy_tools.cases import Cases

if TYPE_CHECKING:
    from collections.abc import Iterator

EMPTY = document.parse(b"a: 1")
# What pydantic calls it when a value is not of a type. Numbers and paths that are written as strings are read by us.
TYPES: dict[Any, set[str]] = {
    BaseModel: {"model_type", "missing", "extra_forbidden"},
    bool: {"bool_type"},
    dict: {"dict_type"},
    int: {"int_type"},
    str: {"string_type"},
    tuple: {"tuple_type"},
    Literal: {"literal_error"},
    Any: set(),
    NoneType: set(),
    Path: set(),
    ClaimPath: {"string_type"},
    HostPattern: {"string_type"},
    PathPattern: {"string_type"},
    float: set(),
}
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


def types(kind: Any) -> Iterator[Any]:
    """All the types that a model is made of."""
    for part in _flat(kind):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield BaseModel
            inner: tuple[Any, ...] = tuple(part.model_fields.values())
        else:
            yield from (each for each in (get_origin(part), part) if each in (Any, Literal) or isinstance(each, type))
            inner = () if get_origin(part) is Literal else get_args(part)
        for each in inner:
            yield from types(each)


def test_each_type_that_a_configuration_is_made_of_is_told_in_our_words() -> None:
    raised = set().union(*(TYPES[kind] for root in (Settings, Cases) for kind in types(root)))
    assert raised == set().union(*TYPES.values())
    assert raised - {"extra_forbidden"} <= _TEXTS.keys()  # whose words need the names of the keys


def told(kind: Any, value: object) -> list[str]:
    with pytest.raises(ValidationError) as refusal:
        TypeAdapter(kind).validate_python(value)
    return [problem.text for problem in problems(refusal.value, EMPTY, kind)]


def test_a_finding_that_has_no_words_of_its_own_is_told_in_ours_all_the_same() -> None:
    class Unusual(BaseModel):
        key: bytes

    assert told(Unusual, {"key": 1}) == [
        "the number 1 is not accepted: see what `authz-service schema` says of this key"
    ]


class Sample(BaseModel):
    model_config = ConfigDict(strict=True)

    level: OrAbsent[Literal["low", "high", 3]] = None
    on: Literal[True] = True
    listed: Many[Literal["a", "b"]] = ()
    named: dict[str, Annotated[int, Field(ge=-1, le=1)]] = {}
    count: int | None = Field(None, ge=2, le=4, alias="many")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"level": "middle"}, "'middle' is not accepted: write 'low', 'high' or 3"),
        ({"on": False}, " (read as false) is not accepted: write true"),
        ({"listed": ["a", "c"]}, "'c' is not accepted: write 'a' or 'b'"),
        ({"named": {"x": 2}}, "must be at most 1"),
        ({"named": {"on": -2}}, "must be at least -1"),
        ({"many": 1}, "must be at least 2"),
        ({"many": 5}, "must be at most 4"),
    ],
)
def test_what_would_be_right_is_read_from_the_model(value: dict[str, object], problem: str) -> None:
    assert told(Sample, value) == [problem]


def test_the_keys_that_there_are_are_those_of_the_section_even_where_a_name_is_free() -> None:
    rule = {"name": "r", "require": {"claims": {"equals": {"equal": 1}, "name": {"prsent": True}}}}
    assert told(RuleSettings, rule) == [
        "is not a key here: did you mean equals?",
        "is not a key here: did you mean present?",
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mian", "did you mean main?"), ("MAIN", "write one of main, other"), ("x", "write one of main, other")],
)
def test_the_nearest_name_is_named_or_else_all(name: str, hint: str) -> None:
    assert nearest(name, ["main", "other"]) == hint

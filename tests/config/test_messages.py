"""Messages for pydantic's findings, and hints for unknown names."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from authz_service.config import document
from authz_service.config.messages import _MESSAGES, _flat, nearest, problems
from authz_service.config.model import RuleSettings, Settings
from authz_service.config.values import Many, OrAbsent
from authz_service.core.claim_path import ClaimPath
from authz_service.core.patterns import HostPattern, PathPattern
from authz_service.policy_tools.cases import Cases

if TYPE_CHECKING:
    from collections.abc import Iterator

EMPTY = document.parse(b"a: 1")
# pydantic's error types for a value of the wrong type. Validators of our own parse numbers and paths given as strings.
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
# Keywords for bounds in JSON Schema, with pydantic's error type for a value beyond the bound.
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


def test_each_bound_of_the_configuration_has_a_message() -> None:
    bounds = BOUNDS.keys() & words(Settings.model_json_schema())
    assert bounds >= {"minimum", "maximum", "minItems"}
    assert {BOUNDS[bound] for bound in bounds} <= _MESSAGES.keys()


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


def test_each_type_of_the_configuration_has_a_message() -> None:
    raised = set().union(*(TYPES[kind] for root in (Settings, Cases) for kind in types(root)))
    assert raised == set().union(*TYPES.values())
    assert raised - {"extra_forbidden"} <= _MESSAGES.keys()  # its message is made of the names of the keys


def messages_of(kind: Any, value: object) -> list[str]:
    with pytest.raises(ValidationError) as refusal:
        TypeAdapter(kind).validate_python(value)
    return [problem.text for problem in problems(refusal.value, EMPTY, kind)]


def test_an_unforeseen_finding_has_a_message_without_pydantics_words() -> None:
    class Unusual(BaseModel):
        key: bytes

    assert messages_of(Unusual, {"key": 1}) == ["the number 1 is not accepted: see this key in `authz-service schema`"]


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
def test_the_remedy_comes_from_the_model(value: dict[str, object], problem: str) -> None:
    assert messages_of(Sample, value) == [problem]


def test_an_unknown_key_is_compared_with_the_keys_of_its_section() -> None:
    rule = {"name": "r", "require": {"claims": {"equals": {"equal": 1}, "name": {"prsent": True}}}}
    assert messages_of(RuleSettings, rule) == [
        "is not a key here: did you mean equals?",
        "is not a key here: did you mean present?",
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mian", "did you mean main?"), ("MAIN", "write one of main, other"), ("x", "write one of main, other")],
)
def test_a_hint_has_the_closest_name_or_all_names(name: str, hint: str) -> None:
    assert nearest(name, ["main", "other"]) == hint

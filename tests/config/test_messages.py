"""Messages for pydantic's findings, and hints for unknown names."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from authz_service.config import document
from authz_service.config.declarations import flat
from authz_service.config.key_hints import nearest
from authz_service.config.messages import _MESSAGES, problems
from authz_service.config.model import RuleSettings, Settings
from authz_service.config.revocations import RevocationsFile
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
    for part in flat(kind):
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


ISSUER = {"issuer": "https://a.example", "audiences": ["api"]}
RULE = {"name": "r"}


def messages_about(**sections: Any) -> list[str]:
    return messages_of(Settings, {"issuers": [ISSUER], "rules": [RULE]} | sections)


@pytest.mark.parametrize(
    ("sections", "hint"),
    [
        ({"jwks_uri": "https://a.example/k"}, "jwks_uri belongs in issuers[].keys"),
        ({"issuers": [ISSUER | {"jwks_uri": "https://a.example/k"}]}, "jwks_uri belongs in issuers[].keys"),
        (
            {"issuers": [ISSUER | {"client_secret_file": "s"}]},
            "client_secret_file belongs in issuers[].introspection or",
        ),
        ({"rules": [RULE | {"scopes": ["a"]}]}, "scopes belongs in rules[].require"),
        ({"rules": [RULE | {"require": {"jwks_uri": "x"}}]}, "jwks_uri belongs in issuers[].keys"),
        ({"rules": [RULE | {"match": {"contains": "x"}}]}, "contains belongs in rules[].require.claims.*"),
        ({"rules": [RULE | {"header": "x"}]}, "header belongs in rules[].credential"),
        ({"rules": [RULE | {"rules": []}]}, "rules belongs in the top level"),
        ({"rules": [RULE | {"require": {"claim": {"a": 1}}}]}, "did you mean claims?"),
        ({"rules": [RULE | {"paths": ["/"]}]}, "paths belongs in rules[].match"),
        ({"issuers": [ISSUER | {"audience": "a"}]}, "did you mean audiences?"),
        ({"rules": [RULE | {"path": "/"}]}, "did you mean paths? (paths belongs in rules[].match)"),
        ({"rules": [RULE | {"method": "GET"}]}, "did you mean methods? (methods belongs in rules[].match)"),
        ({"server": {"port": 9191}}, "did you mean grpc_address?"),
        ({"issuers": [ISSUER | {"jwks_url": "a"}]}, "did you mean jwks_uri? (jwks_uri belongs in issuers[].keys)"),
        ({"rules": [RULE | {"match": {"prefix": "x"}}]}, "did you mean paths?"),
        ({"rules": [RULE | {"match": {"roles": "x"}}]}, "write one of hosts, methods, paths, headers, mcp"),
        ({"level": "debug"}, "level belongs in logging"),
        ({"issuer": "https://a.example"}, "issuer belongs in issuers[]"),
    ],
)
def test_a_misplaced_key_is_reported_with_the_section_where_it_belongs(sections: dict[str, Any], hint: str) -> None:
    (message,) = messages_about(**sections)
    assert message.removeprefix("is not a key here: ").startswith(hint)


def sections_of(kind: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the model with the place of its section, as messages name it."""
    for part in flat(kind):
        if isinstance(part, type) and issubclass(part, BaseModel):
            for name, field in part.model_fields.items():
                key = field.alias or name
                yield key, place
                yield from sections_of(field, f"{place}.{key}".removeprefix("."))
        elif get_origin(part) is tuple:
            yield from sections_of(get_args(part)[0], f"{place}[]")
        elif get_origin(part) is dict:
            yield from sections_of(get_args(part)[1], f"{place}.*")


@pytest.mark.parametrize(
    "key", sorted({key for key, place in sections_of(Settings) if place} - Settings.model_fields.keys())
)
def test_every_key_that_is_misplaced_at_the_top_level_is_reported_with_a_section_that_has_it(key: str) -> None:
    (message,) = messages_about(**{key: "x"})
    places = message.removeprefix(f"is not a key here: {key} belongs in ").split(" or ")
    assert places
    assert {(key, place) for place in places} <= set(sections_of(Settings))


@pytest.mark.parametrize(
    ("require", "written"),
    [
        ({"scopes": "a b"}, '["a", "b"]'),
        ({"scopes": "a"}, '["a"]'),
        ({"scopes": {"all": "a  b"}}, '["a", "b"]'),
        ({"scopes": {"any": "a, b,"}}, '["a", "b"]'),
        ({"audiences": "https://a.example https://b.example"}, '["https://a.example https://b.example"]'),
        ({"audiences": "https://a.example, https://b.example"}, '["https://a.example", "https://b.example"]'),
        ({"clients": "my app"}, '["my app"]'),
        ({"claims": {"c": {"in": "x"}}}, '["x"]'),
        ({"acr_values": "gold silver"}, '["gold", "silver"]'),
        ({"scopes": " "}, '[" "]'),
        ({"clients": "x" * 121}, "a list, in brackets, [ ]"),
    ],
)
def test_a_string_in_place_of_a_list_is_shown_as_the_list(require: dict[str, Any], written: str) -> None:
    (message,) = messages_about(rules=[RULE | {"require": require}])
    assert message.startswith("must be a list, not the string ")
    assert message.endswith(f": write {written}")


def lists_of(kind: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every key whose value is a list."""
    for part in flat(kind):
        if isinstance(part, type) and issubclass(part, BaseModel):
            for name, field in part.model_fields.items():
                yield from lists_of(field, (*where, field.alias or name))
        elif get_origin(part) is tuple:
            yield where
            yield from lists_of(get_args(part)[0], (*where, 0))
        elif get_origin(part) is dict:
            yield from lists_of(get_args(part)[1], (*where, "name"))


@pytest.mark.parametrize("where", [where for where in lists_of(Settings) if len(where) > 1], ids=str)
def test_every_key_for_a_list_asks_for_one_where_a_string_is_written(where: tuple[Any, ...]) -> None:
    value: Any = "x"
    for part in reversed(where):
        value = [value] if part == 0 else {part: value}
    messages = messages_of(Settings, value)
    assert any(" a list, not the string 'x': write [\"x\"]" in message for message in messages), messages


@pytest.mark.parametrize("rules", [{"name": "r"}, {}])
def test_a_section_in_place_of_a_list_of_sections_is_reported_with_the_missing_dash(rules: dict[str, str]) -> None:
    assert messages_about(rules=rules) == [
        "must be a list, not a mapping: write a dash before its first key, and indent the others alike"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server: {grpc_address: 9191}",
            "'9191' is not an address: write host:port, such as 127.0.0.1:9191, [::1]:9191, or unix:/path/to.sock",
        ),
        (
            "server: {admin_address: 9192}",
            "'9192' is not an address: write host:port, such as 127.0.0.1:9192, or [::1]:9192",
        ),
        ("rules: [{name: 7}]", 'must be a string, not the number 7: write it in quotes, "7"'),
        ("rules: [{name: yes}]", 'must be a string, not yes (read as true): write it in quotes, "yes"'),
        ("rules: [{name: a, match: {methods: 7}}]", 'must be a list, not the number 7: write ["7"]'),
        ("rules: [{name: a, match: {paths: 7}}]", "must be a list, not the number 7: write [7]"),
    ],
)
def test_quotes_are_advised_only_where_they_make_the_value_valid(text: str, message: str) -> None:
    parsed = document.parse(text.encode())
    with pytest.raises(ValidationError) as refusal:
        Settings.model_validate(parsed.value)
    assert message in [problem.text for problem in problems(refusal.value, parsed)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mian", "did you mean main?"), ("MAIN", "write one of main, other"), ("x", "write one of main, other")],
)
def test_a_hint_has_the_closest_name_or_all_names(name: str, hint: str) -> None:
    assert nearest(name, ["main", "other"]) == hint


@pytest.mark.parametrize(
    ("key", "meant"),
    [("sub", "subject"), ("user", "subject"), ("sid", "session"), ("iss", "issuer"), ("client_id", "client")],
)
def test_a_revocation_with_the_name_of_a_claim_is_told_the_name_of_the_part(key: str, meant: str) -> None:
    assert messages_of(RevocationsFile, {"revocations": [{key: "x"}]}) == [f"is not a key here: did you mean {meant}?"]


def test_an_empty_list_in_a_file_of_its_own_is_written_in_brackets() -> None:
    assert messages_of(RevocationsFile, {"revocations": None}) == ["is empty: write [] for none"]

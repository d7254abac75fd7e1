"""Kinds of values: hostile ones raise nothing but findings, and a JSON Schema accepts what its kind accepts."""

from __future__ import annotations

import math
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.config.kinds import (
    INDEX,
    Checked,
    Flag,
    Invalid,
    Kind,
    Many,
    Members,
    Nullable,
    OneOf,
    Prepared,
    Text,
    Where,
    Whole,
    findings_of,
    some,
    walk,
)
from authz_service.config.model import Settings
from authz_service.config.revocations import RevocationsFile
from authz_service.config.schema import schema_of
from authz_service.config.sections import Section, SectionKind
from authz_service.config.values import SCALAR, STRING
from authz_service.policy_tools.cases import Cases

ROOTS: list[type[Section]] = [Settings, Cases, RevocationsFile]


def faults(kind: Kind[Any], value: object) -> list[tuple[Any, str]]:
    try:
        kind.read(value)
    except ValueError as error:
        return [(each.where, each.fault) for each in findings_of(error, kind, value)]
    return []


@pytest.mark.parametrize(
    ("kind", "good", "wrong"),
    [
        (Flag(), [True, False], [0, 1, "true", None, []]),
        (Whole(), [0, -1, 10**400], [True, 1.0, "1", None, math.nan]),
        (STRING, ["", "a", "\ud800"], [1, True, None, [], b"a"]),
        (SCALAR, ["a", 0, 1.5, True, False, math.inf], ["", None, [], {}, b"a"]),
        (OneOf(Literal["a", 1, True]), ["a", 1, True], ["b", 1.0, False, 0, None, [], {}]),
        (OneOf(Literal[True]), [True], [1, "true", False]),
        (Many(Flag()), [[], [True], (True, False)], [True, "", {}, None, [1], {True}]),
        (some(Flag()), [[True]], [[], ()]),
        (Members(STRING, Flag()), [{}, {"a": True}], [[], "a", {"a": 1}, {1: True}, None]),
        (Members(STRING, Flag(), may_be_empty=False), [{"a": True}], [{}]),
        (Nullable(Flag()), [None, True], [0, ""]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_kind_accepts_its_values_and_coerces_none(kind: Kind[Any], good: list[Any], wrong: list[Any]) -> None:
    for value in good:
        read = kind.read(value)
        assert read == (tuple(value) if isinstance(value, list) else value)
        assert kind.accepts(value)
    for value in wrong:
        assert faults(kind, value), value
        assert not kind.accepts(value)


@pytest.mark.parametrize(
    ("value", "fault"), [(0, "too small"), (1, None), (3, None), (4, "too large"), (10**400, "too large")]
)
def test_a_whole_number_is_within_its_bounds(value: int, fault: str | None) -> None:
    assert faults(Whole(1, 3), value) == ([] if fault is None else [((), fault)])


def test_the_text_of_a_check_is_the_text_of_its_finding() -> None:
    def refuse(text: str) -> str:
        raise ValueError(f"{text} is refused")

    kind = Members(Text(refuse), Many(Text(refuse)))
    with pytest.raises(Invalid) as refusal:
        kind.read({"a": ["b", "c"]})
    found = [(each.where, each.text) for each in refusal.value.findings]
    assert found == [(("a",), "a is refused"), (("a", 0), "b is refused"), (("a", 1), "c is refused")]
    assert str(refusal.value) == "a: a is refused; a.0: b is refused; a.1: c is refused"


def test_a_value_is_prepared_before_it_is_read_and_checked_afterwards() -> None:
    seen: list[object] = []

    def look(value: Any) -> Any:
        seen.append(value)
        return value

    kind = Checked(Prepared(Many(Flag()), look), look)
    assert kind.read([True]) == (True,)
    assert seen == [[True], (True,)]
    assert faults(kind, [1]) == [((0,), "wrong type")]


def test_no_member_is_lost_because_its_name_is_read_as_that_of_another() -> None:
    kind = Members(Text(str.lower), Flag())
    assert kind.read({"A": True, "b": False}) == {"a": True, "b": False}
    assert faults(kind, {"A": True, "a": True}) == [(("a",), "same name")]
    assert faults(kind, {"A": 1, "a": True}) == [(("a",), "same name"), (("A",), "wrong type")]


def test_an_empty_list_is_one_finding_and_so_is_a_list_with_a_wrong_item() -> None:
    assert faults(some(Flag()), []) == [((), "no members")]
    assert faults(some(Flag()), [1]) == [((0,), "wrong type")]


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"issuers": value}
    return value


HOSTILE: list[Any] = [
    *(nested(100_000), [[]] * 1000, "x" * 1_000_000, {"a" * 100_000: 1}, range(3), (), ((1,),)),
    *(math.nan, math.inf, -math.inf, 10**5000, -(10**5000), 1j, "\0", "\ud800", b"a", {1}, object(), type),
    *({1: 2}, {None: 1}, {(): 1}, {"": 1}, {"a": {}}),
]


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_a_hostile_value_at_any_place_raises_nothing_but_findings(root: type[Section]) -> None:
    outermost: dict[Where, Kind[Any]] = {}
    for where, kind in walk(SectionKind(root)):
        outermost.setdefault(where, kind)
    for where, kind in outermost.items():
        for value in HOSTILE:
            assert bool(faults(kind, value)) is not kind.accepts(value)
            whole = value
            for part in reversed(where):
                whole = [whole] if part == INDEX else {part: whole}
            found = [place for place, _ in faults(SectionKind(root), whole)]
            assert kind.accepts(value) or where in {place[: len(where)] for place in found}


TEXTS = ["any", "5m", "1MiB", "a.b", "RS256", "GET", "/a/{b}", "https://a.example/", "127.0.0.1:1", "dpop"]
NAMES = ["a", "x-a", "all", "in", "b.c"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
@given(data=st.data())
def test_the_schema_accepts_what_a_key_accepts(root: type[Section], data: st.DataObject) -> None:
    schema = schema_of(root, "test", "Test")
    sections = {kind.section for _, kind in walk(SectionKind(root)) if isinstance(kind, SectionKind)}
    section = data.draw(st.sampled_from(sorted(sections, key=lambda each: each.__name__)))
    key = data.draw(st.sampled_from(list(section.declared.values())))
    value = data.draw(JSON)
    if key.kind.accepts(value) and not (value is None and key.refuses_null):
        properties = schema["$defs"].get(section.__name__, schema)["properties"]
        part = {"$defs": schema["$defs"], **properties[key.name]}
        jsonschema.Draft202012Validator(part).validate(value)

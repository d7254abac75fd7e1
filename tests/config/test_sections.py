"""Sections and their keys: what is read, what is found, and what settings are like."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from authz_service.config.kinds import Flag, Invalid, Many, Members, OneOf, TextInFolder, Whole, some, walk
from authz_service.config.model import Settings
from authz_service.config.revocations import RevocationsFile
from authz_service.config.sections import (
    Section,
    SectionKey,
    SectionKind,
    ShortSection,
    key,
    nested,
    nullable,
    optional,
    required,
)
from authz_service.config.values import SCALAR, STRING
from authz_service.policy_tools.cases import Cases

ROOTS = (Settings, Cases, RevocationsFile)
KINDS = [kind for root in ROOTS for _, kind in walk(SectionKind(root))]
SECTIONS = list(dict.fromkeys(kind.section for kind in KINDS if isinstance(kind, SectionKind)))


class Inner(Section):
    """A section within another one."""

    size = key(Whole(minimum=1), default=10, description="A number.")
    names = optional(some(STRING), description="Names.")

    def check(self) -> None:
        """Two keys that contradict each other."""
        if self.names and self.size < len(self.names):
            raise ValueError("has more names than its size")


class Outer(Section):
    """A section."""

    name = required(STRING, description="A name.")
    flag = key(Flag(), default=False, description="A flag.")
    in_ = optional(SCALAR, name="in", description="A value.")
    label = optional(STRING, if_absent="", description="A label.")
    limit = nullable(Whole(), description="A limit.")
    file = optional(TextInFolder(lambda text, folder: Path(folder or "", text)), description="A file.")
    inner = nested(Inner, description="A section.")
    short = nested(Inner, kind=ShortSection(Inner, "names"), description="A section, or its names.")
    many = key(Many(SectionKind(Inner)), default=[], description="Sections.")
    by_name = key(Members(STRING, Whole()), default={}, description="Numbers.")


class Extended(Outer):
    """A section with the keys of another one."""

    more: SectionKey[Any] = key(OneOf(Literal["a", "b"]), default="a", description="A choice.")


class Open(Section, has_other_keys=True):
    """A section with keys of the user's own."""

    known = key(Whole(), default=1, description="A number.")


def findings(section: type[Section], value: object) -> list[tuple[Any, ...]]:
    """The place, fault and text of each finding."""
    with pytest.raises(Invalid) as refusal:
        section.read(value)
    return [(each.where, each.fault, each.text) for each in refusal.value.findings]


def test_a_key_that_is_left_out_has_its_default() -> None:
    read = Outer.read({"name": "a"})
    assert dict(read.members()) == {
        "name": "a", "flag": False, "in": None, "label": "", "limit": None, "file": None, "inner": Inner(),
        "short": Inner(), "many": (), "by_name": {},
    }  # fmt: skip
    assert read.written == {"name"}


def test_values_are_stored_as_their_kinds_read_them() -> None:
    read = Outer.read(
        {"name": "a", "in": 1.5, "inner": {"size": 2}, "many": [{}, {"names": ["x"]}], "by_name": {"a": 1}}
    )
    assert (read.in_, read.inner.size, read.by_name) == (1.5, 2, {"a": 1})
    assert [each.names for each in read.many] == [None, ("x",)]
    assert read.written == {"name", "in", "inner", "many", "by_name"}


def test_every_finding_is_reported_with_its_place_and_none_hides_another() -> None:
    value = {
        "by_name": {"a": "x", "b": True},
        "many": [{"size": 0}, {"names": []}, {"sizes": 1}, 7, {"names": ["a", "b"], "size": 1}],
        "inner": {"names": ["a", 1], "size": None},
        "limit": "x",
        "in": None,
        "flag": 1,
        "other": 1,
    }
    assert findings(Outer, value) == [
        (("name",), "missing key", ""),
        (("flag",), "wrong type", ""),
        (("in",), "empty", ""),
        (("limit",), "wrong type", ""),
        (("inner", "size"), "empty", ""),
        (("inner", "names", 1), "wrong type", ""),
        (("many", 0, "size"), "too small", ""),
        (("many", 1, "names"), "no members", ""),
        (("many", 2, "sizes"), "unknown key", ""),
        (("many", 3), "wrong type", ""),
        (("many", 4), "refused", "has more names than its size"),
        (("by_name", "a"), "wrong type", ""),
        (("by_name", "b"), "wrong type", ""),
        (("other",), "unknown key", ""),
    ]


@pytest.mark.parametrize("name", ["in", "label", "file", "flag", "inner", "short", "many", "by_name", "name"])
def test_only_a_key_whose_default_is_null_may_be_null(name: str) -> None:
    assert findings(Outer, {"name": "a"} | {name: None}) == [((name,), "empty", "")]
    assert Outer.read({"name": "a", "limit": None}).limit is None


@pytest.mark.parametrize("value", [None, 1, "x", [], [{"name": "a"}], True, Inner()])
def test_a_section_is_a_mapping(value: object) -> None:
    assert findings(Outer, value) == [((), "empty" if value is None else "wrong type", "")]


def test_a_section_that_was_read_already_is_accepted_as_it_is() -> None:
    inner = Inner(size=3)
    assert Outer(name="a", inner=inner, many=(inner,)).inner is inner
    assert Outer(name="a", short=inner).short is inner


def test_a_short_form_is_read_as_the_key_that_it_stands_for() -> None:
    assert Outer(name="a", short=["x"]).short == Outer(name="a", short={"names": ["x"]}).short == Inner(names=["x"])


def test_the_findings_in_a_short_form_are_at_its_own_place() -> None:
    assert findings(Outer, {"name": "a", "short": ["x", 1]}) == [(("short", 1), "wrong type", "")]
    assert findings(Outer, {"name": "a", "short": {"names": ["x", 1]}}) == [(("short", "names", 1), "wrong type", "")]
    assert findings(Outer, {"name": "a", "short": []}) == [(("short",), "no members", "")]


def test_a_path_is_relative_to_the_folder_of_the_file_however_deep_it_is_written(tmp_path: Path) -> None:
    class Whole(Section):
        """A section around others."""

        parts = required(Many(SectionKind(Outer)), description="Sections.")

    assert Whole.read({"parts": [{"name": "a", "file": "b"}]}, tmp_path).parts[0].file == tmp_path / "b"
    assert Whole.read({"parts": [{"name": "a", "file": "b"}]}).parts[0].file == Path("b")


def test_keys_of_a_parent_class_are_keys_of_a_section() -> None:
    assert list(Extended.declared) == [*Outer.declared, "more"]
    assert Extended(name="a", more="b").more == "b"
    assert "more" not in Outer.declared


def test_keys_of_the_users_own_are_apart_from_the_declared_ones() -> None:
    read = Open.read({"known": 2, "written": 3, "others": None, "check": [1]})
    assert (read.known, read.others) == (2, {"written": 3, "others": None, "check": [1]})
    assert read.written == {"known", "written", "others", "check"}
    assert read != Open(known=2)


def test_sections_are_equal_if_their_values_are_written_or_not() -> None:
    assert Inner() == Inner(size=10)
    assert hash(Inner()) == hash(Inner(size=10))
    assert Inner() != Inner(size=11)
    assert Extended(name="a") != Outer(name="a")
    assert Inner() != {"size": 10}


def test_a_copy_has_other_values_and_leaves_the_original_alone() -> None:
    original = Outer.read({"name": "a"})
    copy = original.with_values(name="b", limit=3)
    assert (copy.name, copy.limit) == ("b", 3)
    assert copy.written == {"name", "limit"}
    assert (original.name, original.limit) == ("a", None)


def test_a_section_cannot_be_changed() -> None:
    inner = Inner()
    with pytest.raises(AttributeError, match="size cannot be changed: settings are frozen"):
        inner.size = 1  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="size cannot be removed: settings are frozen"):
        del inner.size
    assert inner == Inner()


def test_a_representation_has_every_value() -> None:
    assert repr(Inner(size=3)) == "Inner(size=3, names=None)"


def test_reading_leaves_the_value_as_it_is() -> None:
    value: Any = {"name": "a", "short": ["x"], "many": [{"size": 2}]}
    Outer.read(value)
    assert value == {"name": "a", "short": ["x"], "many": [{"size": 2}]}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_default_is_valid_as_it_is_shown(section: type[Section]) -> None:
    for name, each in section.declared.items():
        if each.if_absent is not None:
            assert section.defaults()[each.attribute] == each.if_absent(), name


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_a_choice_has_the_type_of_its_values(section: type[Section]) -> None:
    for each in section.declared.values():
        kinds = [kind for where, kind in walk(each.kind) if isinstance(kind, OneOf) and not where]
        for kind in kinds:
            (annotation,) = {str(vars(parent)["__annotations__"][each.attribute]) for parent in section.__mro__
                             if each.attribute in vars(parent).get("__annotations__", ())}  # fmt: skip
            named = re.fullmatch(r"SectionKey\[(\w+)(?: \| None)?\]", annotation)
            if named is None:
                assert (annotation, kind.choices) == ("SectionKey[Literal[True] | None]", (True,))
            else:
                assert kind.choices == get_args(getattr(sys.modules[section.__module__], named[1]))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_no_key_hides_an_attribute_of_all_sections(section: type[Section]) -> None:
    assert not {each.attribute for each in section.declared.values()} & {*vars(Section), *Section.__annotations__}

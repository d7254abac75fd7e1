"""The page of the configuration: every key of the model, with a heading of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from authz_service.config.model import Settings
from authz_service.config.sections import NOT_SHOWN, SectionKind
from docs_tools.introductions import HEAD, INTRODUCTIONS
from docs_tools.types import type_of
from docs_tools.yaml_text import flow, tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config.kinds import Kind, Where
    from authz_service.config.sections import Section, SectionKey


class Part:
    """A section, or a key of the file itself.

    ``place`` is that of the key, such as ``rules[].match``. ``within`` is that of the section's own keys, which differs
    where the key has a mapping or a list of sections: ``rules[].require.claims.*``.
    """

    def __init__(self, place: str, key: SectionKey[Any], section: type[Section] | None, within: str) -> None:
        self.place = place
        self.key = key
        self.section = section
        self.within = within

    def own_keys(self) -> Iterator[tuple[str, SectionKey[Any]]]:
        """The section's own keys with their places, without those that are parts themselves."""
        for each in () if self.section is None else self.section.declared.values():
            if not any(self._is_part(found) for _, found in sections_of(each.kind)):
                yield f"{self.within}.{each.name}", each

    def _is_part(self, section: type[Section]) -> bool:
        """Whether a section within this one has a heading of its own: all but the alternatives in ``require``."""
        return self.section is None or not issubclass(self.section, section)


def page() -> str:
    """The page."""
    every = list(parts())
    lines = [HEAD.strip(), "", *_overview(every), *(line for part in every for line in _part(part))]
    return "\n".join(lines).rstrip() + "\n"


def parts() -> Iterator[Part]:
    """The parts in the order of the file. A section that occurs at several places is described at the first one."""
    seen: set[type[Section]] = set()
    for part in _within("", Settings):
        if part.section is None or not any(issubclass(each, part.section) for each in seen):
            seen |= {part.section} if part.section else set()
            yield part


def _within(place: str, section: type[Section]) -> Iterator[Part]:
    for each in section.declared.values():
        own = f"{place}.{each.name}".removeprefix(".")
        inner = list(sections_of(each.kind))
        for where, found in inner:
            within = own + "".join("[]" if mark == 0 else ".*" for mark in where)
            yield Part(own, each, found, within)
            yield from _within(within, found)
        if not (inner or place):
            yield Part(own, each, None, own)


def sections_of(kind: Kind[Any], where: Where = ()) -> Iterator[tuple[Where, type[Section]]]:
    """The sections of a key's value with their places in it, without those within them."""
    if isinstance(kind, SectionKind):
        yield where, kind.section
        return
    for place, part in kind.parts():
        yield from sections_of(part, (*where, *place))


def anchor(place: str) -> str:
    """The anchor of a place, on the site and on GitHub."""
    return re.sub(r"[^\w-]", "", place)


def _overview(every: list[Part]) -> Iterator[str]:
    yield "| section or key | what it sets |\n|---|---|"
    for part in every:
        sentence = part.key.description.partition(". ")[0].removesuffix(".")
        yield f"| [`{part.place}`](#{anchor(part.place)}) | {sentence} |"
    yield ""


def _part(part: Part) -> Iterator[str]:
    yield f"## `{part.place}`\n"
    description, default = _split(part.key)
    yield f"{_type(part.key)}. {default}\n"
    yield f"{description}\n"
    if part.place in INTRODUCTIONS:
        yield f"{INTRODUCTIONS[part.place].strip()}\n"
    yield f"```yaml\n{tree(example_of(part))}```\n"
    for place, each in part.own_keys():
        yield from _key(place, each)


def _key(place: str, key: SectionKey[Any]) -> Iterator[str]:
    description, default = _split(key)
    yield f"### `{place}`\n"
    yield f"{_type(key)}. {default} Example: `{key.name}: {flow(_example(place, key))}`\n"
    yield f"{description}\n"


def example_of(part: Part) -> dict[str, Any]:
    """The example of a part at its place in the file, with what its parents require."""
    value = _example(part.place, part.key)
    *parents, own = part.place.split(".")
    value = {own: value}
    for parent in reversed(parents):
        name, is_list = parent.removesuffix("[]"), parent.endswith("[]")
        value = {name: [_REQUIRED.get(name, {}) | value] if is_list else value}
    return value


def _example(place: str, key: SectionKey[Any]) -> Any:
    if key.example is NOT_SHOWN:
        raise AssertionError(f"{place} has no example: give it one in the model, with example=...")
    return key.example


_REQUIRED: dict[str, dict[str, Any]] = {  # of the items around an example
    "issuers": {"issuer": "https://idp.example.com/", "audiences": ["https://api.example.com/"]},
    "rules": {"name": "read-appointments"},
}


def _type(key: SectionKey[Any]) -> str:
    words = type_of(key.kind)
    return words if words.startswith("`") else f"{words[0].upper()}{words[1:]}"


def _split(key: SectionKey[Any]) -> tuple[str, str]:
    """The description, with the meanings of the choices as a list, and the sentence on the default."""
    text, _, default = key.description.partition(" Default: ")
    first, *choices = re.split(r" (?=`[^`]*`: )", text)
    description = "\n".join([first, "", *(f"- {choice}" for choice in choices)]) if len(choices) > 1 else text
    if key.if_absent is None:
        return description, "Required."
    if key.default is not NOT_SHOWN:
        default = f"`{flow(key.default)}`."
    return description, f"Default: {default}" if default else "Optional."

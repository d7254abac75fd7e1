"""The reference of the configuration, from the model."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from authz_service.config.kinds import OneOf, walk
from authz_service.config.model import Settings
from authz_service.config.sections import NOT_SHOWN, SectionKind
from docs_tools.types import type_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config.kinds import Kind, Where
    from authz_service.config.sections import Section, SectionKey

_HEAD = """\
# Configuration

The configuration is one YAML file.
"""


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


def page() -> str:
    """The page."""
    return "\n".join([_HEAD, *(line for part in parts() for line in _part(part))]).rstrip() + "\n"


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
        inner = list(_sections(each.kind))
        for where, found in inner:
            within = own + "".join("[]" if mark == 0 else ".*" for mark in where)
            yield Part(own, each, found, within)
            yield from _within(within, found)
        if not (inner or place):
            yield Part(own, each, None, own)


def _sections(kind: Kind[Any], where: Where = ()) -> Iterator[tuple[Where, type[Section]]]:
    """The sections of a key's value with their places in it, without those within them."""
    if isinstance(kind, SectionKind):
        yield where, kind.section
        return
    for place, part in kind.parts():
        yield from _sections(part, (*where, *place))


def _part(part: Part) -> Iterator[str]:
    yield from _key(part.place, part.key, "##")
    if part.section is not None:
        for each in part.section.declared.values():
            if not any(_described(part, each)):
                yield from _key(f"{part.within}.{each.name}", each, "###")


def _described(part: Part, key: SectionKey[Any]) -> Iterator[bool]:
    """Whether the sections of a key have headings of their own."""
    return (part.section is None or not issubclass(part.section, found) for _, found in _sections(key.kind))


def _key(place: str, key: SectionKey[Any], level: str) -> Iterator[str]:
    yield f"{level} `{place}`\n"
    kind = type_of(key.kind)
    yield f"{kind[0].upper()}{kind[1:]}. {_default(key)}\n"
    yield f"{prose(key.description, key.kind)}\n"


def _default(key: SectionKey[Any]) -> str:
    if key.if_absent is None:
        return "Required."
    if key.default is NOT_SHOWN:
        return "Optional."
    return f"Default: `{flow(key.default)}`."


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{flow(name)}: {flow(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(flow, value)) + "]"
        case str() if re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./:+@-]*(?<!:)", value) and not _is_other(value):
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def _is_other(value: str) -> bool:
    """Whether YAML reads a plain string as another type."""
    return re.fullmatch(r"(?i)[0-9.+-]+|true|false|yes|no|on|off|null|~", value) is not None


_CODE = re.compile(
    r"(`[^`]*`)"  # is code already
    r"|(\{[^}]*\}|\[[a-z_]+\]|https?://[^\s,)]*[^\s,).]|[a-z]+(?:_[a-z]+)+(?:\.[a-z_]+)*|[a-z]+\.[a-z_]+(?:\.[a-z_]+)*"
    r"|(?<!\S)\S*[*\\%]\S*?(?=[,.)]*(?:\s|$)))"
)


def prose(text: str, kind: Kind[Any] | None = None) -> str:
    """A description in Markdown: what is code in it is marked as code."""
    if kind is not None:
        for choices in (each.choices for _, each in walk(kind) if isinstance(each, OneOf)):
            for choice in choices:
                text = re.sub(rf"(^|[.;] ){re.escape(str(choice))}: ", rf"\1`{choice}`: ", text)
    return _CODE.sub(lambda match: match[0] if match[1] else f"`{match[0]}`", text)

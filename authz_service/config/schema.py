"""The JSON Schemas of the configuration file and of other files in YAML, for editors and for programs that write them.

A schema accepts what the loader accepts. It does not cover the checks between several keys. The title of a key is its
place in the file, such as ``issuers[].keys.jwks_uri``, since an editor shows it beside the description.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz_service.config.kinds import (
    Anything,
    Checked,
    Flag,
    Kind,
    Many,
    Members,
    Nullable,
    OneOf,
    Prepared,
    Scalar,
    Text,
    Whole,
)
from authz_service.config.model import Settings
from authz_service.config.sections import NOT_SHOWN, Section, SectionKind, ShortSection

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ID = "urn:authz-service:schema:"  # a name, not an address: no editor or validator fetches anything for it
_SCALARS = ("string", "integer", "number", "boolean")
_TYPES = {str: "string", bool: "boolean"}  # of the choices of a Literal


def schema() -> dict[str, Any]:
    """The schema of the configuration file."""
    return schema_of(Settings, "config", "Configuration of authz-service")


def schema_of(root: type[Section], name: str, title: str) -> dict[str, Any]:
    """The schema of a file, in draft 2020-12."""
    definitions: dict[str, Any] = {}
    whole = _section(root, definitions)
    defined = dict(sorted(definitions.items()))
    _add_titles(whole, defined, "")
    return {"$schema": _DIALECT, "$id": f"{_ID}{name}", "$defs": defined, **whole, "title": title}


def _section(section: type[Section], definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for key in section.declared.values():
        written = _of(key.kind, definitions) | {"description": key.description}
        if key.default is not NOT_SHOWN:
            written["default"] = key.default
        if key.example is not NOT_SHOWN:
            written["examples"] = [key.example]
        properties[key.name] = _sorted(written)
    required = [name for name in section.declared if name in section.required_keys]
    return _sorted(
        {
            "additionalProperties": section.has_other_keys,
            "description": section.__doc__,
            "properties": properties,
            "title": section.title,
            "type": "object",
            **({"required": required} if required else {}),
            **section.keywords,
        }
    )


def _of(kind: Kind[Any], definitions: dict[str, Any]) -> dict[str, Any]:  # noqa: C901, PLR0911, PLR0912 - a case for each kind
    """The schema of the values that a file may have for a kind. Sections are added to the definitions."""
    match kind:
        case SectionKind(section=section):
            if section.__name__ not in definitions:
                definitions[section.__name__] = {}  # before those within it
                definitions[section.__name__] = _section(section, definitions)
            return {"$ref": f"#/$defs/{section.__name__}"}
        case ShortSection(short=short, section=section):
            return _any_of([short, section], definitions)
        case Nullable(inner=inner):
            return _or([_of(inner, definitions), {"type": "null"}])
        case Prepared(written=written):
            return _any_of(written, definitions)
        case Checked(inner=inner):
            return _of(inner, definitions)
        case Many(item=item):
            at_least = {} if kind.may_be_empty else {"minItems": 1}
            return {"items": _of(item, definitions), **at_least, "type": "array"}
        case Members(member=member):
            members = True if isinstance(member, Anything) else _of(member, definitions)
            at_least = {} if kind.may_be_empty else {"minProperties": 1}
            return {"additionalProperties": members, **at_least, "type": "object"}
        case OneOf(choices=(choice,)):
            return {"const": choice, "type": _TYPES[type(choice)]}
        case OneOf(choices=choices):
            return {"enum": list(choices), "type": "string"}
        case Whole(minimum=minimum, maximum=maximum):
            bounds = {"minimum": minimum, "maximum": maximum}
            return {name: bound for name, bound in bounds.items() if bound is not None} | {"type": "integer"}
        case Flag():
            return {"type": "boolean"}
        case Text(keywords=keywords):
            return {**keywords, "type": "string"}
        case Scalar():
            return _or([{"type": each} for each in _SCALARS])
        case _:
            return {}


def _any_of(kinds: Iterable[Kind[Any]], definitions: dict[str, Any]) -> dict[str, Any]:
    return _or([_of(each, definitions) for each in kinds])


def _or(branches: list[dict[str, Any]]) -> dict[str, Any]:
    """A schema that accepts what any of these does."""
    flat = [each for branch in branches for each in branch.get("anyOf", (branch,))]
    return flat[0] if len(flat) == 1 else {"anyOf": [_sorted(each) for each in flat]}


def _sorted(part: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(part.items()))


def _add_titles(part: dict[str, Any], whole: dict[str, Any], place: str) -> None:
    """Give each key its place as its title.

    A section that occurs in several places has the titles of the first one.
    """
    if "$ref" in part:
        part = whole[part["$ref"].rpartition("/")[2]]
    for key, value in part.get("properties", {}).items():
        if "title" not in value:
            value["title"] = f"{place}.{key}".removeprefix(".")
            _add_titles(value, whole, value["title"])
    for branch in part.get("anyOf", ()):
        _add_titles(branch, whole, place)
    for keyword, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(part.get(keyword), dict):
            _add_titles(part[keyword], whole, f"{place}{mark}")

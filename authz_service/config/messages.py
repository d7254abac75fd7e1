"""Turns pydantic's findings into messages of our own.

Owns every message about a single key that its value's validator does not raise. A message says on one line what is
wrong and what would be right, and never points to another project's pages. Of pydantic's findings only the type and the
place are used; what would be right comes from our own model.
"""

from __future__ import annotations

import difflib
import json
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from authz_service.config.document import Problem
from authz_service.config.model import Settings
from authz_service.config.values import EMPTY, as_list
from authz_service.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic_core import ErrorDetails

    from authz_service.config.document import Document, Where

_KEY_MARK = "[key]"  # pydantic's mark for a mapping's key, as opposed to the value under it

# By pydantic's error type: all types that the model can raise.
_MESSAGES = {
    "bool_type": "must be true or false, not {found}",
    "dict_type": "must be a mapping, lines of the form `key: value`, not {found}",
    "greater_than_equal": "must be at least {least}",
    "int_type": "must be a whole number, not {found}",
    "less_than_equal": "must be at most {most}",
    "literal_error": "{value} is not accepted: write {choices}",
    "missing": "is required: add it",
    "model_type": "must be a mapping, lines of the form `key: value`, not {found}",
    "string_type": "must be a string, not {found}",
    "too_short": "is empty: give at least one",
    "tuple_type": "must be a list, not {found}",
    "value_error": "{error}",
}
_INDEX = 0  # of an item: all items of a list are declared alike
_ANY_KEY = "*"  # of a mapping with keys of the user's own
_MAX_PLACES = 3  # that a hint names
_FALLBACK = "{value} is not accepted: see this key in `authz-service schema`"


def problems(error: ValidationError, document: Document, root: type[BaseModel] = Settings) -> Iterator[Problem]:
    """One problem for each of pydantic's findings, except those that merely follow from another one.

    ``root`` is the section that the document as a whole was validated as.
    """
    known = {problem.where for problem in document.problems}
    for details in error.errors(include_url=False):
        where = document.place(tuple(part for part in details["loc"] if part != _KEY_MARK))
        if where not in known and not _follows(details):
            yield Problem(where, _message(details, where, document, root))


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not one of ``names``: the closest of them, or all."""
    names = tuple(names)
    close = closest(name, names)
    return f"did you mean {close}?" if close else f"write one of {', '.join(names)}"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The name that is most like another one, if any is."""
    return next(iter(difflib.get_close_matches(name, tuple(names), n=1)), None)


def _follows(details: ErrorDetails) -> bool:
    # pydantic reports a list whose items are all refused as empty, too.
    return details["type"] == "too_short" and len(details["input"]) > 0


def _message(details: ErrorDetails, where: Where, document: Document, root: type[BaseModel]) -> str:
    if details["type"] == "extra_forbidden":
        return f"is not a key here: {_right_key(details['loc'], root)}"
    if details["input"] is None and details["type"] != "value_error":
        return EMPTY
    written = document.written.get(where, "")
    declared = _declared(details["loc"], root)
    if details["type"] == "string_type" and written and (refusal := _refusal(declared, written)):
        return refusal  # quotes alone would not make it valid
    expected = _flattened(declared)
    return _MESSAGES.get(details["type"], _FALLBACK).format(
        choices=_choices(expected),
        error=details.get("ctx", {}).get("error"),
        found=_found(details, written, declared),
        least=_bound(expected, "ge"),
        most=_bound(expected, "le"),
        value=_value(details["input"], written),
    )


def _value(value: Any, written: str) -> str:
    return shown(value) if isinstance(value, str) else _kind(value, written)


def _found(details: ErrorDetails, written: str, declared: Sequence[Any]) -> str:
    """What is there instead of the expected type, with the remedy if it is one of quotes, brackets or dashes."""
    value, error = details["input"], details["type"]
    found = _kind(value, written)
    if error == "string_type" and isinstance(value, (bool, int, float)):
        return f'{found}: write it in quotes, "{written}"'
    if error in {"bool_type", "int_type"} and isinstance(value, str):
        return f"{found}: write it without quotes" if _is_literal_of(value, error) else found
    if error == "tuple_type":
        items = tuple(inner for kind in _flattened(declared) for inner in _inside(kind, _INDEX))
        if isinstance(value, str):
            return f"{found}: write {as_list(value, lambda item: not _refusal(items, item))}"
        if isinstance(value, (bool, int, float)):
            return f"{found}: write {json.dumps([written]) if not _refusal(items, written) else f'[{written}]'}"
        if isinstance(value, dict) and any(map(_is_section, _flattened(items))):
            return f"{found}: write a dash before its first key, and indent the others alike"
    return found


def _refusal(declared: Sequence[Any], value: str) -> str:
    """Why a string is refused at a place with these declarations; empty if it is accepted."""
    for each in declared:
        kind: Any = each
        if isinstance(each, FieldInfo):
            kind = Annotated[each.annotation, *each.metadata] if each.metadata else each.annotation
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            details = error.errors(include_url=False)[0]
            return str(details.get("ctx", {}).get("error") or details["msg"])
    return ""


def _is_literal_of(text: str, error: str) -> bool:
    """Whether a string would be a value of the expected type without its quotes."""
    return text.isdecimal() if error == "int_type" else text in {"true", "false"}


def _kind(value: Any, written: str) -> str:
    match value:
        case bool():
            return f"{written} (read as {'true' if value else 'false'})"
        case int() | float():
            return f"the number {shown(value)}"
        case str():
            return f"the string {shown(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _right_key(where: Where, root: type[BaseModel]) -> str:
    """A hint for an unknown key: where it belongs, the key here that is most like it, or all keys here."""
    section, name = where[:-1], str(where[-1])
    keys = tuple(key for kind in _flattened(_declared(section, root)) for key, _ in _fields(kind))
    close, places = closest(name, keys), _places(name, section, root)
    beside = [place for place in places if place.where[:1] == section[:1]]
    if close and section:  # another part of the file has a key of this name by chance
        places = beside
    if places:
        belongs = f"{name} belongs in {' or '.join(map(str, (beside or places)[:_MAX_PLACES]))}"
        return f"{belongs}, or did you mean {close}?" if close and section else belongs
    return f"did you mean {close}?" if close else f"write one of {', '.join(keys)}"


class _Place(NamedTuple):
    """A section, by the keys that lead to it."""

    where: Where

    def __str__(self) -> str:
        parts = ("[]" if part == _INDEX else f".{part}" for part in self.where)
        return "".join(parts).removeprefix(".") or "the top level"


def _places(name: str, near: Where, root: type[BaseModel]) -> list[_Place]:
    """The sections that have a key of this name, those first that share most of their place with ``near``.

    A section within another one of them is left out.
    """
    known = tuple(_INDEX if isinstance(part, int) else part for part in near)
    found: list[_Place] = []
    for where in sorted(_sections_with(name, root), key=lambda where: (-_shared(where, known), len(where))):
        if not any(where[: len(each.where)] == each.where for each in found):
            found.append(_Place(where))
    return found


def _shared(one: Where, other: Where) -> int:
    """The number of leading parts that two places share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a not in {b, _ANY_KEY}), min(len(one), len(other)))


def _sections_with(name: str, kind: Any, where: Where = ()) -> Iterator[Where]:
    """The places of all sections that have a key of this name."""
    for part in _flat(kind):
        if any(key == name for key, _ in _fields(part)):
            yield where
        for key, inner in _fields(part):
            yield from _sections_with(name, inner, (*where, key))
        if get_origin(part) is tuple:
            yield from _sections_with(name, get_args(part)[0], (*where, _INDEX))
        elif get_origin(part) is dict:
            yield from _sections_with(name, get_args(part)[1], (*where, _ANY_KEY))


def _fields(kind: Any) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a section with their declarations; none of anything else."""
    if _is_section(kind):
        yield from ((field.alias or name, field) for name, field in kind.model_fields.items())


def _declared(where: Where, root: type[BaseModel]) -> tuple[Any, ...]:
    """The declarations at a place: fields of sections, or types of items."""
    declared: tuple[Any, ...] = (root,)
    for part in where:
        declared = tuple(inner for kind in _flattened(declared) for inner in _inside(kind, part))
    return declared


def _flattened(declared: Iterable[Any]) -> tuple[Any, ...]:
    """What declarations accept: the alternative types and their metadata."""
    return tuple(kind for each in declared for kind in _flat(each))


def _inside(kind: Any, part: str | int) -> Iterator[Any]:
    """What the model expects under a key, or at an index of a list."""
    if _is_section(kind):
        yield from (field for name, field in _fields(kind) if part == name)
    elif get_origin(kind) is tuple:
        yield get_args(kind)[0]
    elif get_origin(kind) is dict:
        yield get_args(kind)[1]


def _flat(kind: Any) -> Iterator[Any]:
    if isinstance(kind, FieldInfo):
        yield from _flat(kind.annotation)
        yield from kind.metadata
    elif get_origin(kind) in {Annotated, Union, UnionType}:
        for part in get_args(kind):
            yield from _flat(part)
    else:
        yield kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _choices(expected: Iterable[Any]) -> str:
    """The values of a literal, as written in YAML."""
    values = [value for kind in expected if get_origin(kind) is Literal for value in get_args(kind)]
    written = [str(value).lower() if isinstance(value, bool) else shown(value) for value in values]
    return " or ".join(filter(None, (", ".join(written[:-1]), *written[-1:])))


def _bound(expected: Iterable[Any], side: Literal["ge", "le"]) -> int | None:
    return next((getattr(part, side) for part in expected if hasattr(part, side)), None)

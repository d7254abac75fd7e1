"""Turns pydantic's findings into messages of our own.

Owns every message about a single key that its value's validator does not raise. A message says on one line what is
wrong and what would be right, and never points to another project's pages. Of pydantic's findings only the type and the
place are used; what would be right comes from our own model.
"""

from __future__ import annotations

import difflib
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from authz_service.config.document import Problem
from authz_service.config.model import Settings
from authz_service.config.values import EMPTY
from authz_service.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import ValidationError
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
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"write one of {', '.join(names)}"


def _follows(details: ErrorDetails) -> bool:
    # pydantic reports a list whose items are all refused as empty, too.
    return details["type"] == "too_short" and len(details["input"]) > 0


def _message(details: ErrorDetails, where: Where, document: Document, root: type[BaseModel]) -> str:
    if details["type"] == "extra_forbidden":
        return f"is not a key here: {nearest(str(where[-1]), _keys(details['loc'][:-1], root))}"
    if details["input"] is None and details["type"] != "value_error":
        return EMPTY
    written = document.written.get(where, "")
    expected = _expected(details["loc"], root)
    return _MESSAGES.get(details["type"], _FALLBACK).format(
        choices=_choices(expected),
        error=details.get("ctx", {}).get("error"),
        found=_found(details, written),
        least=_bound(expected, "ge"),
        most=_bound(expected, "le"),
        value=_value(details["input"], written),
    )


def _value(value: Any, written: str) -> str:
    return shown(value) if isinstance(value, str) else _kind(value, written)


def _found(details: ErrorDetails, written: str) -> str:
    """What is there instead of the expected type, with the remedy where it is a matter of quotes or brackets."""
    value, error = details["input"], details["type"]
    found = _kind(value, written)
    if error == "string_type" and isinstance(value, (bool, int, float)):
        return f'{found}: write it in quotes, "{written}"'
    if error in {"bool_type", "int_type"} and isinstance(value, str):
        return f"{found}: write it without quotes" if _is_literal_of(value, error) else found
    return f"{found}: put it in brackets, [ ]" if error == "tuple_type" and isinstance(value, str) else found


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


def _keys(where: Where, root: type[BaseModel]) -> tuple[str, ...]:
    """The keys of the section at a place."""
    sections = (kind for kind in _expected(where, root) if _is_section(kind))
    return tuple(field.alias or name for section in sections for name, field in section.model_fields.items())


def _expected(where: Where, root: type[BaseModel]) -> tuple[Any, ...]:
    """What the model expects at a place: the alternative types and their metadata."""
    kinds: tuple[Any, ...] = (root,)
    for part in where:
        kinds = tuple(kind for outer in kinds for inner in _inside(outer, part) for kind in _flat(inner))
    return kinds


def _inside(kind: Any, part: str | int) -> Iterator[Any]:
    """What the model expects under a key, or at an index of a list."""
    if _is_section(kind):
        yield from (field for name, field in kind.model_fields.items() if part == (field.alias or name))
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

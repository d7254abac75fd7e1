"""Turns pydantic's findings into messages of our own.

Owns every message about a single key that its value's validator does not raise. A message says on one line what is
wrong and what would be right, and never points to another project's pages. Of pydantic's findings only the type and the
place are used; what would be right comes from our own model.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from authz_service.config.declarations import INDEX, flattened, inside, is_section
from authz_service.config.declarations import declared as declared_at
from authz_service.config.document import Problem
from authz_service.config.key_hints import right_key
from authz_service.config.model import Settings
from authz_service.config.values import EMPTY, as_list
from authz_service.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic import BaseModel
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


def _follows(details: ErrorDetails) -> bool:
    # pydantic reports a list whose items are all refused as empty, too.
    return details["type"] == "too_short" and len(details["input"]) > 0


def _message(details: ErrorDetails, where: Where, document: Document, root: type[BaseModel]) -> str:
    if details["type"] == "extra_forbidden":
        return f"is not a key here: {right_key(details['loc'], root)}"
    if details["input"] is None and details["type"] != "value_error":
        return EMPTY if root is Settings or len(details["loc"]) > 1 else "is empty: write [] for none"
    written = document.written(where)
    declared = declared_at(details["loc"], root)
    if details["type"] == "string_type" and written and (refusal := _refusal(declared, written)):
        return refusal  # quotes alone would not make it valid
    expected = flattened(declared)
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
        items = tuple(inner for kind in flattened(declared) for inner in inside(kind, INDEX))
        if isinstance(value, str):
            return f"{found}: write {as_list(value, lambda item: not _refusal(items, item))}"
        if isinstance(value, (bool, int, float)):
            return f"{found}: write {json.dumps([written]) if not _refusal(items, written) else f'[{written}]'}"
        if isinstance(value, dict) and any(map(is_section, flattened(items))):
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
            read = str(value).lower()
            return read if written == read else f"{written} (read as {read})"
        case int() | float():
            return f"the number {shown(value)}"
        case str():
            return f"the string {shown(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _choices(expected: Iterable[Any]) -> str:
    """The values of a literal, as written in YAML."""
    values = [value for kind in expected if get_origin(kind) is Literal for value in get_args(kind)]
    written = [str(value).lower() if isinstance(value, bool) else shown(value) for value in values]
    return " or ".join(filter(None, (", ".join(written[:-1]), *written[-1:])))


def _bound(expected: Iterable[Any], side: Literal["ge", "le"]) -> int | None:
    return next((getattr(part, side) for part in expected if hasattr(part, side)), None)

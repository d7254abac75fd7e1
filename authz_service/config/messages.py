"""What pydantic found, in our words.

Law: every text that an operator reads about a single key comes from here or from the validator of its value. It says
what is wrong and what would be right, on one line, and never points to another project's pages.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from authz_service.config.document import Problem
from authz_service.config.model import Section, Settings
from authz_service.config.values import EMPTY, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from authz_service.config.document import Document, Where

_OF_THE_KEY = "[key]"  # how pydantic says that it means a mapping's key, not the value under it

# By pydantic's error type; what is not here keeps pydantic's own text.
_TEXTS = {
    "bool_type": "must be true or false, not {found}",
    "dict_type": "must be a mapping, lines of the form `key: value`, not {found}",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be a whole number, not {found}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "{value} is not accepted: write {expected}",
    "missing": "is required: add it",
    "model_type": "must be a mapping, lines of the form `key: value`, not {found}",
    "string_type": "must be a text, not {found}",
    "too_short": "is empty: give at least one",
    "tuple_type": "must be a list, not {found}",
    "value_error": "{error}",
}


def problems(error: ValidationError, document: Document, root: type[Section] = Settings) -> Iterator[Problem]:
    """One problem for each thing that pydantic found, but for what merely follows from another one.

    ``root`` is the section that the document as a whole was validated as.
    """
    known = {problem.where for problem in document.problems}
    for details in error.errors(include_url=False):
        where = document.place(tuple(part for part in details["loc"] if part != _OF_THE_KEY))
        if where not in known and not _follows(details):
            yield Problem(where, _text(details, where, document, root))


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not one of ``names``: the one that was perhaps meant, or all there are."""
    names = tuple(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"write one of {', '.join(names)}"


def _follows(details: ErrorDetails) -> bool:
    # A list whose items are all refused is then found to be empty.
    return details["type"] == "too_short" and len(details["input"]) > 0


def _text(details: ErrorDetails, where: Where, document: Document, root: type[Section]) -> str:
    if details["type"] == "extra_forbidden":
        return f"is not a key here: {nearest(str(where[-1]), _keys(where[:-1], root))}"
    template = _TEXTS.get(details["type"])
    if template is None:
        return " ".join(details["msg"].split())
    if details["input"] is None and details["type"] != "value_error":
        return EMPTY
    written = document.written.get(where, "")
    value = _value(details["input"], written)
    context = details.get("ctx", {})
    if details["type"] == "literal_error":  # booleans as YAML has them
        context = {"expected": context["expected"].replace("True", "true").replace("False", "false")}
    return template.format(**context, found=_found(details, written), value=value)


def _value(value: Any, written: str) -> str:
    return shown(value) if isinstance(value, str) else _kind(value, written)


def _found(details: ErrorDetails, written: str) -> str:
    """What stands there instead of the type that is wanted; and what would be right, where quotes decide it."""
    value, wanted = details["input"], details["type"]
    found = _kind(value, written)
    if wanted == "string_type" and isinstance(value, (bool, int, float)):
        return f'{found}: write it in quotes, "{written}"'
    if wanted in {"bool_type", "int_type"} and isinstance(value, str):
        return f"{found}: write it without quotes" if _would_do(value, wanted) else found
    return f"{found}: put it in brackets, [ ]" if wanted == "tuple_type" and isinstance(value, str) else found


def _would_do(text: str, wanted: str) -> bool:
    return text.isdecimal() if wanted == "int_type" else text in {"true", "false"}


def _kind(value: Any, written: str) -> str:
    match value:
        case bool():
            return f"{written} (read as {'true' if value else 'false'})"
        case int() | float():
            return f"the number {shown(value)}"
        case str():
            return f"the text {shown(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _keys(where: Where, section: type[Section]) -> tuple[str, ...]:
    """The keys of the section at a place within another one."""
    for part in where:
        field = section.model_fields.get(str(part))  # none for a place in a list and for a name that is free
        section = (field and _section(field.annotation)) or section
    return tuple(field.alias or name for name, field in section.model_fields.items())


def _section(annotation: Any) -> type[Section] | None:
    """The section that a type holds: itself, or within ``... | None`` or a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section(part))), None)

"""The messages about findings: on one line, what is wrong and what would be right.

Owns every message about a single key that its value's own check does not raise.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from authz_service.config.document import Problem
from authz_service.config.key_hints import right_key
from authz_service.config.kinds import Flag, Many, OneOf, Text, Whole, walk
from authz_service.config.model import Settings
from authz_service.config.sections import SectionKind
from authz_service.config.values import EMPTY, as_list
from authz_service.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz_service.config.document import Document
    from authz_service.config.kinds import Finding, Invalid, Kind
    from authz_service.config.sections import Section

_MAX_HINTS = 100  # for unknown keys in one file, as each hint takes milliseconds


def problems(invalid: Invalid, document: Document, root: type[Section] = Settings) -> Iterator[Problem]:
    """One problem for each finding, except at places that have one already.

    ``root`` is the section that the document as a whole was read as.
    """
    known = {problem.where for problem in document.problems}
    hints = 0
    for finding in invalid.findings:
        if finding.where in known:
            continue
        if isinstance(finding.kind, SectionKind) and finding.fault == "unknown key":
            hint = right_key(finding.where, finding.kind.section, root) if hints < _MAX_HINTS else "remove it"
            hints += 1
            yield Problem(finding.where, f"is not a key here: {hint}")
        else:
            yield Problem(finding.where, _message(finding, document.written(finding.where), root))


def _message(finding: Finding, written: str, root: type[Section]) -> str:  # noqa: PLR0911 - a case for each fault
    value = finding.value
    match finding.fault, finding.kind:
        case "missing key", _:
            return "is required: add it"
        case "empty", _:
            return EMPTY if root is Settings or len(finding.where) > 1 else "is empty: write [] for none"
        case "wrong type", Text() as kind if written and (refusal := _refusal(kind, written)):
            return refusal  # quotes alone would not make it valid
        case "wrong type", kind:
            return f"must be {kind.noun}, not {_found(value, kind, written)}"
        case "not a choice", OneOf(choices=choices):
            found = shown(value) if isinstance(value, str) else _described(value, written)
            return f"{found} is not accepted: write {_either(choices)}"
        case "too small", Whole(minimum=minimum):
            return f"must be at least {minimum}"
        case "too large", Whole(maximum=maximum):
            return f"must be at most {maximum}"
        case "no members", _:
            return "is empty: give at least one"
        case "same name", _:
            return f"is the same name as {shown(value)}, since case does not count: remove one"
        case _:
            return finding.text


def _found(value: Any, kind: Kind[Any], written: str) -> str:  # noqa: PLR0911 - a case for each remedy
    """What is there instead of the expected type, with the remedy if it is one of quotes, brackets or dashes."""
    found = _described(value, written)
    match kind:
        case Text() if isinstance(value, (bool, int, float)):
            return f'{found}: write it in quotes, "{written}"'
        case Flag() if value in ("true", "false"):
            return f"{found}: write it without quotes"
        case Whole() if isinstance(value, str) and value.isdecimal():
            return f"{found}: write it without quotes"
        case Many(item=item) if isinstance(value, str):
            return f"{found}: write {as_list(value, item.accepts)}"
        case Many(item=item) if isinstance(value, (bool, int, float)):
            return f"{found}: write {json.dumps([written]) if item.accepts(written) else f'[{written}]'}"
        case Many(item=item) if isinstance(value, dict) and _has_section(item):
            return f"{found}: write a dash before its first key, and indent the others alike"
    return found


def _has_section(item: Kind[Any]) -> bool:
    return any(isinstance(kind, SectionKind) for where, kind in walk(item) if not where)


def _refusal(kind: Text[Any], value: str) -> str:
    """Why a string is refused; empty if it is accepted."""
    try:
        kind.read(value)
    except ValueError as error:
        return str(error)
    return ""


def _described(value: Any, written: str) -> str:
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


def _either(choices: Sequence[Any]) -> str:
    """The values that are accepted, as written in YAML."""
    written = [str(value).lower() if isinstance(value, bool) else shown(value) for value in choices]
    return " or ".join(filter(None, (", ".join(written[:-1]), *written[-1:])))

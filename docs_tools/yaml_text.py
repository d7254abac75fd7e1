"""Values as YAML for people: as it would be written by hand."""

from __future__ import annotations

import json
import re
from typing import Any


def flow(value: Any) -> str:
    """A value in one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{flow(name)}: {flow(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(flow, value)) + "]"
        case str() if re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./:+@-]*(?<!:)", value) and not _is_other(value):
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def tree(value: dict[str, Any]) -> str:
    """A mapping in lines: inner mappings too, and lists of them."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, each in value.items():
        if isinstance(each, dict) and each:
            lines += [f"{flow(name)}:", *(f"  {line}" for line in _lines(each))]
        elif isinstance(each, list) and any(isinstance(item, dict) for item in each):
            lines.append(f"{flow(name)}:")
            for item in each:
                first, *others = _lines(item)
                lines += [f"  - {first}", *(f"    {line}" for line in others)]
        else:
            lines.append(f"{flow(name)}: {flow(each)}")
    return lines


def _is_other(value: str) -> bool:
    """Whether YAML reads a plain string as another type."""
    return re.fullmatch(r"(?i)[0-9.+-]+|true|false|yes|no|on|off|null|~", value) is not None

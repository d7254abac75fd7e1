"""What ``require`` means, written as plainly as possible: the twin of the compiled rules.

It reads the configuration as written, computes everything again for each token, and knows no reasons.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass
class Request:
    """A request, with its headers in the order in which they were sent."""

    captures: Mapping[str, str] = field(default_factory=dict)
    headers: Sequence[tuple[str, str]] = ()


@dataclass
class Token:
    """A valid token."""

    issuer: str
    client: str
    audiences: set[str]
    scopes: set[str]
    claims: dict[str, Any]


def admits(
    require: Mapping[str, Any],
    token: Token,
    request: Request,
    audiences: Mapping[str, Sequence[str]],
    scope_implies: Mapping[str, Sequence[str]],
) -> bool:
    """Whether a token meets a rule's ``require``. ``audiences`` are those of each issuer."""
    ways = [(require, alternative) for alternative in require["any_of"]] if "any_of" in require else [(require,)]
    return any(_way_admits(way, token, request, audiences[token.issuer], scope_implies) for way in ways)


def _way_admits(
    way: Sequence[Mapping[str, Any]],
    token: Token,
    request: Request,
    audiences: Sequence[str],
    scope_implies: Mapping[str, Sequence[str]],
) -> bool:
    named = [part["audiences"] for part in way if "audiences" in part] or [audiences]
    return all(token.audiences & set(each) for each in named) and all(
        _part_admits(part, token, request, scope_implies) for part in way
    )


def _part_admits(
    part: Mapping[str, Any], token: Token, request: Request, scope_implies: Mapping[str, Sequence[str]]
) -> bool:
    held = _with_implied(token.scopes, scope_implies)
    scopes = part.get("scopes", {})
    written = {"all": scopes} if isinstance(scopes, list) else scopes
    required = {kind: [_filled(scope, request) for scope in each] for kind, each in written.items()}
    return (
        ("issuers" not in part or token.issuer in part["issuers"])
        and ("acr_values" not in part or token.claims.get("acr") in part["acr_values"])
        and ("clients" not in part or token.client in part["clients"])
        and ("proof" not in part or bool(_BINDINGS[part["proof"]] & token.claims.get("cnf", {}).keys()))
        and held >= set(required.get("all", ()))
        and ("any" not in required or bool(held & set(required["any"])))
        and not held & set(required.get("none", ()))
        and all(meets(token.claims, path, each, request) for path, each in part.get("claims", {}).items())
    )


_BINDINGS = {"any": {"jkt", "x5t#S256"}, "dpop": {"jkt"}, "mtls": {"x5t#S256"}}


def _with_implied(scopes: set[str], scope_implies: Mapping[str, Sequence[str]]) -> set[str]:
    further = scopes.union(*(scope_implies.get(scope, ()) for scope in scopes))
    return scopes if further == scopes else _with_implied(further, scope_implies)


def _filled(scope: str, request: Request) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: request.captures.get(name[1], name[0]), scope, flags=re.ASCII)


def meets(claims: Mapping[str, Any], path: str, condition: Any, request: Request) -> bool:
    """Whether the claim at a dotted path meets a condition as the configuration writes it."""
    value: Any = claims
    for escaped in re.findall(r"(?:[^.\\]|\\.)+", path):
        if value is None:
            break
        if not isinstance(value, dict):
            return False
        value = value.get(re.sub(r"\\(.)", r"\1", escaped))
    ((operator, expected),) = condition.items() if isinstance(condition, dict) else [("equals", condition)]
    if operator.endswith(("_path", "_header")):
        text = request.captures[expected] if operator.endswith("_path") else _header(request, expected)
        return text != "" and _is_or_has(operator, value, text)
    items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    return _OPERATORS[operator](value, items, expected)


_OPERATORS: dict[str, Callable[[Any, list[Any], Any], bool]] = {
    "equals": lambda value, _, expected: _same(value, expected),
    "in": lambda value, _, expected: any(_same(value, each) for each in expected),
    "contains": lambda _, items, expected: any(_same(item, expected) for item in items),
    "contains_any": lambda _, items, expected: any(_same(item, each) for item in items for each in expected),
    "contains_all": lambda _, items, expected: all(any(_same(item, each) for item in items) for each in expected),
    "prefix": lambda _, items, start: any(isinstance(item, str) and item[: len(start)] == start for item in items),
    "suffix": lambda _, items, end: any(isinstance(item, str) and item[-len(end) :] == end for item in items),
    "present": lambda value, _, __: value is not None,
    "absent": lambda value, _, __: value is None,
}


def _is_or_has(operator: str, value: Any, text: str) -> bool:
    if operator.startswith("contains") and isinstance(value, list):
        return any(_is_or_has("equals", item, text) for item in value)
    if isinstance(value, str):
        return value == text
    return type(value) is int and json.dumps(value) == text


def _same(value: Any, expected: Any) -> bool:
    """JSON has one kind of number."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, (int, float)) and isinstance(expected, (int, float)):
        return value == expected
    return isinstance(value, str) and value == expected


def _header(request: Request, name: str) -> str:
    """The one value of a header; empty if there is none, or not exactly one."""
    name = name.lower()
    alike = [other for other, _ in request.headers if _folded(other) == _folded(name)]
    values = [value.strip(" \t") for other, value in request.headers if other == name]
    if len(alike) != 1 or len(values) != 1:
        return ""
    (value,) = values
    plain = value == value.strip() and "," not in value and "\ufffd" not in value
    return value if plain and all(c == "\t" or (c >= " " and not "\x7f" <= c <= "\x9f") for c in value) else ""


def _folded(name: str) -> str:
    """A header's name as servers that follow CGI read it."""
    return "".join(each if each.isalnum() else "-" for each in name)

"""JSON objects that need much memory for their length: for each shape, a function of the length in bytes."""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DEEP = 29  # levels; the maximum is 32


def _list_of(items: Iterable[str]) -> Callable[[int], str]:
    """A list of as many of these items as fit, in turn."""
    parts = list(items)

    def of_length(length: int) -> str:
        left, items = length - len('{"a":[]}'), []
        for part in cycle(parts):
            left -= len(part.encode()) + 1
            if left < 0:
                break
            items.append(part)
        return '{"a":[' + ",".join(items) + "]}"

    return of_length


def _members(length: int) -> str:
    return "{" + ",".join(islice((f'"{number:04x}":0' for number in range(1 << 16)), length // 9)) + "}"


def _scopes(length: int) -> str:
    """The shortest scopes with more than one character, because Python shares single characters."""
    return json.dumps({"scope": " ".join(f"{number:03x}" for number in range(0x100, 0x100 + length // 4))})


SHAPES: dict[str, Callable[[int], str]] = {
    "almost empty": lambda _length: '{"a":0}',
    "one string": lambda length: json.dumps({"a": "x" * (length - 8)}),
    "a string with four bytes per character": lambda length: '{"a":"\U0001f600' + "x" * (length - 12) + '"}',
    "empty objects": _list_of(["{}"]),
    "empty lists": _list_of(["[]"]),
    "objects of one member": _list_of(['{"":0}']),
    "nested objects": _list_of(['{"":' * _DEEP + "0" + "}" * _DEEP]),
    "zeros": _list_of(["0"]),
    "numbers": _list_of(str(number) for number in range(300, 900)),
    "fractions": _list_of(["1e1"]),
    "short strings": _list_of(f'"{number:02x}"' for number in range(256)),
    "strings with two bytes per character": _list_of(['"\u0100"']),
    "members": _members,
    "scopes": _scopes,
}

"""JSON objects of a given length that cost as much memory as their shape can make them cost.

Of each shape, a function of the length in bytes.
"""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DEEP = 29  # levels: no JSON that is nested deeper than 32 is accepted


def _list_of(items: Iterable[str]) -> Callable[[int], str]:
    """As many of these, again and again, as fit."""
    texts = list(items)

    def made(length: int) -> str:
        left, taken = length - len('{"a":[]}'), []
        for text in cycle(texts):
            left -= len(text.encode()) + 1
            if left < 0:
                break
            taken.append(text)
        return '{"a":[' + ",".join(taken) + "]}"

    return made


def _members(length: int) -> str:
    return "{" + ",".join(islice((f'"{number:04x}":0' for number in range(1 << 16)), length // 9)) + "}"


def _scopes(length: int) -> str:
    """Each of the shortest that are no single letters, of which Python keeps one for all."""
    return json.dumps({"scope": " ".join(f"{number:03x}" for number in range(0x100, 0x100 + length // 4))})


SHAPES: dict[str, Callable[[int], str]] = {
    "nearly nothing": lambda _length: '{"a":0}',
    "one text": lambda length: json.dumps({"a": "x" * (length - 8)}),
    "a text that is four times as wide": lambda length: '{"a":"\U0001f600' + "x" * (length - 12) + '"}',
    "empty objects": _list_of(["{}"]),
    "empty lists": _list_of(["[]"]),
    "objects of one member": _list_of(['{"":0}']),
    "nested objects": _list_of(['{"":' * _DEEP + "0" + "}" * _DEEP]),
    "zeros": _list_of(["0"]),
    "numbers": _list_of(str(number) for number in range(300, 900)),
    "fractions": _list_of(["1e1"]),
    "short texts": _list_of(f'"{number:02x}"' for number in range(256)),
    "wide texts": _list_of(['"\u0100"']),
    "members": _members,
    "scopes": _scopes,
}

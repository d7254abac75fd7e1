"""The memory that a value parsed from JSON takes.

A token's length is a poor measure of it: sixteen bytes of nested empty objects become more than five hundred. So the
objects are counted, once, when a value enters a cache; a hit counts nothing.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any

_ASCII = getsizeof("")  # bytes of a string besides its characters, if it has only ASCII
_ROUNDING = 8  # bytes that the allocator adds to an object on average: it hands out multiples of 16
STRING = _ASCII + _ROUNDING
_SEQUENCES = frozenset({list, tuple, frozenset})


def footprint(value: Any) -> int:
    """Bytes of a value and everything in it: strings, numbers, lists, tuples, sets and dictionaries.

    A value that occurs twice is counted twice, and so are small numbers, which Python shares: the estimate is never too
    low.
    """
    size = 0
    found = [value]
    for item in found:  # the list grows during the loop
        kind = type(item)
        if kind is str and item.isascii():
            size += len(item) + _ASCII
            continue
        size += getsizeof(item)
        if kind is dict:
            found += item
            found += item.values()
        elif kind in _SEQUENCES:
            found += item
    return size + _ROUNDING * len(found)

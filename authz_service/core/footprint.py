"""What a value that was parsed from JSON costs in memory.

Pure. A token's text says little about it: sixteen bytes of nested empty objects become more than five hundred. So the
members are counted, once, when something is put into a cache; a hit counts nothing.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any

_ROUNDING = 8  # bytes that the allocator adds to an object on average: it hands out multiples of 16
_SEQUENCES = frozenset({list, tuple, frozenset})


def footprint(value: Any) -> int:
    """Bytes of a value and of everything in it: strings, numbers, lists, tuples, sets and dictionaries.

    What stands in it twice is counted twice, and so are small numbers, of which Python keeps one for all: the true cost
    is never more.
    """
    found = [value]
    for item in found:  # which grows meanwhile
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            found += item
            found += item.values()
        elif kind in _SEQUENCES:
            found += item
    return sum(map(getsizeof, found)) + _ROUNDING * len(found)

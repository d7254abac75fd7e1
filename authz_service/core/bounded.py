"""A map with two bounds, entries and bytes; and an account by which an entry grows after it was put in.

The oldest entry is evicted first. An entry is heavy if it takes more than ``HEAVY_FACTOR`` times the average size that
the two bounds allow. While heavy entries take more than half of the bytes, the oldest of them is evicted first: large
tokens displace other large ones, and half of the bytes stays for the small.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator

K = TypeVar("K")
V = TypeVar("V")

HEAVY_FACTOR = 4


class Bounds(NamedTuple):
    """How much a map may hold; whichever is reached first counts."""

    max_entries: int
    max_bytes: int  # the sum of what the entries were put in with and have grown by


NO_CACHE = Bounds(0, 0)


class _Portion(Generic[K]):
    """The sizes of some of the entries, in the order in which they are evicted."""

    __slots__ = ("bytes", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[K, int] = {}
        self.bytes = 0

    def add(self, key: K, size: int) -> None:
        """Add an entry that the portion does not have."""
        self.sizes[key] = size
        self.bytes += size

    def remove(self, key: K) -> int:
        size = self.sizes.pop(key, 0)
        self.bytes -= size
        return size


class BoundedMap(Generic[K, V]):
    """Values by key, each with its size in bytes."""

    def __init__(self, bounds: Bounds) -> None:
        self._max_entries, self._max_bytes = bounds
        self._max_light = HEAVY_FACTOR * self._max_bytes // max(self._max_entries, 1)
        self._values: dict[K, V] = {}
        self.get: Callable[[K], V | None] = self._values.get  # the dictionary's own: a lookup must cost nothing more
        self._light: _Portion[K] = _Portion()
        self._heavy: _Portion[K] = _Portion()
        self._bytes_elsewhere = 0  # of entries that a subclass keeps in another form

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        """The keys, the oldest first."""
        return iter(self._values)

    @property
    def used_bytes(self) -> int:
        """The size of all entries."""
        return self._light.bytes + self._heavy.bytes + self._bytes_elsewhere

    def items(self) -> ItemsView[K, V]:
        """Keys and values, the oldest first."""
        return self._values.items()

    def size(self, key: K) -> int:
        """The size of an entry; 0 if there is none."""
        return self._portion_of(key).sizes.get(key, 0)

    def put(self, key: K, value: V, size: int) -> None:
        """Add or replace an entry, as the youngest. One larger than ``max_bytes`` is not added."""
        if key in self._values:
            self.discard(key)
        if self._max_entries == 0 or size > self._max_bytes:
            return
        if len(self._values) >= self._max_entries:
            self.discard(next(iter(self._values)))
        self._values[key] = value
        (self._light if size <= self._max_light else self._heavy).add(key, size)
        self._evict()

    def grow(self, key: K, more: int) -> None:
        """Add to the size of an entry, or subtract from it. Does nothing if the entry was evicted."""
        if key not in self._values:
            return
        portion = self._heavy if key in self._heavy.sizes else self._light
        portion.sizes[key] += more
        portion.bytes += more
        if portion is self._light and portion.sizes[key] > self._max_light:
            self._heavy.add(key, portion.remove(key))
        self._evict()

    def discard(self, key: K) -> None:
        """Remove an entry, if there is one."""
        if key in self._values:
            del self._values[key]
            self._portion_of(key).remove(key)

    def clear(self) -> None:
        """Remove every entry."""
        self._values.clear()
        self._light, self._heavy = _Portion(), _Portion()

    def _portion_of(self, key: K) -> _Portion[K]:
        return self._heavy if key in self._heavy.sizes else self._light

    def _evict(self) -> None:
        while self._light.bytes + self._heavy.bytes + self._bytes_elsewhere > self._max_bytes:
            self._evict_one()

    def _evict_one(self) -> None:
        from_heavy = self._heavy_take_too_much or not self._light.sizes
        self.discard(next(iter((self._heavy if from_heavy else self._light).sizes)))

    @property
    def _heavy_take_too_much(self) -> bool:
        return self._heavy.bytes > self._max_bytes // 2


class Account:
    """Charges the entry that holds a value for what is cached with the value later.

    It refers to the map weakly, so that an evicted entry is freed at once and not by the collector of cycles.
    """

    __slots__ = ("_key", "_map", "charged")

    def __init__(self) -> None:
        self.charged = 0  # bytes
        self._map: weakref.ref[BoundedMap[Any, Any]] | None = None
        self._key: Any = None

    def bind(self, entries: BoundedMap[K, Any], key: K) -> None:
        """Charge the entry with this key from now on."""
        self._map, self._key = weakref.ref(entries), key

    def charge(self, more: int) -> None:
        """Add to what the entry is charged, if there is one."""
        self.charged += more
        entries = None if self._map is None else self._map()
        if entries is not None:
            entries.grow(self._key, more)

    def refund(self) -> None:
        """Take back everything that was charged."""
        self.charge(-self.charged)

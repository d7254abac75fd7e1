"""A map that is bounded twice, by its entries and by their bytes; and the account on which an entry grows.

Pure. The oldest entry is evicted first. An entry is heavy when it takes more than ``HEAVY`` times what each could have
if there were as many as there may be. As long as the heavy ones take more than half of the bytes, they are evicted, the
oldest of them first: whoever holds large tokens displaces other large ones, and half of the bytes is left for the rest.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator

K = TypeVar("K")
V = TypeVar("V")

HEAVY = 4  # times the average size that the two bounds allow


class Bounds(NamedTuple):
    """What a map may hold, whichever is met first."""

    max_entries: int
    max_bytes: int  # the sum of the sizes that the entries were put in with and have grown to since


NOTHING = Bounds(0, 0)


class _Share(Generic[K]):
    """The sizes of some of the entries, in the order in which they are evicted."""

    __slots__ = ("bytes", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[K, int] = {}
        self.bytes = 0

    def add(self, key: K, size: int) -> None:
        self.sizes[key] = self.sizes.get(key, 0) + size
        self.bytes += size

    def remove(self, key: K) -> int:
        size = self.sizes.pop(key, 0)
        self.bytes -= size
        return size


class BoundedMap(Generic[K, V]):
    """Values by key, with what each costs."""

    def __init__(self, bounds: Bounds) -> None:
        self._max_entries, self._max_bytes = bounds
        self._max_light = HEAVY * self._max_bytes // max(self._max_entries, 1)
        self._values: dict[K, V] = {}
        self.get: Callable[[K], V | None] = self._values.get  # the dictionary's own: looking must cost nothing more
        self._light: _Share[K] = _Share()
        self._heavy: _Share[K] = _Share()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        """The keys, the oldest first."""
        return iter(self._values)

    @property
    def used_bytes(self) -> int:
        """What all entries cost."""
        return self._light.bytes + self._heavy.bytes

    def items(self) -> ItemsView[K, V]:
        """Keys and values, the oldest first."""
        return self._values.items()

    def size(self, key: K) -> int:
        """What an entry costs; 0 where there is none."""
        return self._share_of(key).sizes.get(key, 0)

    def put(self, key: K, value: V, size: int) -> None:
        """Put in an entry that costs so many bytes, as the youngest. One larger than ``max_bytes`` is not kept."""
        self.discard(key)
        if self._max_entries == 0 or size > self._max_bytes:
            return
        if len(self._values) >= self._max_entries:
            self.discard(next(iter(self._values)))
        self._values[key] = value
        (self._light if size <= self._max_light else self._heavy).add(key, size)
        self._make_room()

    def grow(self, key: K, more: int) -> None:
        """An entry costs so many bytes more, or less. Nothing happens where it was evicted already."""
        if key not in self._values:
            return
        share = self._share_of(key)
        share.add(key, more)
        if share is self._light and share.sizes[key] > self._max_light:
            self._heavy.add(key, share.remove(key))
        self._make_room()

    def discard(self, key: K) -> None:
        """Take an entry out, if it is there."""
        if key in self._values:
            del self._values[key]
            self._share_of(key).remove(key)

    def clear(self) -> None:
        """Take out every entry."""
        self._values.clear()
        self._light, self._heavy = _Share(), _Share()

    def _share_of(self, key: K) -> _Share[K]:
        return self._heavy if key in self._heavy.sizes else self._light

    def _make_room(self) -> None:
        while self._light.bytes + self._heavy.bytes > self._max_bytes:
            crowded = self._heavy.bytes > self._max_bytes // 2 or not self._light.sizes
            self.discard(next(iter((self._heavy if crowded else self._light).sizes)))


class Account:
    """What is made of an entry's value later on, and kept with it, is charged here.

    It knows the map by a weak reference: an evicted entry is freed at once, and not by the collector of cycles.
    """

    __slots__ = ("_key", "_map", "charged")

    def __init__(self) -> None:
        self.charged = 0  # bytes
        self._map: weakref.ref[BoundedMap[Any, Any]] | None = None
        self._key: Any = None

    @property
    def charged_to(self) -> BoundedMap[Any, Any] | None:
        """The map whose entry is charged, as long as there is one."""
        return None if self._map is None else self._map()

    def open(self, entries: BoundedMap[K, Any], key: K) -> None:
        """From now on the entry with this key is charged."""
        self._map, self._key = weakref.ref(entries), key

    def charge(self, more: int) -> None:
        """So many bytes more are kept with the value."""
        self.charged += more
        entries = self.charged_to
        if entries is not None:
            entries.grow(self._key, more)

    def refund(self) -> None:
        """What was charged is kept no longer."""
        self.charge(-self.charged)

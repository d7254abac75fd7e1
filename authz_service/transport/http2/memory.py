"""A limit on the memory of all connections of the process: for unfinished requests and for responses not yet sent.

Invariants: each connection may use a guaranteed amount. Beyond it, it may use at most as much of the shared amount as
it leaves to the others: one greedy connection takes half of it (16 MiB), many take all of it, and none takes what is
guaranteed to another.
"""

from __future__ import annotations

from typing import Final

MAX_CONNECTIONS: Final = 1024
GUARANTEED: Final = 32 << 10  # octets, for each connection
SHARED: Final = 32 << 20  # octets, for all together


class Memory:
    """The octets that connections share."""

    def __init__(self, *, shared: int = SHARED, guaranteed: int = GUARANTEED) -> None:
        self.shared = shared
        self.guaranteed = guaranteed
        self.used = 0  # of the shared octets


class Share:
    """The octets that one connection uses."""

    __slots__ = ("_memory", "used")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.used = 0

    def has_room(self, octets: int) -> bool:
        """Whether so many more may be used."""
        beyond = self.used + octets - self._memory.guaranteed
        return beyond <= 0 or beyond <= self._memory.shared - self._memory.used

    def add(self, octets: int) -> None:
        """Count so many more; fewer, where the number is negative."""
        before = self._beyond
        self.used += octets
        self._memory.used += self._beyond - before

    def close(self) -> None:
        """Release everything."""
        self.add(-self.used)

    @property
    def _beyond(self) -> int:
        return max(self.used - self._memory.guaranteed, 0)

"""What connections keep of what peers sent, and of what peers have not read: one bound for all of a process.

Invariants: each connection may keep what it is sure of. Beyond that it may keep as much of what they share as is left
for the others. So one that hoards takes half of it, many take all of it, and none takes what another one is sure of.
"""

from __future__ import annotations

from typing import Final

MAX_CONNECTIONS: Final = 1024
SURE: Final = 32 << 10  # octets
SHARED: Final = 32 << 20  # octets, for all together


class Memory:
    """The octets that connections share."""

    def __init__(self, *, shared: int = SHARED, sure: int = SURE) -> None:
        """``sure`` is what each connection may keep beside."""
        self.shared = shared
        self.sure = sure
        self.used = 0  # of those that are shared


class Share:
    """What one connection keeps."""

    __slots__ = ("_memory", "held")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held = 0  # octets

    def fits(self, octets: int) -> bool:
        """Whether so many more may be kept."""
        beyond = self.held + octets - self._memory.sure
        return beyond <= 0 or beyond <= self._memory.shared - self._memory.used

    def hold(self, octets: int) -> None:
        """Keep so many more; fewer, where it is negative."""
        before = self._beyond
        self.held += octets
        self._memory.used += self._beyond - before

    def close(self) -> None:
        """Keep nothing."""
        self.hold(-self.held)

    @property
    def _beyond(self) -> int:
        return max(self.held - self._memory.sure, 0)

"""How much of the event loop's time all connections to providers take together.

A provider that sends what is expensive to read costs itself time, and no decision: what it sent is read in small steps,
and once a turn of the loop has spent its share, the remaining steps wait for the next turns.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MAX_TURN: Final = 0.001  # seconds of one turn of the event loop, after which no further step begins


class Pace:
    """``async with pace:`` around each step, which must not await anything. Belongs to one event loop."""

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        """``timer`` gives seconds of a clock that is never set."""
        self._timer = timer
        self._spent = 0.0
        self._begun = 0.0
        self._turn_counts = False  # whether the next turn will find this one's time to forget
        self._queue = asyncio.Lock()  # who waits longest goes first

    async def __aenter__(self) -> Self:
        """Wait until the turn has time left."""
        if self._spent >= MAX_TURN or self._queue.locked():
            async with self._queue:
                while self._spent >= MAX_TURN:  # noqa: ASYNC110 - see below
                    await asyncio.sleep(0)  # which is a turn of the loop: what is waited for
        if not self._turn_counts:
            self._turn_counts = True
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._begun = self._timer()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the step's time."""
        self._spent += self._timer() - self._begun

    def _begin_turn(self) -> None:
        self._spent = 0.0
        self._turn_counts = False

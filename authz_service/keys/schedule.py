"""When an issuer's next scheduled fetch is due."""

from __future__ import annotations

import asyncio
import contextlib
import math


class FetchSchedule:
    """Keeps the time by two clocks: the wall clock, which callers know, and the loop's, which cannot be set."""

    def __init__(self) -> None:
        self.due_at = -math.inf  # by the wall clock
        self._due_at_loop_time = -math.inf
        self._changed = asyncio.Event()

    def set(self, delay: float, now: float) -> None:
        """The next fetch is due in ``delay`` seconds. ``now`` is the time by the wall clock."""
        self.due_at = now + delay
        self._due_at_loop_time = asyncio.get_running_loop().time() + delay
        self._changed.set()

    async def wait(self) -> None:
        """Wait until the next fetch is due, even if ``set`` changes the time meanwhile."""
        loop = asyncio.get_running_loop()
        while (delay := self._due_at_loop_time - loop.time()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._changed.wait()

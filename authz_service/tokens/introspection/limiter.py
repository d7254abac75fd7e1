"""A bound on concurrent requests that keeps tokens which cannot be invented from queueing behind those which can.

There are two kinds of request. *Proven* tokens were vouched for by their issuer: many of them are many sessions, while
many others may come from one attacker. So each kind has its own queue, both take turns, and a quarter of the slots is
reserved for proven tokens, but no more slots than there are proven tokens.

All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_RESERVED = 4  # one slot in this many is reserved for proven tokens


class Limiter:
    """Slots for requests, and one queue for each kind."""

    def __init__(self, slots: int, proven_tokens: Callable[[], int]) -> None:
        """``proven_tokens`` returns how many there are."""
        self._slots = slots
        self._proven_tokens = proven_tokens
        self._used = {True: 0, False: 0}
        self._queues: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        self._last_admitted = False  # the kind that left a queue last

    @contextlib.asynccontextmanager
    async def slot(self, *, proven: bool, first: bool = False) -> AsyncIterator[None]:
        """Wait for a slot and hold it. ``first`` goes to the head of its queue."""
        await self._acquire(proven=proven, first=first)
        try:
            yield
        finally:
            self._release(proven=proven)

    async def _acquire(self, *, proven: bool, first: bool) -> None:
        queue = self._queues[proven]
        if not queue and self._is_free(proven=proven):
            self._used[proven] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            queue.appendleft(turn)
        else:
            queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it got its slot in the same turn of the loop in which it was canceled
                self._release(proven=proven)
            elif turn in queue:
                queue.remove(turn)
            raise

    def _release(self, *, proven: bool) -> None:
        self._used[proven] -= 1
        while self._admit_next():
            pass

    def _admit_next(self) -> bool:
        """Give a free slot to the head of a queue, if possible of the kind that was not admitted last."""
        for proven in (not self._last_admitted, self._last_admitted):
            queue = self._queues[proven]
            while queue and queue[0].cancelled():
                queue.popleft()
            if queue and self._is_free(proven=proven):
                self._used[proven] += 1
                self._last_admitted = proven
                queue.popleft().set_result(None)
                return True
        return False

    def _is_free(self, *, proven: bool) -> bool:
        if sum(self._used.values()) >= self._slots:
            return False
        return proven or self._used[False] < self._slots - min(self._slots // _RESERVED, self._proven_tokens())

"""A bound on concurrent calls, in which tokens that cannot be invented do not queue behind those that can.

There are two kinds of call. ``proven`` ones are about tokens that their issuer has vouched for: a crowd of them is a
crowd of sessions, while a crowd of the others may be anybody's. So each kind has a queue of its own, the two take turns
where both wait, and a quarter of the slots stays free for proven tokens, but no more slots than there are such tokens.

All in the event loop, without threads and locks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_RESERVED = 4  # one slot in so many is reserved for proven tokens


class Limiter:
    """Slots for calls, and the two queues for them."""

    def __init__(self, slots: int, proven_tokens: Callable[[], int]) -> None:
        """``proven_tokens`` returns how many there are."""
        self._slots = slots
        self._proven_tokens = proven_tokens
        self._used = {True: 0, False: 0}
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        self._last = False  # the kind that got the last slot for which it had to wait

    @contextlib.asynccontextmanager
    async def slot(self, *, proven: bool, first: bool = False) -> AsyncIterator[None]:
        """Wait for a slot, and hold it: behind all that wait of this kind, or as the ``first`` of them."""
        await self._acquire(proven=proven, first=first)
        try:
            yield
        finally:
            self._release(proven=proven)

    async def _acquire(self, *, proven: bool, first: bool) -> None:
        waiting = self._waiting[proven]
        if not waiting and self._is_free(proven=proven):
            self._used[proven] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            waiting.appendleft(turn)
        else:
            waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn came at the moment at which it was given up
                self._release(proven=proven)
            elif turn in waiting:
                waiting.remove(turn)
            raise

    def _release(self, *, proven: bool) -> None:
        self._used[proven] -= 1
        while self._admit_next():
            pass

    def _admit_next(self) -> bool:
        """Give a slot to the next that waits, of the kind that did not get the last one if possible."""
        for proven in (not self._last, self._last):
            waiting = self._waiting[proven]
            while waiting and waiting[0].cancelled():
                waiting.popleft()
            if waiting and self._is_free(proven=proven):
                self._used[proven] += 1
                self._last = proven
                waiting.popleft().set_result(None)
                return True
        return False

    def _is_free(self, *, proven: bool) -> bool:
        if sum(self._used.values()) >= self._slots:
            return False
        return proven or self._used[False] < self._slots - min(self._slots // _RESERVED, self._proven_tokens())

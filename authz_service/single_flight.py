"""Concurrent callers that need the same result share one task.

Owns who waits for a task and who may join it; not what the task does, when it runs, or how long its result is valid.
It uses the event loop, so it is not in ``core``.

Invariants: a caller that is canceled cancels neither the task nor other callers, and leaving costs the same however
many others wait. A task runs to its end even when no caller is left: what it fetches is cached for the next one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

T = TypeVar("T")


class SharedTaskCancelledError(Exception):
    """The shared task was canceled; its caller was not."""


class SharedTask(Generic[T]):
    """A task that runs once, and the callers that wait for it. Belongs to one event loop."""

    def __init__(self, work: Coroutine[Any, Any, T], *, name: str, on_done: Callable[[], None] | None = None) -> None:
        """``on_done`` is called once the task is done, before any caller continues."""
        # One future per caller: a future's own list of callbacks is searched from the start when a caller leaves.
        self._callers: set[asyncio.Future[None]] = set()
        self._on_done = on_done
        self._task = asyncio.create_task(work, name=name)
        self._task.add_done_callback(self._done)

    @property
    def is_done(self) -> bool:
        """Whether it has returned, failed or been canceled."""
        return self._task.done()

    async def wait(self) -> None:
        """Wait until it is done, whether it succeeds or not."""
        if self._task.done():
            return
        caller: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers.add(caller)
        try:
            await caller
        finally:
            self._callers.discard(caller)

    async def result(self) -> T:
        """Wait for its result.

        Raises:
            SharedTaskCancelledError: when it was canceled.
            Exception: whatever the task raised.
        """
        await self.wait()
        if self._task.cancelled():
            raise SharedTaskCancelledError(self._task.get_name())
        return self._task.result()

    async def cancel(self) -> None:
        """Cancel it and wait for its end."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def _done(self, task: asyncio.Task[T]) -> None:
        if self._on_done is not None:
            self._on_done()
            self._on_done = None  # or it and this would hold each other, and the result, until a collection of cycles
        if not task.cancelled():
            task.exception()  # retrieved: asyncio need not report a failure after the last caller has left
        for caller in self._callers:
            if not caller.done():
                caller.set_result(None)


class SingleFlight(Generic[T]):
    """At most one joinable task per key."""

    def __init__(self) -> None:
        self._joinable: dict[Hashable, SharedTask[T]] = {}
        self._running: set[SharedTask[T]] = set()

    def __len__(self) -> int:
        """How many tasks are running."""
        return len(self._running)

    def get(self, key: Hashable) -> SharedTask[T] | None:
        """The task that a caller with this key would join."""
        return self._joinable.get(key)

    def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> SharedTask[T]:
        """The task for this key, started when there is none."""
        task = self._joinable.get(key)
        if task is None or task.is_done:
            task = self._start(key, work(), name)
        return task

    def _start(self, key: Hashable, work: Coroutine[Any, Any, T], name: str) -> SharedTask[T]:
        task = SharedTask(work, name=name, on_done=lambda: self._remove(key, task))
        self._joinable[key] = task
        self._running.add(task)
        return task

    def _remove(self, key: Hashable, task: SharedTask[T]) -> None:
        self._running.discard(task)
        if self._joinable.get(key) is task:
            del self._joinable[key]

    def detach(self, key: Hashable) -> None:
        """Make the next caller start another task beside the one for this key, which goes on for its callers."""
        del self._joinable[key]

    async def close(self) -> None:
        """Cancel all tasks and wait for their end."""
        await asyncio.gather(*(task.cancel() for task in self._running))

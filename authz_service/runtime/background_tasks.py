"""Tasks that run beside the decisions until the service ends.

A task that fails is logged and ends nothing else: decisions continue with what the task last provided.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from authz_service.telemetry.logs import fields

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

_logger = logging.getLogger("authz.app")


class BackgroundTasks:
    """The background tasks of one service."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop alone would not keep them alive

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a coroutine in a task of this name."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    async def close(self) -> None:
        """Cancel every task and wait until all have ended."""
        await cancel_all(list(self._tasks))


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel these tasks and wait until all have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _logger.critical("background task failed", exc_info=task.exception(), extra=fields(task=task.get_name()))

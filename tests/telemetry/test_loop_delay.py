"""What holds the event loop is seen."""

from __future__ import annotations

import asyncio
import time

from authz_service.telemetry.loop_delay import watch_delay


async def delay_while(seconds: float) -> float:
    """What is told while the loop is held for so long."""
    told: asyncio.Queue[float] = asyncio.Queue()
    watch = asyncio.create_task(watch_delay(told.put_nowait, time.perf_counter))
    await asyncio.sleep(0)  # it sleeps now
    time.sleep(seconds)  # noqa: ASYNC251 - this is what must be seen
    delay = await told.get()
    watch.cancel()
    return delay


async def test_a_loop_that_is_held_is_late_by_as_long_as_it_was_held_beyond_its_time() -> None:
    assert await delay_while(0.75) >= 0.5


async def test_it_is_never_early() -> None:
    assert await delay_while(0) >= 0

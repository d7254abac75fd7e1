"""A blocked event loop is measured."""

from __future__ import annotations

import asyncio
import time

from authz_service.telemetry.event_loop_delay import observe_delay


async def delay_while(seconds: float) -> float:
    """The delay that is observed while the event loop is blocked for this time."""
    delays: asyncio.Queue[float] = asyncio.Queue()
    watch = asyncio.create_task(observe_delay(delays.put_nowait, time.perf_counter))
    await asyncio.sleep(0)  # it sleeps now
    time.sleep(seconds)  # noqa: ASYNC251 - this is what must be seen
    delay = await delays.get()
    watch.cancel()
    return delay


async def test_the_delay_is_the_time_that_the_event_loop_was_blocked_after_the_timer_was_due() -> None:
    assert await delay_while(0.75) >= 0.5


async def test_a_delay_is_never_negative() -> None:
    assert await delay_while(0) >= 0

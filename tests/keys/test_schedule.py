"""The next fetch is awaited until it is due, however often the time changes."""

from __future__ import annotations

import asyncio

import pytest

from authz_service.keys.schedule import FetchSchedule
from support.virtual_time import in_virtual_time

EPOCH = 1_800_000_000.0


@in_virtual_time
async def test_the_first_fetch_is_due_at_once() -> None:
    await FetchSchedule().wait()
    assert asyncio.get_running_loop().time() == 0.0


@pytest.mark.parametrize("delay", [1.0, 100.0])
@in_virtual_time
async def test_a_fetch_is_awaited_until_it_is_due_even_if_it_is_rescheduled_earlier_or_later(delay: float) -> None:
    schedule = FetchSchedule()
    schedule.set(10.0, EPOCH)
    waiting = asyncio.create_task(schedule.wait())
    await asyncio.sleep(5.0)
    schedule.set(delay, EPOCH + 5.0)
    await waiting
    assert asyncio.get_running_loop().time() == 5.0 + delay
    assert schedule.due_at == EPOCH + 5.0 + delay


@in_virtual_time
async def test_setting_the_wall_clock_does_not_change_how_long_it_takes() -> None:
    schedule = FetchSchedule()
    for now in (EPOCH, -EPOCH, 2 * EPOCH):
        started = asyncio.get_running_loop().time()
        schedule.set(10.0, now)
        await schedule.wait()
        assert asyncio.get_running_loop().time() - started == 10.0

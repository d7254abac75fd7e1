"""Concurrent callers share one task; a caller that leaves disturbs no other."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from authz_service.single_flight import SharedTask, SharedTaskCancelledError, SingleFlight
from support.virtual_time import in_virtual_time


class Work:
    """Counts how often it runs; each run takes a second and returns its number, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.runs = 0
        self.completed = 0
        self._failure = failure

    async def __call__(self) -> int:
        self.runs += 1
        number = self.runs
        await asyncio.sleep(1)
        self.completed += 1
        if self._failure is not None:
            raise self._failure
        return number


class Result:
    """What a task returns."""


@in_virtual_time
async def test_concurrent_callers_with_one_key_share_one_run_and_its_result() -> None:
    flights, work = SingleFlight[int](), Work()
    results = await asyncio.gather(*(flights.join("a", work, name="work").result() for _ in range(20)))
    assert results == [1] * 20
    assert (len(flights), flights.get("a")) == (0, None)


@in_virtual_time
async def test_a_result_is_freed_with_its_last_user_without_a_collection_of_cycles() -> None:
    flight: SingleFlight[Result] = SingleFlight()

    async def work() -> Result:
        return Result()

    gc.disable()
    try:
        result = weakref.ref(await flight.join("key", work, name="work").result())
        await asyncio.sleep(0)
        assert result() is None
    finally:
        gc.enable()


@in_virtual_time
async def test_each_key_has_a_run_of_its_own() -> None:
    flights, work = SingleFlight[int](), Work()
    results = await asyncio.gather(*(flights.join(key, work, name="work").result() for key in "abab"))
    assert results == [1, 2, 1, 2]


@in_virtual_time
async def test_a_caller_after_the_end_starts_another_run() -> None:
    flights, work = SingleFlight[int](), Work()
    first = flights.join("a", work, name="work")
    assert await first.result() == 1
    assert await flights.join("a", work, name="work").result() == 2
    assert await first.result() == 1


@in_virtual_time
async def test_concurrent_callers_share_a_failure() -> None:
    flights, work = SingleFlight[int](), Work(ValueError("no luck"))
    tasks = [flights.join("a", work, name="work") for _ in range(3)]
    outcomes = await asyncio.gather(*(task.result() for task in tasks), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no luck"] * 3
    assert work.runs == 1


@in_virtual_time
async def test_waiting_without_a_result_does_not_raise_the_failure() -> None:
    task = SharedTask(Work(ValueError("no luck"))(), name="work")
    await task.wait()
    assert task.is_done


@in_virtual_time
async def test_a_cancelled_caller_cancels_neither_the_task_nor_the_other_callers() -> None:
    flights, work = SingleFlight[int](), Work()
    staying, leaving = (asyncio.create_task(flights.join("a", work, name="work").result()) for _ in range(2))
    await asyncio.sleep(0.5)
    leaving.cancel()
    assert await staying == 1
    assert leaving.cancelled()


@in_virtual_time
async def test_a_task_that_every_caller_has_left_runs_to_its_end_and_its_failure_is_not_reported() -> None:
    flights, work = SingleFlight[int](), Work(ValueError("no luck"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await flights.join("a", work, name="work").result()
    await asyncio.sleep(1)
    gc.collect()  # asyncio would report the failure when it frees the task, and in_virtual_time fails on a report
    assert work.completed == 1


@in_virtual_time
async def test_a_detached_task_goes_on_beside_the_one_that_the_next_caller_starts() -> None:
    flights, work = SingleFlight[int](), Work()
    first = flights.join("a", work, name="work")
    await asyncio.sleep(0.5)
    flights.detach("a")
    second = flights.join("a", work, name="work")
    assert len(flights) == 2
    assert await first.result() == 1
    assert flights.get("a") is second
    assert await second.result() == 2


@in_virtual_time
@pytest.mark.parametrize("begun", [True, False])
async def test_closing_cancels_all_tasks_and_their_callers_learn_it(*, begun: bool) -> None:
    flights, work = SingleFlight[int](), Work()
    tasks = [flights.join(key, work, name="work") for key in "abc"]
    flights.detach("a")
    if begun:
        await asyncio.sleep(0.5)
    calls = [asyncio.create_task(task.result()) for task in tasks]
    await asyncio.sleep(0)
    await flights.close()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SharedTaskCancelledError] * 3
    assert (work.completed, len(flights)) == (0, 0)

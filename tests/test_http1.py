"""Parsing takes a bounded share of each turn of the event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from authz_service.http1 import MAX_TURN_TIME, TurnBudget
from support.virtual_time import VirtualTimeLoop, in_virtual_time


class Turns:
    """Records the turn of the event loop in which each step runs. Its clock advances by ``cost`` with each step."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.now = 0.0
        self.steps: list[tuple[int, str]] = []  # the turn, and the name of the worker

    async def work(self, budget: TurnBudget, name: str, steps: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for _ in range(steps):
            async with budget:
                self.steps.append((loop.turns, name))
                self.now += self.cost


async def run_workers(turns: Turns, *names: str, steps: int) -> None:
    budget = TurnBudget(lambda: turns.now)
    await asyncio.gather(*(turns.work(budget, name, steps) for name in names))


def max_steps_in_a_turn(turns: Turns) -> int:
    return max(Counter(turn for turn, _ in turns.steps).values())


@in_virtual_time
async def test_a_step_that_spends_the_budget_is_the_only_one_of_its_turn() -> None:
    turns = Turns(1.5 * MAX_TURN_TIME)
    await run_workers(turns, *"abcdefghij", steps=10)
    assert len(turns.steps) == 100
    assert max_steps_in_a_turn(turns) == 1


@in_virtual_time
async def test_short_steps_share_a_turn_until_the_budget_is_spent() -> None:
    turns = Turns(0.3 * MAX_TURN_TIME)
    await run_workers(turns, *"abcdefghij", steps=10)
    assert max_steps_in_a_turn(turns) == 4


@in_virtual_time
async def test_waiting_steps_run_in_order_so_none_starves() -> None:
    turns = Turns(1.5 * MAX_TURN_TIME)
    await run_workers(turns, *"abc", steps=20)
    order = [name for _, name in turns.steps]
    for name in "abc":
        gaps = [index for index, each in enumerate(order) if each == name]
        assert max(later - earlier for earlier, later in itertools.pairwise(gaps)) <= 4


@in_virtual_time
async def test_steps_within_the_budget_do_not_wait() -> None:
    turns = Turns(0.0)
    await run_workers(turns, "a", steps=1000)
    assert {turn for turn, _ in turns.steps} == {turns.steps[0][0]}


@in_virtual_time
async def test_the_time_of_a_step_that_fails_counts() -> None:
    turns = Turns(1.5 * MAX_TURN_TIME)
    budget = TurnBudget(lambda: turns.now)

    async def fail() -> None:
        async with budget:
            turns.now += turns.cost
            raise ValueError

    outcomes = await asyncio.gather(fail(), turns.work(budget, "a", 1), fail(), return_exceptions=True)
    assert [type(each) for each in outcomes] == [ValueError, type(None), ValueError]
    assert [turn - turns.steps[0][0] for turn, _ in turns.steps] == [0]
    assert turns.now == 3 * turns.cost


@in_virtual_time
async def test_a_cancelled_step_does_not_delay_the_others() -> None:
    turns = Turns(1.5 * MAX_TURN_TIME)
    budget = TurnBudget(lambda: turns.now)
    working = [asyncio.create_task(turns.work(budget, name, 1)) for name in "abcd"]
    await asyncio.sleep(0)
    assert [name for _, name in turns.steps] == ["a"]
    working[1].cancel()
    working[2].cancel()
    await asyncio.wait(working)
    assert [name for _, name in turns.steps] == ["a", "d"]

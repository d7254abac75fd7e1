"""All providers together get a bounded part of each turn of the event loop."""

from __future__ import annotations

import asyncio
import itertools

from keys.virtual_time import VirtualTimeLoop, in_virtual_time

from authz_service.providers.pace import MAX_TURN, Pace


class Turns:
    """Notes in which turn of the event loop each step is done, and is a clock that each step moves on by ``cost``."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.now = 0.0
        self.steps: list[tuple[int, str]] = []  # the turn of each step, and whose it was

    async def work(self, pace: Pace, name: str, steps: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for _ in range(steps):
            async with pace:
                self.steps.append((loop.turns, name))
                self.now += self.cost


async def worked(turns: Turns, *names: str, steps: int) -> None:
    pace = Pace(lambda: turns.now)
    await asyncio.gather(*(turns.work(pace, name, steps) for name in names))


def most_in_a_turn(turns: Turns) -> int:
    of_turn = [turn for turn, _ in turns.steps]
    return max(of_turn.count(turn) for turn in of_turn)


@in_virtual_time
async def test_a_step_that_takes_a_whole_turns_share_is_the_only_one_of_its_turn() -> None:
    turns = Turns(1.5 * MAX_TURN)
    await worked(turns, *"abcdefghij", steps=10)
    assert len(turns.steps) == 100
    assert most_in_a_turn(turns) == 1


@in_virtual_time
async def test_steps_that_take_less_share_a_turn_up_to_its_share() -> None:
    turns = Turns(0.3 * MAX_TURN)
    await worked(turns, *"abcdefghij", steps=10)
    assert most_in_a_turn(turns) == 4


@in_virtual_time
async def test_who_waits_longest_goes_first_so_that_none_is_starved() -> None:
    turns = Turns(1.5 * MAX_TURN)
    await worked(turns, *"abc", steps=20)
    order = [name for _, name in turns.steps]
    for name in "abc":
        gaps = [index for index, each in enumerate(order) if each == name]
        assert max(later - earlier for earlier, later in itertools.pairwise(gaps)) <= 4


@in_virtual_time
async def test_where_nobody_takes_long_nobody_waits() -> None:
    turns = Turns(0.0)
    await worked(turns, "a", steps=1000)
    assert {turn for turn, _ in turns.steps} == {turns.steps[0][0]}


@in_virtual_time
async def test_a_step_that_fails_counts() -> None:
    turns = Turns(1.5 * MAX_TURN)
    pace = Pace(lambda: turns.now)

    async def fail() -> None:
        async with pace:
            turns.now += turns.cost
            raise ValueError

    outcomes = await asyncio.gather(fail(), turns.work(pace, "a", 1), fail(), return_exceptions=True)
    assert [type(each) for each in outcomes] == [ValueError, type(None), ValueError]
    assert [turn - turns.steps[0][0] for turn, _ in turns.steps] == [0]
    assert turns.now == 3 * turns.cost


@in_virtual_time
async def test_who_gives_up_waiting_holds_nobody_up() -> None:
    turns = Turns(1.5 * MAX_TURN)
    pace = Pace(lambda: turns.now)
    working = [asyncio.create_task(turns.work(pace, name, 1)) for name in "abcd"]
    await asyncio.sleep(0)
    assert [name for _, name in turns.steps] == ["a"]
    working[1].cancel()
    working[2].cancel()
    await asyncio.wait(working)
    assert [name for _, name in turns.steps] == ["a", "d"]

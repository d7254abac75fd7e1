"""Slots are bounded, both kinds of call get them in turn, and some stay free for proven tokens."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.tokens.introspection.limiter import Limiter
from support.virtual_time import in_virtual_time


class Crowd:
    """Calls that hold a slot until the test lets them go."""

    def __init__(self, slots: int, proven: int = 0) -> None:
        self.proven = proven
        self.limiter = Limiter(slots, lambda: self.proven)
        self.inside: list[str] = []  # in the order in which they got a slot
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def comes(self, name: str, *, proven: bool = False, first: bool = False) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, proven=proven, first=first))
        await settle()

    async def _stay(self, name: str, **kind: bool) -> None:
        async with self.limiter.slot(**kind):
            self.inside.append(name)
            await self.ends[name].wait()
        self.inside.remove(name)

    async def goes(self, name: str) -> None:
        self.ends[name].set()
        await settle()

    async def gives_up(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert self.limiter._used == {True: 0, False: 0}
        assert not any(self.limiter._queues.values())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@in_virtual_time
async def test_requests_beyond_the_slots_follow_in_order() -> None:
    crowd = Crowd(2)
    for name in "abcd":
        await crowd.comes(name)
    assert crowd.inside == ["a", "b"]
    await crowd.goes("b")
    assert crowd.inside == ["a", "c"]
    await crowd.goes("a")
    assert crowd.inside == ["c", "d"]
    await crowd.end()


@in_virtual_time
async def test_both_kinds_take_turns() -> None:
    crowd = Crowd(1)
    for name in ("u1", "u2", "u3", "u4"):
        await crowd.comes(name)
    for name in ("p1", "p2"):
        await crowd.comes(name, proven=True)
    order = []
    while crowd.inside:
        order += crowd.inside
        await crowd.goes(crowd.inside[0])
    assert order == ["u1", "p1", "u2", "p2", "u3", "u4"]
    await crowd.end()


@in_virtual_time
async def test_first_goes_to_the_head_of_its_queue() -> None:
    crowd = Crowd(1)
    for name in "abc":
        await crowd.comes(name, proven=True)
    await crowd.comes("probe", proven=True, first=True)
    await crowd.goes("a")
    assert crowd.inside == ["probe"]
    await crowd.end()


@in_virtual_time
async def test_a_quarter_of_the_slots_is_reserved_for_proven_tokens() -> None:
    crowd = Crowd(8, proven=1000)
    for number in range(20):
        await crowd.comes(f"u{number}")
    assert len(crowd.inside) == 6
    for name in ("p1", "p2", "p3"):
        await crowd.comes(name, proven=True)
    assert crowd.inside[6:] == ["p1", "p2"]
    await crowd.end()


@in_virtual_time
async def test_no_more_slots_are_reserved_than_there_are_proven_tokens() -> None:
    for proven, free in ((0, 0), (1, 1), (2, 2), (3, 2)):
        crowd = Crowd(8, proven=proven)
        for number in range(20):
            await crowd.comes(f"u{number}")
        assert len(crowd.inside) == 8 - free
        await crowd.end()


@in_virtual_time
async def test_proven_tokens_may_use_every_slot() -> None:
    crowd = Crowd(4, proven=1000)
    for number in range(5):
        await crowd.comes(f"p{number}", proven=True)
    assert len(crowd.inside) == 4
    await crowd.end()


@in_virtual_time
async def test_a_canceled_request_leaves_its_queue() -> None:
    crowd = Crowd(1)
    for name in "abc":
        await crowd.comes(name)
    await crowd.gives_up("b")
    await crowd.goes("a")
    assert crowd.inside == ["c"]
    await crowd.end()


@in_virtual_time
async def test_a_request_that_is_canceled_as_it_gets_its_slot_releases_it() -> None:
    crowd = Crowd(1)
    for name in "abc":
        await crowd.comes(name)
    crowd.ends["a"].set()
    await asyncio.sleep(0)  # a leaves, and b has the place and does not know yet
    assert crowd.limiter._queues[False]
    await crowd.gives_up("b")
    assert crowd.inside == ["c"]
    await crowd.end()


_STEP = st.tuples(st.sampled_from(["come", "go", "give up"]), st.booleans(), st.integers(0, 50))


@settings(max_examples=100, deadline=None)
@given(st.lists(_STEP, max_size=60), st.integers(1, 5), st.integers(0, 3))
def test_slots_are_bounded_and_no_request_waits_while_one_is_free(
    steps: list[tuple[str, bool, int]], slots: int, proven: int
) -> None:
    @in_virtual_time
    async def story() -> None:
        crowd = Crowd(slots, proven)
        kept = min(slots // 4, proven)
        kinds: dict[str, bool] = {}
        for number, (step, kind, which) in enumerate(steps):
            living = [name for name, task in crowd.tasks.items() if not task.done()]
            match step:
                case "come":
                    kinds[str(number)] = kind
                    await crowd.comes(str(number), proven=kind)
                case "go" if crowd.inside:
                    await crowd.goes(crowd.inside[which % len(crowd.inside)])
                case "give up" if living:
                    name = living[which % len(living)]
                    await crowd.gives_up(name)
                    if name in crowd.inside:
                        crowd.inside.remove(name)
            inside: Counter[bool] = Counter(kinds[name] for name in crowd.inside)
            assert inside.total() <= slots
            assert inside[False] <= slots - kept
            waiting: dict[bool, Any] = crowd.limiter._queues
            assert not waiting[True] or inside.total() == slots
            assert not waiting[False] or inside.total() == slots or inside[False] == slots - kept
        await crowd.end()

    story()

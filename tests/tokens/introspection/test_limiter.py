"""Slots are bounded, both kinds of request take turns, and some slots are reserved for proven tokens."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.tokens.introspection.limiter import Limiter
from support.virtual_time import in_virtual_time


class Requests:
    """Requests that hold a slot until the test ends them."""

    def __init__(self, slots: int, proven: int = 0) -> None:
        self.proven = proven
        self.limiter = Limiter(slots, lambda: self.proven)
        self.with_slot: list[str] = []  # in the order in which they got it
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, *, proven: bool = False, first: bool = False) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, proven=proven, first=first))
        await settle()

    async def _run(self, name: str, **kind: bool) -> None:
        async with self.limiter.slot(**kind):
            self.with_slot.append(name)
            await self.ends[name].wait()
        self.with_slot.remove(name)

    async def finish(self, name: str) -> None:
        self.ends[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def close(self) -> None:
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
    requests = Requests(2)
    for name in "abcd":
        await requests.start(name)
    assert requests.with_slot == ["a", "b"]
    await requests.finish("b")
    assert requests.with_slot == ["a", "c"]
    await requests.finish("a")
    assert requests.with_slot == ["c", "d"]
    await requests.close()


@in_virtual_time
async def test_both_kinds_take_turns() -> None:
    requests = Requests(1)
    for name in ("u1", "u2", "u3", "u4"):
        await requests.start(name)
    for name in ("p1", "p2"):
        await requests.start(name, proven=True)
    order = []
    while requests.with_slot:
        order += requests.with_slot
        await requests.finish(requests.with_slot[0])
    assert order == ["u1", "p1", "u2", "p2", "u3", "u4"]
    await requests.close()


@in_virtual_time
async def test_first_goes_to_the_head_of_its_queue() -> None:
    requests = Requests(1)
    for name in "abc":
        await requests.start(name, proven=True)
    await requests.start("probe", proven=True, first=True)
    await requests.finish("a")
    assert requests.with_slot == ["probe"]
    await requests.close()


@in_virtual_time
async def test_a_quarter_of_the_slots_is_reserved_for_proven_tokens() -> None:
    requests = Requests(8, proven=1000)
    for number in range(20):
        await requests.start(f"u{number}")
    assert len(requests.with_slot) == 6
    for name in ("p1", "p2", "p3"):
        await requests.start(name, proven=True)
    assert requests.with_slot[6:] == ["p1", "p2"]
    await requests.close()


@in_virtual_time
async def test_no_more_slots_are_reserved_than_there_are_proven_tokens() -> None:
    for proven, free in ((0, 0), (1, 1), (2, 2), (3, 2)):
        requests = Requests(8, proven=proven)
        for number in range(20):
            await requests.start(f"u{number}")
        assert len(requests.with_slot) == 8 - free
        await requests.close()


@in_virtual_time
async def test_proven_tokens_may_use_every_slot() -> None:
    requests = Requests(4, proven=1000)
    for number in range(5):
        await requests.start(f"p{number}", proven=True)
    assert len(requests.with_slot) == 4
    await requests.close()


@in_virtual_time
async def test_a_canceled_request_leaves_its_queue() -> None:
    requests = Requests(1)
    for name in "abc":
        await requests.start(name)
    await requests.cancel("b")
    await requests.finish("a")
    assert requests.with_slot == ["c"]
    await requests.close()


@in_virtual_time
async def test_a_request_that_is_canceled_as_it_gets_its_slot_releases_it() -> None:
    requests = Requests(1)
    for name in "abc":
        await requests.start(name)
    requests.ends["a"].set()
    await asyncio.sleep(0)  # a released its slot; b holds it and has not run yet
    assert requests.limiter._queues[False]
    await requests.cancel("b")
    assert requests.with_slot == ["c"]
    await requests.close()


_STEP = st.tuples(st.sampled_from(["start", "finish", "cancel"]), st.booleans(), st.integers(0, 50))


@settings(max_examples=100, deadline=None)
@given(st.lists(_STEP, max_size=60), st.integers(1, 5), st.integers(0, 3))
def test_slots_are_bounded_and_no_request_waits_while_one_is_free(
    steps: list[tuple[str, bool, int]], slots: int, proven: int
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        requests = Requests(slots, proven)
        reserved = min(slots // 4, proven)
        kinds: dict[str, bool] = {}
        for number, (step, kind, which) in enumerate(steps):
            living = [name for name, task in requests.tasks.items() if not task.done()]
            match step:
                case "start":
                    kinds[str(number)] = kind
                    await requests.start(str(number), proven=kind)
                case "finish" if requests.with_slot:
                    await requests.finish(requests.with_slot[which % len(requests.with_slot)])
                case "cancel" if living:
                    name = living[which % len(living)]
                    await requests.cancel(name)
                    if name in requests.with_slot:
                        requests.with_slot.remove(name)
            inside: Counter[bool] = Counter(kinds[name] for name in requests.with_slot)
            assert inside.total() <= slots
            assert inside[False] <= slots - reserved
            waiting: dict[bool, Any] = requests.limiter._queues
            assert not waiting[True] or inside.total() == slots
            assert not waiting[False] or inside.total() == slots or inside[False] == slots - reserved
        await requests.close()

    scenario()

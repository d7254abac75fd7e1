"""Heads are taken whole, within bounds, and without what no head may hold; reading takes a share of a turn."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.errors import BadMessage
from authz_service.http1 import MAX_TURN, HeadBuffer, Pace
from support.virtual_time import VirtualTimeLoop, in_virtual_time


def taken(octets: bytes, size: int = 1000, max_bytes: int = 200, max_lines: int = 10) -> tuple[list[bytes], bytes]:
    """The heads that are found, and what is left."""
    buffer = HeadBuffer(max_bytes, max_lines)
    heads = []
    for at in range(0, len(octets), size):
        buffer.feed(octets[at : at + size])
        while (head := buffer.take()) is not None:
            heads.append(head)
    return heads, buffer.rest()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"])
def test_a_head_ends_with_an_empty_line_however_it_is_cut(end: bytes, size: int) -> None:
    head = b"GET / HTTP/1.1\r\nA: b" + end
    assert taken(head + head + b"rest", size) == ([head, head], b"rest")


def test_a_head_may_be_as_large_as_allowed_and_no_larger() -> None:
    head = b"x" * 196 + b"\r\n\r\n"
    assert taken(head, 7) == ([head], b"")
    for size in (7, 1000):
        with pytest.raises(BadMessage, match="more than 200 bytes") as failed:
            taken(b"x" + head, size)
        assert failed.value.too_large


def test_what_never_ends_is_refused_as_soon_as_it_is_too_large() -> None:
    assert taken(b"x" * 200, 7) == ([], b"x" * 200)
    with pytest.raises(BadMessage, match="more than 200 bytes"):
        taken(b"x" * 201, 7)


def test_a_head_may_have_as_many_lines_as_allowed_and_no_more() -> None:
    assert taken(b"a\n" * 9 + b"\n")[0]
    with pytest.raises(BadMessage, match="more than 10 lines"):
        taken(b"a\n" * 10 + b"\n")


@pytest.mark.parametrize("octet", [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
def test_no_control_character_is_in_a_head(octet: int) -> None:
    with pytest.raises(BadMessage, match="control characters"):
        taken(b"A: b" + bytes([octet]) + b"\r\n\r\n")


@pytest.mark.parametrize("head", [b"A: b\r\n c\r\n\r\n", b"A: b\n\tc\n\n", b"A: b\rC: d\r\n\r\n", b"A: b\r\r\n\r\n"])
def test_no_line_is_folded_and_none_ends_with_a_bare_carriage_return(head: bytes) -> None:
    with pytest.raises(BadMessage, match="folded"):
        taken(head)


def test_a_tab_and_octets_beyond_ascii_may_be_in_a_head() -> None:
    head = b"A:\tb \xe9\xff\r\n\r\n"
    assert taken(head) == ([head], b"")


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b" ", b"\r\n\r\n"])).map(b"".join), st.integers(1, 9))
def test_the_same_octets_give_the_same_heads_however_they_are_cut(octets: bytes, size: int) -> None:
    def outcome(cut: int) -> object:
        try:
            return taken(octets, cut)
        except BadMessage:
            return None

    assert outcome(size) == outcome(1000)


# The pace.


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

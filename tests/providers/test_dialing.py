"""From a name to a connection: whoever hangs delays himself, and a few others of the same client at the most."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.core.errors import FetchFailed
from authz_service.providers import dialing
from authz_service.providers.dialing import ATTEMPT_DELAY, MAX_ADDRESSES, MAX_LOOKUPS, Resolver, connected, interleaved
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.providers.dialing import Address

GUARD = 10.0  # seconds: no test waits for it
V4 = [(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in range(9)]
V6 = [(socket.AF_INET6, (f"2001:db8::{number}", 443, 0, 0)) for number in range(9)]


class Names:
    """A name service. Names that begin with "slow" are looked up until ``release``; "none" is no name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def getaddrinfo(self, host: bytes, port: int, **options: Any) -> list[tuple[Any, ...]]:
        name = host.decode()
        if options["flags"] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked.append(name)
        if name == "none":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if name.startswith("slow"):
            assert self._released.wait(GUARD)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.release()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::1"])
async def test_an_address_needs_no_look_up(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    ((_, where),) = await Resolver().addresses(host, 443)
    assert where[:2] == (host, 443)


async def test_a_name_is_looked_up_once_for_all_who_ask_and_remembered_for_a_while(names: Names) -> None:
    resolver = Resolver()
    asking = [asyncio.create_task(resolver.addresses("slow.example", 443)) for _ in range(20)]
    await asyncio.sleep(0)
    names.release()
    assert set(await asyncio.gather(*asking)) == {((socket.AF_INET, ("192.0.2.1", 443)),)}
    await resolver.addresses("slow.example", 443)
    assert names.asked == ["slow.example"]


async def test_a_name_that_is_none_is_a_failure_each_time(names: Names) -> None:
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver.addresses("none", 443)
    assert names.asked == ["none", "none"]


async def test_look_ups_that_hang_are_bounded_and_the_next_one_joins_the_one_that_hangs(names: Names) -> None:
    resolver = Resolver()
    for _ in range(50):
        for number in range(MAX_LOOKUPS):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await resolver.addresses(f"slow{number}.example", 443)
    with pytest.raises(FetchFailed, match="too many look-ups"):
        await resolver.addresses("other.example", 443)
    assert sorted(names.asked) == [f"slow{number}.example" for number in range(MAX_LOOKUPS)]
    names.release()
    async with asyncio.timeout(GUARD):
        assert await resolver.addresses("slow0.example", 443)
        while resolver._under_way:  # noqa: ASYNC110 - threads of which nothing tells
            await asyncio.sleep(0.01)
    assert await resolver.addresses("other.example", 443)


async def test_look_ups_that_hang_take_no_thread_of_anybody_else(names: Names) -> None:
    resolvers = [Resolver() for _ in range(50)]
    asking = [asyncio.create_task(each.addresses("slow.example", 443)) for each in resolvers]
    await asyncio.sleep(0)
    async with asyncio.timeout(GUARD):
        assert await asyncio.to_thread(lambda: "the loop's own threads are free") is not None
        assert await Resolver().addresses("other.example", 443)
    names.release()
    await asyncio.gather(*asking)


async def test_the_names_that_are_remembered_are_bounded(names: Names) -> None:
    resolver = Resolver()
    for number in range(100):
        await resolver.addresses(f"{number}.example", 443)
    assert len(resolver._known) <= 16
    assert resolver._under_way == {}


def test_the_families_take_turns_beginning_with_the_first() -> None:
    assert interleaved([*V6[:3], *V4[:1]]) == (V6[0], V4[0], V6[1], V6[2])
    assert interleaved([*V4[:1], *V6[:3]]) == (V4[0], V6[0], V6[1], V6[2])
    assert interleaved([]) == ()


async def test_of_many_addresses_only_some_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(family, socket.SOCK_STREAM, 6, "", where) for family, where in V4 + V6]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert len(await Resolver().addresses("a.example", 443)) == MAX_ADDRESSES


# Trying the addresses.


class Attempts:
    """What becomes of connecting to each address: seconds until it succeeds, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: float | OSError) -> None:
        self._outcomes = dict(zip(V4, outcomes, strict=False))
        self.begun: list[tuple[float, Address]] = []
        self.sockets: list[socket.socket] = []
        self.given_up = 0
        monkeypatch.setattr(dialing, "_attempt", self.attempt)

    @property
    def addresses(self) -> list[Address]:
        return list(self._outcomes)

    async def attempt(self, address: Address) -> socket.socket:
        self.begun.append((asyncio.get_running_loop().time(), address))
        outcome = self._outcomes[address]
        if isinstance(outcome, OSError):
            raise outcome
        try:
            await asyncio.sleep(outcome)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        self.sockets.append(socket.socket())
        return self.sockets[-1]

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@in_virtual_time
async def test_the_first_address_is_taken_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 0.1, 0.0)
    made = await connected(attempts.addresses)
    assert attempts.sockets == [made]
    assert len(attempts.begun) == 1
    attempts.close()


@in_virtual_time
async def test_where_one_hangs_the_next_is_tried_beside_it_and_the_first_to_answer_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = Attempts(monkeypatch, 3600.0, 3600.0, 0.1, 0.0)
    made = await connected(attempts.addresses)
    assert attempts.sockets == [made]
    assert [at for at, _ in attempts.begun] == [0.0, ATTEMPT_DELAY, 2 * ATTEMPT_DELAY]
    assert attempts.given_up == 2
    attempts.close()


@in_virtual_time
async def test_a_late_answer_of_an_earlier_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 0.3, 3600.0)
    made = await connected(attempts.addresses)
    assert (attempts.sockets, attempts.given_up) == ([made], 1)
    attempts.close()


@in_virtual_time
async def test_where_one_refuses_the_next_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, ConnectionRefusedError(), ConnectionRefusedError(), 0.0)
    await connected(attempts.addresses)
    assert [at for at, _ in attempts.begun] == [0.0, 0.0, 0.0]
    attempts.close()


@in_virtual_time
async def test_where_all_refuse_that_is_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, OSError("first"), ConnectionRefusedError("last"))
    with pytest.raises(ConnectionRefusedError):
        await connected(attempts.addresses)
    with pytest.raises(OSError, match="no address"):
        await connected([])


@in_virtual_time
async def test_of_two_that_answer_together_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, ATTEMPT_DELAY + 0.1, 0.1)
    made = await connected(attempts.addresses)
    assert [each is made or each.fileno() == -1 for each in attempts.sockets] == [True] * len(attempts.sockets)
    assert made.fileno() != -1
    attempts.close()


@in_virtual_time
async def test_who_gives_up_leaves_no_attempt_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 3600.0, 3600.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await connected(attempts.addresses)
    assert attempts.given_up == 2


async def test_a_real_address_is_connected_to_after_one_that_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            refusing = gone.getsockname()
        addresses = [(socket.AF_INET, refusing), (socket.AF_INET, there.getsockname())]
        with await connected(addresses) as made:
            assert made.getpeername() == there.getsockname()

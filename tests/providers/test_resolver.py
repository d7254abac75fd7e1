"""A lookup that hangs delays itself, and at most a few others of the same client."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.core.errors import FetchFailed
from authz_service.providers.resolver import MAX_ADDRESSES, MAX_LOOKUPS, Resolver, interleave

if TYPE_CHECKING:
    from collections.abc import Iterator

GUARD = 10.0  # seconds: no test waits for it
V4 = [(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in range(9)]
V6 = [(socket.AF_INET6, (f"2001:db8::{number}", 443, 0, 0)) for number in range(9)]


class NameServer:
    """A name server. It answers lookups of names that begin with "slow" after ``release``; "none" does not exist."""

    def __init__(self) -> None:
        self.lookups: list[str] = []
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def getaddrinfo(self, host: bytes, port: int, **options: Any) -> list[tuple[Any, ...]]:
        name = host.decode()
        if options["flags"] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.lookups.append(name)
        if name == "none":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if name.startswith("slow"):
            assert self._released.wait(GUARD)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.release()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::1"])
async def test_an_ip_address_needs_no_lookup(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    ((_, where),) = await Resolver().resolve(host, 443)
    assert where[:2] == (host, 443)


async def test_concurrent_callers_share_one_lookup_and_its_result_is_cached(names: NameServer) -> None:
    resolver = Resolver()
    callers = [asyncio.create_task(resolver.resolve("slow.example", 443)) for _ in range(20)]
    await asyncio.sleep(0)
    names.release()
    assert set(await asyncio.gather(*callers)) == {((socket.AF_INET, ("192.0.2.1", 443)),)}
    await resolver.resolve("slow.example", 443)
    assert names.lookups == ["slow.example"]


async def test_a_failed_lookup_is_not_cached(names: NameServer) -> None:
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver.resolve("none", 443)
    assert names.lookups == ["none", "none"]


async def test_lookups_that_hang_are_bounded_and_the_next_caller_joins_the_one_for_its_name(names: NameServer) -> None:
    resolver = Resolver()
    for _ in range(50):
        for number in range(MAX_LOOKUPS):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await resolver.resolve(f"slow{number}.example", 443)
    with pytest.raises(FetchFailed, match="lookups of other host names are not answered"):
        await resolver.resolve("other.example", 443)
    assert sorted(names.lookups) == [f"slow{number}.example" for number in range(MAX_LOOKUPS)]
    names.release()
    async with asyncio.timeout(GUARD):
        assert await resolver.resolve("slow0.example", 443)
        while len(resolver._lookups):  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0.01)
    assert await resolver.resolve("other.example", 443)


async def test_lookups_that_hang_use_no_thread_of_the_executor(names: NameServer) -> None:
    resolvers = [Resolver() for _ in range(50)]
    callers = [asyncio.create_task(each.resolve("slow.example", 443)) for each in resolvers]
    await asyncio.sleep(0)
    async with asyncio.timeout(GUARD):
        assert await asyncio.to_thread(lambda: "the executor is free") is not None
        assert await Resolver().resolve("other.example", 443)
    names.release()
    await asyncio.gather(*callers)


async def test_the_cache_is_bounded(names: NameServer) -> None:
    resolver = Resolver()
    for number in range(100):
        await resolver.resolve(f"{number}.example", 443)
    assert len(resolver._cache) <= 16
    assert len(resolver._lookups) == 0


def test_the_address_families_alternate_beginning_with_the_first() -> None:
    assert interleave([*V6[:3], *V4[:1]]) == (V6[0], V4[0], V6[1], V6[2])
    assert interleave([*V4[:1], *V6[:3]]) == (V4[0], V6[0], V6[1], V6[2])
    assert interleave([]) == ()


async def test_the_number_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(family, socket.SOCK_STREAM, 6, "", where) for family, where in V4 + V6]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert len(await Resolver().resolve("a.example", 443)) == MAX_ADDRESSES

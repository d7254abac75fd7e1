"""Resolves host names to addresses, without letting a lookup that hangs delay anything else.

A lookup can hang for half a minute, cannot be canceled, and a provider may choose the name. So each lookup runs in a
daemon thread of its own, concurrent lookups of a name share one, and their number is bounded. They do not use the event
loop's executor: with uvloop's, two lookups that hang would block those for all other providers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from authz_service.core.bounded import BoundedMap, Bounds
from authz_service.core.errors import FetchFailed
from authz_service.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOOKUPS: Final = 4  # at a time, per client
MAX_ADDRESSES: Final = 8  # per name
_LOOKUP_TTL = 10.0  # seconds
_MAX_CACHED = 16  # names

Address: TypeAlias = "tuple[socket.AddressFamily, Any]"  # family, and the argument of connect()
Addresses: TypeAlias = "tuple[Address, ...]"


class _Name(NamedTuple):
    host: str
    port: int


class _CachedAddresses(NamedTuple):
    addresses: Addresses
    expires_at: float  # by the loop's clock


class Resolver:
    """Resolves the host names of one client. Belongs to one event loop."""

    def __init__(self) -> None:
        self._lookups: SingleFlight[Addresses] = SingleFlight()
        self._cache: BoundedMap[_Name, _CachedAddresses] = BoundedMap(Bounds(_MAX_CACHED, _MAX_CACHED))

    async def resolve(self, host: str, port: int) -> Addresses:
        """The addresses of a host, in the order in which to try them.

        Raises:
            OSError: if the name cannot be resolved.
            FetchFailed: if too many lookups are running.
        """
        with contextlib.suppress(socket.gaierror):
            return _getaddrinfo(_Name(host, port), socket.AI_NUMERICHOST)  # the host is an address already
        name = _Name(host, port)
        cached = self._cache.get(name)
        if cached is not None and asyncio.get_running_loop().time() < cached.expires_at:
            return cached.addresses
        if self._lookups.get(name) is None and len(self._lookups) >= MAX_LOOKUPS:
            raise FetchFailed(f"{MAX_LOOKUPS} lookups of other host names are not answered: check the name server")
        return await self._lookups.join(name, lambda: self._look_up(name), name="DNS lookup").result()

    async def _look_up(self, name: _Name) -> Addresses:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Addresses] = loop.create_future()

        def run() -> None:
            addresses: Addresses = ()
            failure: Exception | None = None
            try:
                addresses = _getaddrinfo(name, socket.AI_ADDRCONFIG)
            except Exception as error:  # noqa: BLE001 - raised where the future is awaited
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, and no caller is left
                loop.call_soon_threadsafe(_settle, outcome, addresses, failure)

        threading.Thread(target=run, name="DNS lookup", daemon=True).start()
        addresses = await outcome
        self._cache.put(name, _CachedAddresses(addresses, loop.time() + _LOOKUP_TTL), 1)
        return addresses


def _settle(outcome: asyncio.Future[Addresses], addresses: Addresses, failure: Exception | None) -> None:
    if outcome.done():  # canceled, at the end of the program
        return
    if failure is None:
        outcome.set_result(addresses)
    else:
        outcome.set_exception(failure)


def _getaddrinfo(name: _Name, flags: int) -> Addresses:
    # As bytes, since the codec for international names raises errors of its own; the names here are ASCII.
    found = socket.getaddrinfo(name.host.encode("ascii"), name.port, type=socket.SOCK_STREAM, flags=flags)
    return interleave([(family, address) for family, *_, address in found])[:MAX_ADDRESSES]


def interleave(addresses: Sequence[Address]) -> Addresses:
    """Alternate between the two families, beginning with that of the first address (RFC 8305 section 4)."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return tuple(each for pair in itertools.zip_longest(first, others) for each in pair if each is not None)

"""From a host name to a connected socket: looking up names, and trying the addresses behind them.

A look-up can hang for half a minute, cannot be cancelled, and the name may be a provider's choice. So each runs in a
thread of its own that nobody waits for at the end, equal ones are one, and their number is bounded. The event loop's
executor is not used: in uvloop's, two look-ups that hang would stop those for all other providers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from authz_service.core.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOOKUPS: Final = 4  # under way at a time, for one client
MAX_ADDRESSES: Final = 8  # of one name that are tried
_LOOKUP_TTL = 10.0  # seconds for which the addresses of a name are used again
_MAX_NAMES = 16  # of which the addresses are remembered
ATTEMPT_DELAY: Final = 0.25  # seconds before the next address is tried beside the last one (RFC 8305 section 8)

Address: TypeAlias = "tuple[socket.AddressFamily, Any]"  # and what the family's sockets connect to
_Found: TypeAlias = "asyncio.Future[tuple[Address, ...]]"


class Resolver:
    """Looks up the names of one client's providers. Belongs to one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], _Found] = {}
        self._known: dict[tuple[str, int], tuple[float, tuple[Address, ...]]] = {}

    async def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of a host, in the order in which they are to be tried.

        Raises:
            OSError: when it has none.
            FetchFailed: when too many look-ups are under way.
        """
        with contextlib.suppress(socket.gaierror):
            return _looked_up(host, port, socket.AI_NUMERICHOST)  # it is an address
        until, known = self._known.get((host, port), (0.0, ()))
        if asyncio.get_running_loop().time() < until:
            return known
        # Whoever stops waiting takes it from nobody, least of all from the next one who needs it.
        found = self._under_way.get((host, port)) or self._begin(host, port)
        await asyncio.wait([found])
        return found.result()

    def _begin(self, host: str, port: int) -> _Found:
        if len(self._under_way) >= MAX_LOOKUPS:
            raise FetchFailed("too many look-ups of host names hang")
        loop = asyncio.get_running_loop()
        found: _Found = loop.create_future()
        found.add_done_callback(lambda _: self._ended((host, port)))

        def look_up() -> None:
            outcome: tuple[Address, ...] | Exception
            try:
                outcome = _looked_up(host, port, socket.AI_ADDRCONFIG)
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                outcome = error
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile, and with it all who waited
                loop.call_soon_threadsafe(_settle, found, outcome)

        threading.Thread(target=look_up, name="name look-up", daemon=True).start()
        self._under_way[host, port] = found
        return found

    def _ended(self, name: tuple[str, int]) -> None:
        found = self._under_way.pop(name)
        if found.cancelled() or found.exception() is not None:
            return
        self._known.pop(name, None)
        if len(self._known) >= _MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[name] = (found.get_loop().time() + _LOOKUP_TTL, found.result())


def _settle(found: _Found, outcome: tuple[Address, ...] | Exception) -> None:
    if found.done():
        return
    if isinstance(outcome, Exception):
        found.set_exception(outcome)
    else:
        found.set_result(outcome)


def _looked_up(host: str, port: int, flags: int) -> tuple[Address, ...]:
    # As bytes, since the codec for international names raises errors of its own; names are ASCII here.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags)
    return interleaved([(family, where) for family, *_, where in found])[:MAX_ADDRESSES]


def interleaved(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Addresses of the two families in turn, beginning with the first one's (RFC 8305 section 4)."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return tuple(each for pair in itertools.zip_longest(first, others) for each in pair if each is not None)


async def connected(addresses: Sequence[Address]) -> socket.socket:
    """A socket that is connected to one of these addresses: the first that accepts.

    Each gets a head start before the next one is tried beside it (RFC 8305, "Happy Eyeballs").

    Raises:
        OSError: of the last attempt that failed, when all did.
    """
    attempts: set[asyncio.Task[socket.socket]] = set()
    waiting = list(addresses)
    chosen: socket.socket | None = None
    failure: BaseException = OSError("no address to connect to")
    try:
        while chosen is None and (waiting or attempts):
            if waiting:
                attempts.add(asyncio.create_task(_attempt(waiting.pop(0)), name="connecting to a provider"))
            head_start = ATTEMPT_DELAY if waiting else None
            done, _ = await asyncio.wait(attempts, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if (error := attempt.exception()) is not None:
                    attempts.discard(attempt)
                    failure = error
                elif chosen is None:
                    attempts.discard(attempt)
                    chosen = attempt.result()
    finally:
        await _give_up(attempts)
    if chosen is None:
        raise failure
    return chosen


async def _give_up(attempts: set[asyncio.Task[socket.socket]]) -> None:
    """End the attempts that nobody needs any more, also those that have just succeeded."""
    for attempt in attempts:
        attempt.cancel()
    for outcome in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(outcome, socket.socket):
            outcome.close()


async def _attempt(address: Address) -> socket.socket:
    family, where = address
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)  # noqa: FBT003 - the signature is the standard library's
        await asyncio.get_running_loop().sock_connect(made, where)
    except BaseException:
        made.close()
        raise
    return made

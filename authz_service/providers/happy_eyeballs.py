"""Connects to the first of several addresses that accepts (RFC 8305, "Happy Eyeballs")."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.providers.resolver import Address

ATTEMPT_DELAY: Final = 0.25  # seconds before the next address is tried beside the previous one (RFC 8305 section 8)


async def connect(addresses: Sequence[Address]) -> socket.socket:
    """A socket that is connected to one of the addresses. They are tried in order, each with a head start.

    Raises:
        OSError: that of the last failed attempt, if all fail.
    """
    attempts: set[asyncio.Task[socket.socket]] = set()
    untried = list(addresses)
    connected: socket.socket | None = None
    failure: BaseException = OSError("no address to connect to")
    try:
        while connected is None and (untried or attempts):
            if untried:
                attempts.add(asyncio.create_task(_attempt(untried.pop(0)), name="connect to a provider"))
            head_start = ATTEMPT_DELAY if untried else None
            done, _ = await asyncio.wait(attempts, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if (error := attempt.exception()) is not None:
                    attempts.discard(attempt)
                    failure = error
                elif connected is None:
                    attempts.discard(attempt)
                    connected = attempt.result()
    finally:
        await _cancel(attempts)
    if connected is None:
        raise failure
    return connected


async def _cancel(attempts: set[asyncio.Task[socket.socket]]) -> None:
    """Cancel the other attempts, and close the sockets of those that have just succeeded."""
    for attempt in attempts:
        attempt.cancel()
    for outcome in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(outcome, socket.socket):
            outcome.close()


async def _attempt(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock

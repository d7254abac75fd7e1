"""An answer of a provider that does not end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def endless(octets: bytes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Sends this for as long as the connection lasts, in place of an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        while not request.transport.is_closing():
            request.transport.write(octets * (1 + 16_384 // len(octets)))
            await asyncio.sleep(0.001)
        return web.Response()

    return answer

"""Applications on a loopback port, and an API that echoes requests, and WebSocket messages on some paths."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from authz_service.demo.upstream import echo_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def echo(*websockets: str) -> AsyncIterator[int]:
    """Yields its port on loopback."""
    application = web.Application()
    for path in websockets:
        application.router.add_get(path, _echo)
    application.router.add_route("*", "/{path:.*}", echo_request)
    async with serving(application) as port:
        yield port


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[int]:
    """Yields the port of an application on loopback."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        await websocket.send_str(f"{request.headers['x-auth-subject']}: {message.data}")
    return websocket

"""An identity provider over HTTP on loopback; the test sets the response for each path."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Provider:
    """A server with a handler per path; other paths are 404."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        self.handlers: dict[str, Handler] = {}
        self.requests: list[web.BaseRequest] = []
        self.origin = ""
        self._tls = tls
        self._port = port
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, handler_cancellation=True), shutdown_timeout=0.1
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        scheme = "https" if self._tls else "http"
        self._port = self._runner.addresses[0][1]  # also when it is started again
        self.origin = f"{scheme}://127.0.0.1:{self._port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def serve(self, path: str, body: bytes | str, **options: Any) -> None:
        """Serve this body at a path. ``options`` are those of ``web.Response``."""
        body = body.encode() if isinstance(body, str) else body

        async def handle(_request: web.Request) -> web.Response:
            return web.Response(body=body, **options)

        self.handlers[path] = handle

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        self.serve(path, b"", status=status, headers={"Location": target})

    def count(self, path: str) -> int:
        """How often this path was requested."""
        return Counter(request.path for request in self.requests)[path]

    async def _handle(self, request: Any) -> web.StreamResponse:
        self.requests.append(request)
        handler = self.handlers.get(request.path)
        return await handler(request) if handler else web.Response(status=404)


def endless_response(data: bytes) -> Handler:
    """A handler that sends this again and again until the connection closes, in place of a response."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        while not request.transport.is_closing():
            request.transport.write(data * (1 + 16_384 // len(data)))
            await asyncio.sleep(0.001)
        return web.Response()

    return handle

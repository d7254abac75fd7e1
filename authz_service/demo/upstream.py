"""A small API that echoes each request as JSON.

It authorizes nothing, so every request that reaches it passed Envoy and the sidecar. It reports that a credential or a
DPoP proof arrived, and never the credential or the proof itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from aiohttp import web

from authz_service.core.headers import combined

if TYPE_CHECKING:
    from types import TracebackType

_SCHEMES = ("basic", "bearer", "dpop")  # safe to show; any other first word may be the credential itself


class Upstream:
    """Listens on a free loopback port while its context is open."""

    def __init__(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", echo_request)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The listening port."""
        port: int = self._runner.addresses[0][1]
        return port


async def echo_request(request: web.Request) -> web.Response:
    """The method, the path and the headers of the request, without its credential and its proof."""
    # All copies of a repeated header are combined: showing one copy alone could hide a spoofed one.
    headers = combined((name, _without_secret(name.lower(), value)) for name, value in request.headers.items())
    return web.json_response({"method": request.method, "path": request.path_qs, "headers": headers})


def _without_secret(name: str, value: str) -> str:
    if name == "dpop":
        return "[present]"
    return _without_credential(value) if name == "authorization" else value


def _without_credential(value: str) -> str:
    scheme = value.partition(" ")[0]
    return f"{scheme} [present]" if scheme.lower() in _SCHEMES else "[present]"

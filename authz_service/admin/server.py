"""The admin server: three addresses, read only.

Law: answering here must not delay a decision: the metrics are rendered beside the event loop, and a request's body is
not read. Errors are problem documents (RFC 9457) that name the status and nothing else; only what is no HTTP at all is
refused by aiohttp in its own words.
"""

from __future__ import annotations

import asyncio
import os
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from authz_service.core.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_KEEPALIVE = 75.0  # seconds: longer than the usual scrape interval of 15 to 60
_SHUTDOWN = 1.0  # seconds for answers that are on their way at the end
_MAX_BODY = 1024  # bytes; no address here has a use for one


class Exposed(Protocol):
    """Metrics, of one process or of several."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Theirs and the content type, as the Accept header asks. Called from any thread."""


async def _known(_what: str) -> None:
    """There is nobody to ask: one process knows all about itself."""


class AdminServer:
    """Serves ``metrics``, and readiness while ``missing`` names nothing that is still waited for."""

    def __init__(
        self,
        *,
        address: tuple[str, int],
        metrics: Exposed,
        missing: Callable[[], Sequence[str]],
        ask: Callable[[str], Awaitable[None]] = _known,
    ) -> None:
        """``address`` is host and port; port 0 is any free one.

        ``ask`` brings up to date what is told next: ``metrics`` or ``missing``.
        """
        self._host, self._wanted_port = address
        self._metrics = metrics
        self._missing = missing
        self._ask = ask
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            StartFailed: when the address can not be had.
        """
        runner = web.AppRunner(
            self._application(), access_log=None, keepalive_timeout=_KEEPALIVE, shutdown_timeout=_SHUTDOWN
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._wanted_port).start()
        except (OSError, ValueError) as error:  # ValueError: a host that is no name
            await runner.cleanup()
            raise StartFailed(
                f"the admin server can not listen on {self._host} port {self._wanted_port}: {_cause(error)}; "
                "change server.admin_address"
            ) from error
        self._runner = runner

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._runner is None:
            return self._wanted_port
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Close the port and its connections. Harmless when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY, middlewares=[_problems])
        application.on_response_prepare.append(_common_headers)
        application.router.add_get("/metrics", self._serve_metrics)
        application.router.add_get("/healthz", _serve_health)
        application.router.add_get("/readyz", self._serve_readiness)
        return application

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        await self._ask("metrics")
        body, content_type = await asyncio.to_thread(self._metrics.exposition, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _serve_readiness(self, _request: web.Request) -> web.Response:
        await self._ask("missing")
        missing = list(self._missing())
        status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
        return web.json_response({"ready": not missing, "missing": missing}, status=status)


def _cause(error: OSError | ValueError) -> str:
    """The system's words alone: asyncio puts its own around them."""
    if isinstance(error, socket.gaierror):
        return "the name can not be resolved"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else "no host has such a name"


async def _serve_health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response(
            {"type": "about:blank", "title": HTTPStatus(error.status).phrase, "status": error.status},
            status=error.status,
            headers={name: error.headers[name] for name in ("Allow",) if name in error.headers},
            content_type="application/problem+json",
        )


async def _common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers.pop("Server", None)  # names versions, which are nobody's business

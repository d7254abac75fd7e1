"""Keys, a key source that the test drives, and an identity provider on loopback that answers as the test says.

The fake source passes the same contract suite as the real ones (``test_sources.py``).
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.source import Fetched

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@functools.cache
def private_key(kid: str) -> ec.EllipticCurvePrivateKey:
    """The key with this ``kid``: the same one each time."""
    return ec.generate_private_key(ec.SECP256R1())


def jwk(kid: str) -> dict[str, Any]:
    """Its public half, as it is published."""
    return ECAlgorithm.to_jwk(private_key(kid).public_key(), as_dict=True) | {"kid": kid}


def jwks(*kids: str) -> bytes:
    """A published key set."""
    return json.dumps({"keys": [jwk(kid) for kid in kids]}).encode()


class FakeSource:
    """A key source. What it fetches, how long that lives and when it arrives, the test sets."""

    def __init__(self, document: bytes | None = None, *, lifetime: float = 300.0) -> None:
        self.document = document  # None: the provider cannot be reached
        self.fault: Exception | None = None  # raised in place of any answer
        self.lifetime = lifetime
        self.retry_after = 0.0  # seconds for which it asks to be left alone when it cannot be reached
        self.max_keys = 100
        self.fetches = 0
        self.started = asyncio.Event()
        self.closed = False
        self._seen: bytes | None = None
        self._gate = asyncio.Event()
        self._gate.set()

    async def fetch(self, *, have_keys: bool) -> Fetched:
        self.fetches += 1
        self.started.set()
        await self._gate.wait()
        if self.fault is not None:
            raise self.fault
        if self.document is None:
            raise FetchFailed("the provider cannot be reached", retry_after=self.retry_after)
        if have_keys and self.document == self._seen:
            return Fetched(None, self.lifetime)
        key_set = keyset.parse(self.document, self.max_keys)
        self._seen = self.document
        return Fetched(key_set, self.lifetime)

    async def close(self) -> None:
        self.closed = True

    async def fetched(self, times: int) -> None:
        """Wait until that many fetches were begun."""
        while self.fetches < times:
            self.started.clear()
            await self.started.wait()

    def hold(self) -> None:
        """Let fetches hang until ``release``."""
        self.started.clear()
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()


class Provider:
    """An identity provider: an HTTP server whose answer at each path the test sets. Other paths are 404."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[web.BaseRequest] = []
        self._tls = tls
        self._port = port
        self._runner = web.ServerRunner(
            web.Server(self._answer, access_log=None, handler_cancellation=True), shutdown_timeout=0.1
        )
        self.origin = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        scheme = "https" if self._tls else "http"
        self.origin = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def serve(self, path: str, body: bytes | str, **options: Any) -> None:
        """Answer so at this path from now on. ``options`` are those of ``web.Response``."""
        body = body.encode() if isinstance(body, str) else body

        async def answer(_request: web.Request) -> web.Response:
            return web.Response(body=body, **options)

        self.answers[path] = answer

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        self.serve(path, b"", status=status, headers={"Location": target})

    def count(self, path: str) -> int:
        """How often this path was asked for."""
        return Counter(request.path for request in self.requests)[path]

    async def _answer(self, request: Any) -> web.StreamResponse:
        self.requests.append(request)
        answer = self.answers.get(request.path)
        return await answer(request) if answer else web.Response(status=404)

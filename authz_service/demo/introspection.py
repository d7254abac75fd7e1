"""The development identity provider's opaque tokens: asking about them (RFC 7662) and revoking them (RFC 7009).

Law: it answers nobody but the API that it knows, and says of what it does not know only that it is not active. A test
may put a fault in place of its answers; what it is asked is counted either way, and never what it was asked about.
"""

from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from authz_service.demo.client_secret import shows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]

API_ID = "demo-api"
API_SECRET = "demo-api-secret"
_INACTIVE: dict[str, Any] = {"active": False}


class Introspection:
    """What the provider knows of tokens, and the two endpoints that need it."""

    def __init__(self, read: Callable[[str], dict[str, Any] | None]) -> None:
        """``read`` gives the claims of a token that tells what it stands for, and None for every other one."""
        self._read = read
        self._opaque: dict[str, dict[str, Any]] = {}
        self._revoked: set[str] = set()
        self.fault: Fault | None = None  # answers in place of the truth
        self.calls = 0
        self.in_flight = 0
        self.most_in_flight = 0

    def issue(self, claims: dict[str, Any]) -> str:
        """A token that tells nothing, and stands for these claims."""
        token = secrets.token_urlsafe(32)
        self._opaque[token] = claims
        return token

    def revoke(self, token: str) -> None:
        """From now on it is not active."""
        self._revoked.add(token)

    def describe(self, token: str) -> dict[str, Any]:
        """The answer to who asks about this token."""
        claims = self._opaque.get(token) or self._read(token)
        if claims is None or token in self._revoked or claims.get("exp", math.inf) <= time.time():
            return _INACTIVE
        return {"active": True, "token_type": "Bearer", **claims}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The introspection endpoint."""
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await (self.fault or self.answer)(request)
        finally:
            self.in_flight -= 1

    async def answer(self, request: web.Request) -> web.Response:
        """The truth, for the API alone: others could try tokens out (RFC 7662 section 2.1)."""
        form = await request.post()
        if not shows(request, form, API_ID, API_SECRET):
            return web.json_response({"error": "invalid_client"}, status=401, headers={"WWW-Authenticate": "Basic"})
        answer = self.describe(str(form.get("token", "")))
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def serve_revocation(self, request: web.Request) -> web.Response:
        """The revocation endpoint. Whoever has a token may end it: this provider has one application."""
        self.revoke(str((await request.post()).get("token", "")))
        return web.Response()

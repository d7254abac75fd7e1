"""The development identity provider's opaque tokens: introspection (RFC 7662) and revocation (RFC 7009).

Only the API may introspect tokens, and a token that the provider did not issue is simply inactive.
"""

from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from authz_service.demo.client_secret import is_authenticated

if TYPE_CHECKING:
    from collections.abc import Callable

API_ID = "demo-api"
API_SECRET = "demo-api-secret"
_INACTIVE: dict[str, Any] = {"active": False}


class Introspection:
    """The provider's opaque and revoked tokens, and the two endpoints that need them."""

    def __init__(self, jwt_claims: Callable[[str], dict[str, Any] | None]) -> None:
        """``jwt_claims`` returns the claims of a JWT that the provider issued, and None for any other string."""
        self._jwt_claims = jwt_claims
        self._opaque: dict[str, dict[str, Any]] = {}
        self._revoked: set[str] = set()

    def issue(self, claims: dict[str, Any]) -> str:
        """An opaque token for these claims."""
        token = secrets.token_urlsafe(32)
        self._opaque[token] = claims
        return token

    def revoke(self, token: str) -> None:
        """Make the token inactive from now on."""
        self._revoked.add(token)

    def describe(self, token: str) -> dict[str, Any]:
        """The introspection response for a token."""
        claims = self._opaque.get(token) or self._jwt_claims(token)
        if claims is None or token in self._revoked or claims.get("exp", math.inf) <= time.time():
            return _INACTIVE
        return {"active": True, "token_type": "Bearer", **claims}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The introspection endpoint, for the API only: others could guess tokens here (RFC 7662 section 2.1)."""
        form = await request.post()
        if not is_authenticated(request, form, API_ID, API_SECRET):
            return web.json_response({"error": "invalid_client"}, status=401, headers={"WWW-Authenticate": "Basic"})
        response = self.describe(str(form.get("token", "")))
        return web.json_response(response, headers={"Cache-Control": "no-store"})

    async def serve_revocation(self, request: web.Request) -> web.StreamResponse:
        """The revocation endpoint. It needs no client secret, because this provider has one application."""
        self.revoke(str((await request.post()).get("token", "")))
        return web.Response()

"""The demo's identity provider with faults in its introspection endpoint, and counts of the requests to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from authz_service.demo.identity_provider import IdentityProvider
from authz_service.demo.introspection import API_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultyProvider(IdentityProvider):
    """While ``fault`` is set it serves every introspection request."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Fault | None = None
        self.introspections = 0
        self.in_flight = 0
        self.max_in_flight = 0

    def signed_introspection_response(self, response: dict[str, Any], **changes: Any) -> str:
        """The response as a JWT for the API (RFC 9701 section 5). ``changes`` override claims, and None removes one."""
        claims = {"iss": self.issuer, "aud": API_ID, "iat": int(time.time()), "token_introspection": response}
        return self.sign(claims | changes, "token-introspection+jwt")

    async def _serve_introspection(self, request: web.Request) -> web.StreamResponse:
        self.introspections += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return await (self.fault or self.introspection.serve)(request)
        finally:  # also when the client disconnects, which cancels the handler
            self.in_flight -= 1

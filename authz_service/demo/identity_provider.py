"""A development identity provider: discovery, key set, a token endpoint, and a login that hands out ID tokens.

Law: it listens on loopback, its keys and tokens live as long as the process, and it gives a token to everybody who
asks. It can also mint what no honest provider would: forged, unsigned and expired tokens, to be refused.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from authz_service.core import base64url
from authz_service.demo.client_secret import shows
from authz_service.demo.introspection import API_ID, Introspection

if TYPE_CHECKING:
    from types import TracebackType

CLIENT_ID = "demo-app"
CLIENT_SECRET = "demo-secret"
AUDIENCE = "https://api.demo/"
_LIFETIME = 600  # seconds


class IdentityProvider:
    """Listens on loopback, on a port of its own, from entering to leaving its context."""

    def __init__(self) -> None:
        self._rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self._stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.introspection = Introspection(self._claims_of)
        # Whoever hangs up is told nothing more, so that what is counted as in flight is.
        self._runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        self.issuer = ""  # known once it listens

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.issuer = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    # Tokens.

    def access_token(self, *, algorithm: str = "RS256", **claims: Any) -> str:
        """An access token as RFC 9068 has it; ``claims`` replace its own, and None takes one away."""
        return self._signed(self._access_claims(claims), algorithm, "at+jwt")

    def opaque_token(self, **claims: Any) -> str:
        """An access token that tells nothing to who does not ask what it stands for. ``claims`` as above."""
        return self.introspection.issue(self._access_claims(claims))

    def expired_token(self) -> str:
        """An access token whose time has passed."""
        return self.access_token(iat=int(time.time()) - 7200, exp=int(time.time()) - 3600)

    def id_token(self, **claims: Any) -> str:
        """What a login gives to the application: who the user is, for its eyes alone. ``claims`` as above."""
        now = int(time.time())
        own = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": CLIENT_ID,
            "azp": CLIENT_ID,
            "iat": now,
            "exp": now + _LIFETIME,
            "auth_time": now,
            "nonce": secrets.token_urlsafe(12),
            "at_hash": secrets.token_urlsafe(16),
        }
        return self._signed(_present(own | claims), "RS256", "JWT")

    def forged_token(self, **claims: Any) -> str:
        """An access token with the provider's key id and a stranger's signature."""
        return jwt.encode(self._access_claims(claims), self._stranger, "RS256", {"kid": "RS256", "typ": "at+jwt"})

    def unsigned_token(self, **claims: Any) -> str:
        """An access token that says that it needs no signature (``alg: none``)."""
        header = {"alg": "none", "typ": "at+jwt"}
        parts = header, self._access_claims(claims)
        return ".".join((*(base64url.encode(json.dumps(part).encode()) for part in parts), ""))

    def _access_claims(self, claims: dict[str, Any]) -> dict[str, Any]:
        now = int(time.time())
        own = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": AUDIENCE,
            "client_id": CLIENT_ID,
            "scope": "read:appointments",
            "iat": now,
            "exp": now + _LIFETIME,
            "jti": secrets.token_urlsafe(12),
        }
        return _present(own | claims)

    def signed_answer(self, answer: dict[str, Any], **changes: Any) -> str:
        """An answer about a token as a JWT of its own (RFC 9701 section 5), for the API alone; ``changes`` as above."""
        own = {"iss": self.issuer, "aud": API_ID, "iat": int(time.time()), "token_introspection": answer}
        return self._signed(_present(own | changes), "RS256", "token-introspection+jwt")

    def _claims_of(self, token: str) -> dict[str, Any] | None:
        """What an access token of its own says; None where it is none."""
        try:
            header = jwt.get_unverified_header(token)
            key = jwt.PyJWKSet.from_dict(self.jwks())[header["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token, key, [header["kid"]], options={"verify_aud": False, "verify_exp": False}
            )
        except (jwt.InvalidTokenError, KeyError):
            return None
        return claims if header["typ"] == "at+jwt" else None

    def _signed(self, claims: dict[str, Any], algorithm: str, typ: str) -> str:
        key = self._ec if algorithm == "ES256" else self._rsa
        return jwt.encode(claims, key, algorithm, {"kid": "ES256" if algorithm == "ES256" else "RS256", "typ": typ})

    def jwks(self) -> dict[str, Any]:
        """The published key set. The RSA key names no ``alg``, so it serves for RS256 and PS256."""
        return {
            "keys": [
                RSAAlgorithm.to_jwk(self._rsa.public_key(), as_dict=True) | {"kid": "RS256", "use": "sig"},
                ECAlgorithm.to_jwk(self._ec.public_key(), as_dict=True) | {"kid": "ES256", "use": "sig"},
            ]
        }

    # HTTP.

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", self._serve_metadata)
        application.router.add_get("/jwks.json", self._serve_jwks)
        application.router.add_post("/token", self._serve_token)
        application.router.add_post("/login", self._serve_login)
        application.router.add_post("/introspect", self.introspection.serve)
        application.router.add_post("/revoke", self.introspection.serve_revocation)
        return application

    async def _serve_metadata(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/jwks.json",
                "token_endpoint": f"{self.issuer}/token",
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "grant_types_supported": ["client_credentials"],
                "introspection_endpoint": f"{self.issuer}/introspect",
                "revocation_endpoint": f"{self.issuer}/revoke",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _serve_jwks(self, _request: web.Request) -> web.Response:
        return web.json_response(self.jwks())

    async def _serve_token(self, request: web.Request) -> web.Response:
        """Client credentials (RFC 6749 section 4.4), with ``scope`` and ``resource`` (RFC 8707) or ``audience``.

        With ``format=opaque``, which is ours alone, the token is an opaque one.
        """
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        if not shows(request, form, CLIENT_ID, CLIENT_SECRET):
            return web.json_response({"error": "invalid_client"}, status=401, headers={"WWW-Authenticate": "Basic"})
        scope = str(form.get("scope", "read:appointments"))
        audience = str(form.get("resource") or form.get("audience") or AUDIENCE)
        mint = self.opaque_token if form.get("format") == "opaque" else self.access_token
        token = mint(sub=CLIENT_ID, scope=scope, aud=audience)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": _LIFETIME, "scope": scope}
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _serve_login(self, _request: web.Request) -> web.Response:
        """The end of a login, without its beginning: an ID token for the application."""
        return web.json_response({"id_token": self.id_token()}, headers={"Cache-Control": "no-store"})


def _present(claims: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if value is not None}

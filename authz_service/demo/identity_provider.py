"""A development identity provider: discovery, key set, token endpoint, and a login endpoint that issues ID tokens.

It listens on loopback only, and its keys and tokens live as long as the process. In the process it also mints forged,
unsigned and expired tokens, for the samples that the sidecar must deny.
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
from authz_service.demo.client_secret import is_authenticated
from authz_service.demo.dpop import jkt_of
from authz_service.demo.introspection import Introspection

if TYPE_CHECKING:
    from types import TracebackType

CLIENT_ID = "demo-app"
CLIENT_SECRET = "demo-secret"
AUDIENCE = "https://api.demo/"
_TOKEN_TTL = 600  # seconds


class IdentityProvider:
    """Listens on a free loopback port while its context is open."""

    def __init__(self) -> None:
        self._rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self._forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.introspection = Introspection(self._jwt_claims)
        self._runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        self.issuer = ""  # set once it listens

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
        """An RFC 9068 access token. ``claims`` override the default ones, and None removes one."""
        return self.sign(self._access_claims(claims), "at+jwt", algorithm)

    def opaque_token(self, **claims: Any) -> str:
        """An access token that only introspection can read. ``claims`` as above."""
        return self.introspection.issue(self._access_claims(claims))

    def expired_token(self) -> str:
        """An access token that expired an hour ago."""
        return self.access_token(iat=int(time.time()) - 7200, exp=int(time.time()) - 3600)

    def id_token(self, **claims: Any) -> str:
        """The ID token that a login gives to the application. ``claims`` as above."""
        now = int(time.time())
        defaults = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": CLIENT_ID,
            "azp": CLIENT_ID,
            "iat": now,
            "exp": now + _TOKEN_TTL,
            "auth_time": now,
            "nonce": secrets.token_urlsafe(12),
            "at_hash": secrets.token_urlsafe(16),
        }
        return self.sign(defaults | claims, "JWT")

    def forged_token(self, **claims: Any) -> str:
        """An access token with the provider's key id, signed by another key."""
        return jwt.encode(self._access_claims(claims), self._forger, "RS256", {"kid": "RS256", "typ": "at+jwt"})

    def unsigned_token(self, **claims: Any) -> str:
        """An access token with ``alg: none``."""
        header = {"alg": "none", "typ": "at+jwt"}
        parts = header, self._access_claims(claims)
        return ".".join((*(base64url.encode(json.dumps(part).encode()) for part in parts), ""))

    def sign(self, claims: dict[str, Any], typ: str, algorithm: str = "RS256") -> str:
        """A JWT with these claims; a claim that is None is left out."""
        key, kid = (self._ec, "ES256") if algorithm == "ES256" else (self._rsa, "RS256")
        return jwt.encode(_present(claims), key, algorithm, {"kid": kid, "typ": typ})

    def jwks(self) -> dict[str, Any]:
        """The published key set. The RSA key has no ``alg``, so it serves RS256 and PS256."""
        return {
            "keys": [
                RSAAlgorithm.to_jwk(self._rsa.public_key(), as_dict=True) | {"kid": "RS256", "use": "sig"},
                ECAlgorithm.to_jwk(self._ec.public_key(), as_dict=True) | {"kid": "ES256", "use": "sig"},
            ]
        }

    def _access_claims(self, claims: dict[str, Any]) -> dict[str, Any]:
        now = int(time.time())
        defaults = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": AUDIENCE,
            "client_id": CLIENT_ID,
            "scope": "read:appointments",
            "iat": now,
            "exp": now + _TOKEN_TTL,
            "jti": secrets.token_urlsafe(12),
        }
        return _present(defaults | claims)

    def _jwt_claims(self, token: str) -> dict[str, Any] | None:
        """The claims of an access token that this provider signed; None for any other string."""
        try:
            header = jwt.get_unverified_header(token)
            key = jwt.PyJWKSet.from_dict(self.jwks())[header["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token, key, [header["kid"]], options={"verify_aud": False, "verify_exp": False}
            )
        except (jwt.InvalidTokenError, KeyError):
            return None
        return claims if header["typ"] == "at+jwt" else None

    # HTTP.

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", self._serve_metadata)
        application.router.add_get("/jwks.json", self._serve_jwks)
        application.router.add_post("/token", self._serve_token)
        application.router.add_post("/login", self._serve_login)
        application.router.add_post("/introspect", self._serve_introspection)
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
                "dpop_signing_alg_values_supported": ["ES256"],
                "introspection_endpoint": f"{self.issuer}/introspect",
                "revocation_endpoint": f"{self.issuer}/revoke",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _serve_jwks(self, _request: web.Request) -> web.Response:
        return web.json_response(self.jwks())

    async def _serve_token(self, request: web.Request) -> web.Response:
        """Client credentials (RFC 6749 section 4.4), with ``scope`` and ``resource`` (RFC 8707) or ``audience``.

        With a DPoP proof, the token is bound to its key (RFC 9449 section 5). ``format=opaque``, an extension of this
        provider, requests an opaque token.
        """
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        if not is_authenticated(request, form, CLIENT_ID, CLIENT_SECRET):
            return web.json_response({"error": "invalid_client"}, status=401, headers={"WWW-Authenticate": "Basic"})
        scope = str(form.get("scope", "read:appointments"))
        audience = str(form.get("resource") or form.get("audience") or AUDIENCE)
        proof = request.headers.get("DPoP")
        try:
            cnf = None if proof is None else {"jkt": jkt_of(proof, "POST", f"{self.issuer}/token")}
        except ValueError:
            return web.json_response({"error": "invalid_dpop_proof"}, status=400)
        mint = self.opaque_token if form.get("format") == "opaque" else self.access_token
        token = mint(sub=CLIENT_ID, scope=scope, aud=audience, cnf=cnf)
        token_type = "Bearer" if cnf is None else "DPoP"
        response = {"access_token": token, "token_type": token_type, "expires_in": _TOKEN_TTL, "scope": scope}
        return web.json_response(response, headers={"Cache-Control": "no-store"})

    async def _serve_login(self, _request: web.Request) -> web.Response:
        """The result of a login, without the login: an ID token for the application."""
        return web.json_response({"id_token": self.id_token()}, headers={"Cache-Control": "no-store"})

    async def _serve_introspection(self, request: web.Request) -> web.StreamResponse:
        return await self.introspection.serve(request)


def _present(claims: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if value is not None}

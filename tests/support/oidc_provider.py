"""A real, certified identity provider (oidc-provider from npm), and its clients.

No token here is self-made: the provider issues all of them at its own endpoints, to clients that follow the standards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import aiohttp

from authz_service.demo.envoy import Bootstrap, Envoy
from authz_service.demo.run import SampleResult, send
from authz_service.demo.samples import Sample
from authz_service.demo.upstream import Upstream
from support.node import RESPONSE_TIMEOUT, NodeProgram
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from support.dpop import DpopKey

FOLDER = Path(__file__).parent.parent / "end_to_end" / "oidc_provider"
RELEASES = ("oidc-provider", "oidc-provider-8")  # as package.json names them
_TIMEOUT = aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT)

ALGORITHMS = {alg: f"https://{alg.lower()}.api.example/" for alg in ("RS256", "ES256", "EdDSA", "PS256")}
API = ALGORITHMS["RS256"]
OPAQUE_API = "https://opaque.api.example/"  # whose access tokens are opaque
OTHER_API, OTHER_OPAQUE_API = "https://other.example/", "https://opaque.other.example/"
READ, WRITE = "read:appointments", "write:appointments"
SERVICE = {"client_id": "service", "client_secret": "service-secret"}
APP, CALLBACK = {"client_id": "app", "client_secret": "app-secret"}, "https://app.example/callback"


def authorization_request(verifier: str) -> dict[str, str]:
    """The parameters by which the application requests a code (RFC 7636)."""
    challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return {
        "client_id": APP["client_id"],
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": "openid email",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }


class OidcProvider(NodeProgram):
    """A running oidc-provider while its context is open, and its clients."""

    def __init__(
        self, release: str, log: Path, clients: Sequence[dict[str, Any]] = (), *, tls: Path | None = None
    ) -> None:
        """``clients`` are the registrations of further clients, such as APIs that introspect tokens.

        With ``tls``, a PEM file with a certificate and its key, it also listens with TLS.
        """
        arguments = [release, json.dumps(list(clients)), *([] if tls is None else [str(tls)])]
        super().__init__("oidc-provider", FOLDER / "provider.mjs", arguments, log)
        self.issuer = ""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.issuer = self.greeting["issuer"]
        return self

    async def publish(self, *keys: str) -> None:
        """Replace its key set. The first key that fits an algorithm signs."""
        await self.request({"publish": keys})

    async def fetches(self) -> int:
        """The number of requests for its key set."""
        count: int = (await self.request({}))["served"].get("/jwks", 0)
        return count

    async def introspections(self) -> int:
        """The number of introspection requests."""
        count: int = (await self.request({}))["served"].get("/token/introspection", 0)
        return count

    # Clients.

    async def access_token(self, resource: str = API, scope: str = READ) -> str:
        """A token for the client credentials grant (RFC 6749 section 4.4, RFC 8707)."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        token: str = (await self._token(SERVICE | form))["access_token"]
        return token

    async def bound_token(self, key: DpopKey, resource: str = API, scope: str = READ) -> str:
        """The same, bound to this key (RFC 9449 section 5, with a nonce as in section 8)."""
        form = SERVICE | {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        url, nonce = f"{self.issuer}/token", None
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                proof = key.proof("POST", url, None, now=time.time(), nonce=nonce)
                async with session.post(url, data=form, headers={"DPoP": proof}) as response:
                    tokens: dict[str, Any] = await response.json()
                    if tokens.get("error") != "use_dpop_nonce" or nonce is not None:
                        assert tokens.get("token_type") == "DPoP", tokens
                        return str(tokens["access_token"])
                    nonce = response.headers["DPoP-Nonce"]

    async def login(self, **parameters: str) -> dict[str, Any]:
        """The token response that the application gets after alice has logged in."""
        verifier = secrets.token_urlsafe(32)
        query = parse_qs(urlsplit(await self.callback(verifier, **parameters)).query)
        form = {"grant_type": "authorization_code", "redirect_uri": CALLBACK, "code_verifier": verifier}
        resource = {name: parameters[name] for name in ("resource",) if name in parameters}
        return await self._token(APP | form | resource | {"code": query["code"][0]})

    async def refresh(self, token: str) -> dict[str, Any]:
        """The token response for a refresh token."""
        return await self._token(APP | {"grant_type": "refresh_token", "refresh_token": token})

    async def revoke(self, token: str) -> None:
        """Revoke a token of the service (RFC 7009)."""
        await self._post("/token/revocation", SERVICE | {"token": token})

    async def callback(self, verifier: str = "v" * 43, **parameters: str) -> str:
        """The redirect URL after alice's login (OpenID Connect Core 1.0 section 3.1, RFC 7636)."""
        query = urlencode(authorization_request(verifier) | parameters)
        return await self.browse(f"{self.issuer}/auth?{query}", CALLBACK)

    async def browse(self, url: str, callback: str) -> str:
        """The redirect URL that alice's browser reaches after her login."""
        jar = aiohttp.CookieJar(unsafe=True)  # accept cookies from an IP address
        async with asyncio.timeout(RESPONSE_TIMEOUT), aiohttp.ClientSession(cookie_jar=jar) as browser:
            while not url.startswith(callback):
                async with browser.get(url, allow_redirects=False) as response:
                    assert response.status == 303, await response.text()
                    url = urljoin(url, response.headers["Location"])
        return url

    async def userinfo(self, token: str) -> str:
        """The UserInfo response, signed (OpenID Connect Core 1.0 section 5.3.2)."""
        return await self._post("/me", {"access_token": token})

    async def introspection(self, token: str) -> str:
        """The introspection response, signed (RFC 9701)."""
        headers = {"Accept": "application/token-introspection+jwt"}
        return await self._post("/token/introspection", APP | {"token": token}, headers)

    async def _token(self, form: dict[str, str]) -> dict[str, Any]:
        tokens: dict[str, Any] = json.loads(await self._post("/token", form))
        return tokens

    async def _post(self, path: str, form: dict[str, str], headers: dict[str, str] | None = None) -> str:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.post(f"{self.issuer}{path}", data=form, headers=headers) as response,
        ):
            body = await response.text()
            assert response.status == 200, body
            return body


@dataclass(frozen=True, slots=True)
class Mesh:
    """The provider, the sidecar, and Envoy in front of an API."""

    provider: OidcProvider
    sidecar: SidecarProcess
    envoy: Envoy

    async def send(self, token: str, path: str = "/appointments") -> SampleResult:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            return await send(session, self.envoy.port, Sample("", path, 0, "", token))

    async def wait_for(self, token: str, reason: str) -> None:
        async with asyncio.timeout(RESPONSE_TIMEOUT):
            while (await self.send(token)).reason != reason:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.05)

    async def cache_hits(self) -> float:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"{self.sidecar.admin_url}/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        series = 'authz_token_cache_lookups_total{result="hit"} '
        return next(float(line.removeprefix(series)) for line in lines if line.startswith(series))


@asynccontextmanager
async def running(
    folder: Path,
    provider: OidcProvider,
    configuration: str,
    server: Mapping[str, Any] | None = None,
    bootstrap: Callable[[str, int], Bootstrap] = Bootstrap,
) -> AsyncIterator[Mesh]:
    """The API, the sidecar with this configuration, and Envoy."""
    config = folder / "config.yaml"
    settings = {"grpc_address": "unix:authz.sock", "admin_address": "127.0.0.1:0", **(server or {})}
    config.write_text(f"server: {json.dumps(settings)}\n{configuration}")
    async with (
        Upstream() as upstream,
        SidecarProcess(config, folder / "sidecar.log") as sidecar,
        Envoy(bootstrap(f"unix:{folder}/authz.sock", upstream.port), folder) as envoy,
    ):
        yield Mesh(provider, sidecar, envoy)

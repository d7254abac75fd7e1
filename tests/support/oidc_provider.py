"""A real, certified identity provider (oidc-provider from npm), and its clients.

No token here is self-made: the provider issues all of them at its own endpoints, to clients that follow the standards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import aiohttp

from authz_service.demo import child_process
from authz_service.demo.envoy import Bootstrap, Envoy
from authz_service.demo.run import SampleResult, send
from authz_service.demo.samples import Sample
from authz_service.demo.upstream import Upstream
from support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

FOLDER = Path(__file__).parent.parent / "end_to_end" / "oidc_provider"
RELEASES = ("oidc-provider", "oidc-provider-8")  # as package.json names them
RESPONSE_TIMEOUT = 10.0
_START_TIMEOUT, _STOP_TIMEOUT = 30.0, 5.0
_TIMEOUT = aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT)

ALGORITHMS = {alg: f"https://{alg.lower()}.api.example/" for alg in ("RS256", "ES256", "EdDSA", "PS256")}
API = ALGORITHMS["RS256"]
OPAQUE_API = "https://opaque.api.example/"  # whose access tokens are opaque
OTHER_API, OTHER_OPAQUE_API = "https://other.example/", "https://opaque.other.example/"
READ, WRITE = "read:appointments", "write:appointments"
_SERVICE = {"client_id": "service", "client_secret": "service-secret"}
_APP, _CALLBACK = {"client_id": "app", "client_secret": "app-secret"}, "https://app.example/callback"


class OidcProvider:
    """A running oidc-provider while its context is open, and its clients."""

    def __init__(self, release: str, log: Path, apis: Sequence[dict[str, Any]] = ()) -> None:
        """``apis`` are the registrations of clients that may introspect tokens."""
        self._release = release
        self._apis = json.dumps(list(apis))
        self._log = log
        self._process: Process | None = None
        self.issuer = ""

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("node", "provider.mjs", self._release, self._apis), cwd=FOLDER, stdin=pipe, stdout=pipe, stderr=log
            )
        async with child_process.stop_unless_ready("oidc-provider", self._process, self._log, _START_TIMEOUT):
            self.issuer = (await self._reply(self._process))["issuer"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        await child_process.stop(self._process, _STOP_TIMEOUT)

    async def publish(self, *keys: str) -> None:
        """Replace its key set. The first key that fits an algorithm signs."""
        await self._request({"publish": keys})

    async def fetches(self) -> int:
        """The number of requests for its key set."""
        count: int = (await self._request({}))["served"].get("/jwks", 0)
        return count

    async def introspections(self) -> int:
        """The number of introspection requests."""
        count: int = (await self._request({}))["served"].get("/token/introspection", 0)
        return count

    async def _request(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(RESPONSE_TIMEOUT):
            return await self._reply(self._process)

    async def _reply(self, process: Process) -> dict[str, Any]:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            await process.wait()
            child_process.require_running("oidc-provider", process, self._log)
        reply: dict[str, Any] = json.loads(line)
        return reply

    # Clients.

    async def access_token(self, resource: str = API, scope: str = READ) -> str:
        """A token for the client credentials grant (RFC 6749 section 4.4, RFC 8707)."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        token: str = (await self._token(_SERVICE | form))["access_token"]
        return token

    async def login(self, **parameters: str) -> dict[str, Any]:
        """The token response that the application gets after alice has logged in."""
        verifier = secrets.token_urlsafe(32)
        query = parse_qs(urlsplit(await self.callback(verifier, **parameters)).query)
        form = {"grant_type": "authorization_code", "redirect_uri": _CALLBACK, "code_verifier": verifier}
        resource = {name: parameters[name] for name in ("resource",) if name in parameters}
        return await self._token(_APP | form | resource | {"code": query["code"][0]})

    async def refresh(self, token: str) -> dict[str, Any]:
        """The token response for a refresh token."""
        return await self._token(_APP | {"grant_type": "refresh_token", "refresh_token": token})

    async def revoke(self, token: str) -> None:
        """Revoke a token of the service (RFC 7009)."""
        await self._post("/token/revocation", _SERVICE | {"token": token})

    async def callback(self, verifier: str = "v" * 43, **parameters: str) -> str:
        """The redirect URL after alice's login (OpenID Connect Core 1.0 section 3.1, RFC 7636)."""
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        defaults = {
            "client_id": _APP["client_id"],
            "response_type": "code",
            "redirect_uri": _CALLBACK,
            "scope": "openid email",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        url = f"{self.issuer}/auth?{urlencode(defaults | parameters)}"
        jar = aiohttp.CookieJar(unsafe=True)  # accept cookies from an IP address
        async with asyncio.timeout(RESPONSE_TIMEOUT), aiohttp.ClientSession(cookie_jar=jar) as browser:
            while not url.startswith(_CALLBACK):
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
        return await self._post("/token/introspection", _APP | {"token": token}, headers)

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
async def running(folder: Path, provider: OidcProvider, configuration: str) -> AsyncIterator[Mesh]:
    """The API, the sidecar with this configuration, and Envoy."""
    config = folder / "config.yaml"
    server = 'server: {grpc_address: "unix:authz.sock", admin_address: "127.0.0.1:0"}\n'
    config.write_text(server + configuration)
    async with (
        Upstream() as upstream,
        SidecarProcess(config, folder / "sidecar.log") as sidecar,
        Envoy(Bootstrap(f"unix:{folder}/authz.sock", upstream.port), folder) as envoy,
    ):
        yield Mesh(provider, sidecar, envoy)

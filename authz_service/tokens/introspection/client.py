"""Asking an introspection server over HTTP (RFC 7662 section 2), and reading its answer, plain or signed (RFC 9701).

Law: one POST a question, over connections that are used again; no redirect, no second try, no answer larger than
``MAX_ANSWER`` or later than ``timeout``. What a server wrote never enters an error's text: it may hold the token.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed, Rejected
from authz_service.keys.cache import NoKey
from authz_service.keys.keyset import MAX_CANDIDATES
from authz_service.providers.client import ProviderClient, retry_after
from authz_service.providers.discovery import Discovery
from authz_service.providers.urls import shown
from authz_service.tokens.introspection.introspector import ClientRefused, Forbidden, RequestRefused
from authz_service.tokens.jwt import jws

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz_service.config.model import Introspection, Issuer
    from authz_service.keys.cache import KeyCache
    from authz_service.providers.client import Network
    from authz_service.providers.client_authentication import ClientAuthentication
    from authz_service.providers.exchange import Response
    from authz_service.tokens.jwt.jws import Jws

MAX_ANSWER = 1 << 16  # bytes; the largest answer known has 4 KiB, and a signed one is a third longer
# Seconds for which an idle connection is kept: less than the 5 after which Node.js and Apache close theirs, so that a
# question does not meet a connection that is just being closed, and is not to be tried twice.
_KEEPALIVE = 4.0
_JWT = "application/token-introspection+jwt"
_READ = frozenset({HTTPStatus.OK, HTTPStatus.BAD_REQUEST})  # statuses with a content that says something
_JWT_TYPES = frozenset({"token-introspection+jwt", _JWT})  # RFC 9701 section 5


class HttpClient:
    """Asks one issuer's introspection server."""

    def __init__(
        self,
        issuer: Issuer,
        settings: Introspection,
        authentication: ClientAuthentication,
        keys: KeyCache,
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
        network: Network | None = None,
    ) -> None:
        """``clock`` gives seconds since the epoch, ``timer`` seconds of a clock that is never set.

        ``network`` is what the clients of a process share.
        """
        self._issuer = issuer
        self._settings = settings
        self._authentication = authentication
        self._keys = keys
        self._clock = clock
        self._client = ProviderClient(
            accept="application/json",
            max_connections=settings.max_concurrent + 1,  # one for the metadata
            network=network,
            ca_file=issuer.keys.ca_file,
            allow_http=issuer.keys.allow_http,
            keepalive=_KEEPALIVE,
        )
        self._endpoint = _Endpoint(issuer, settings, self._client, timer)

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """What the server says of a token.

        Raises:
            FetchFailed: for any trouble with network, TLS, time, status, size or content; and as the two that the
                introspector knows, where the server does not want this client, or this question.
        """
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await self._ask(await self._endpoint.url(), token)
        except TimeoutError:
            raise FetchFailed(f"no complete answer within {self._settings.timeout:g} s") from None

    async def prepare(self) -> None:
        """Find the endpoint and load the trust anchors, so that the first question does not wait for that."""
        with contextlib.suppress(FetchFailed):  # what cannot be had yet, the calls tell
            if shown(await self._endpoint.url()).startswith("https:"):
                await self._client.prepare()

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()
        await self._client.close()

    async def _ask(self, url: str, token: str) -> Mapping[str, Any]:
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self._authentication.add_to(form)}
        data = urlencode(form).encode("ascii")
        response = await self._client.post(url, data, headers, MAX_ANSWER, _READ)
        if response.status != HTTPStatus.OK:
            raise self._refusal(shown(url), response)
        kind = response.content_type
        if kind == "application/json":
            return _object(response.body)
        if kind == _JWT:
            return await self._verified(response.body)
        raise FetchFailed(f"{shown(url)} answered in a content type that is not one of introspection")

    def _refusal(self, place: str, response: Response) -> FetchFailed:
        cause = f"{place} answered with status {response.status}"
        match response.status:
            case HTTPStatus.UNAUTHORIZED:
                return ClientRefused(f"{cause}: look at client_id, its secret or key, and auth_method")
            case HTTPStatus.FORBIDDEN:
                return Forbidden(f"{cause}: look at client_id and what it may do, or at what stands before the server")
            case HTTPStatus.BAD_REQUEST:
                return _of_bad_request(cause, response.body)
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNPROCESSABLE_ENTITY:
                return RequestRefused(cause)
            case _:
                return FetchFailed(cause, retry_after=retry_after(response.headers.get("retry-after"), self._clock()))

    async def _verified(self, body: bytes) -> Mapping[str, Any]:
        """What stands in a signed answer, which must be the issuer's, to us, and nothing but such an answer."""
        try:
            answer = jws.parse(body.decode("ascii"))
        except (UnicodeDecodeError, Rejected):
            raise FetchFailed("the signed answer is no JWT") from None
        typ = answer.header.get("typ")
        if not isinstance(typ, str) or typ.lower() not in _JWT_TYPES:
            raise FetchFailed("the signed answer is a JWT of another type")
        await self._require_signature(answer)
        members, said = answer.unverified_claims, answer.unverified_claims.get("token_introspection")
        audience = members.get("aud")
        if members.get("iss") != self._issuer.issuer:
            raise FetchFailed("the signed answer is another issuer's")
        if self._settings.client_id not in (audience if isinstance(audience, list) else [audience]):
            raise FetchFailed("the signed answer is for another client")
        if not isinstance(said, dict):
            raise FetchFailed("the signed answer says nothing of the token")
        return said

    async def _require_signature(self, answer: Jws) -> None:
        if not self._issuer.has_keys or answer.algorithm not in self._issuer.algorithms:
            raise FetchFailed("the signed answer cannot be verified: no keys, or another algorithm than accepted")
        keys = self._keys.find(answer.kid, self._clock(), may_fetch=True)
        if keys is NoKey.FETCH:
            await self._keys.refresh_for_request()
            keys = self._keys.find(answer.kid, self._clock(), may_fetch=False)
        if isinstance(keys, NoKey):
            raise FetchFailed(f"the signed answer cannot be verified: {keys.value}")
        fitting = [key for key in keys if answer.algorithm in key.algorithms][:MAX_CANDIDATES]
        if not any(key.verifies(answer.algorithm, answer.signing_input, answer.signature) for key in fitting):
            raise FetchFailed("the signature of the signed answer does not verify")


class _Endpoint:
    """Where to ask: as configured, or as the issuer's metadata say, which are looked at anew now and then."""

    def __init__(
        self, issuer: Issuer, settings: Introspection, client: ProviderClient, timer: Callable[[], float]
    ) -> None:
        self._configured = settings.endpoint
        self._keys = issuer.keys
        self._discovery = Discovery(issuer.issuer, issuer.keys, client)
        self._timer = timer
        self._found: str | None = None
        self._look_again = 0.0
        self._looking: asyncio.Task[str] | None = None

    async def url(self) -> str:
        """The address. One that was found serves until another one is.

        Raises:
            FetchFailed: when none was ever found.
        """
        if self._configured is not None:
            return self._configured
        if self._found is not None:
            if self._timer() >= self._look_again:
                self._look()
            return self._found
        looking = self._look()
        await asyncio.wait([looking])
        return looking.result()

    def _look(self) -> asyncio.Task[str]:
        if self._looking is None or self._looking.done():
            self._look_again = self._timer() + self._keys.min_refresh_interval
            self._looking = asyncio.create_task(self._discover(), name="discovery of an introspection endpoint")
            self._looking.add_done_callback(_taken)
        return self._looking

    async def _discover(self) -> str:
        try:
            async with asyncio.timeout(self._keys.timeout):
                self._found = await self._discovery.address("introspection_endpoint")
        except TimeoutError:
            raise FetchFailed(f"no complete metadata within {self._keys.timeout:g} s") from None
        self._look_again = self._timer() + self._keys.refresh_interval
        return self._found

    async def close(self) -> None:
        """End what is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])


def _taken(task: asyncio.Task[str]) -> None:
    """A failure that nobody waits for is none to report: the address that was found before serves on."""
    if not task.cancelled():
        task.exception()


def _of_bad_request(cause: str, body: bytes) -> FetchFailed:
    """Some servers say so that they do not know the client (RFC 6749 section 5.2); else it is about the token."""
    try:
        said = _object(body).get("error")
    except FetchFailed:
        said = None
    if said in ("invalid_client", "unauthorized_client"):  # compared one by one: it may be a list
        return ClientRefused(f"{cause}, {said}: look at client_id, its secret or key, and auth_method")
    if said == "unsupported_token_type":  # RFC 7009 section 2.2.1
        return RequestRefused(f"{cause}, unsupported_token_type: it cannot be asked about such tokens")
    return RequestRefused(cause)


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = strict_json.loads(body)
    except ValueError as error:
        raise FetchFailed(f"the answer is no JSON that can be read in one way: {error}") from None
    if not isinstance(said, dict):
        raise FetchFailed("the answer is no JSON object")
    return said

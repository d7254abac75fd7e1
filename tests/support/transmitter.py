"""A transmitter of security events over HTTP on loopback (SSF 1.0, RFC 8936), with its keys and token endpoint.

It has one stream. Where RFC 8936 leaves a choice it does as Keycloak does: what is not acknowledged is delivered again
by the next poll, the oldest first. Unlike Keycloak it waits for events, unless ``waits`` is False.

``fault`` and ``token_fault`` replace the response of an endpoint while they are set: see ``FAULTS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authz_service.demo.client_secret import is_authenticated
from authz_service.tokens.revocation.events import ACCOUNT_DISABLED, ACCOUNT_PURGED, SESSION_REVOKED
from support.http_provider import Handler, Provider
from support.signing import Signer, private_key

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

POLL, TOKEN = "/ssf/poll", "/token"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"
RECEIVER = "https://receiver.example"  # the audience of the stream
CLIENT_ID, CLIENT_SECRET = "authz", "s3cret"
CLIENT_KEY = private_key("ES256", "the receiver's")
SCOPES = ("ssf.read", "ssf.manage")
STREAM = {"format": "opaque", "id": "stream-1"}
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TTL = 300  # seconds


class Grant(NamedTuple):
    """An access token of the receiver."""

    scope: str
    expires: float


@dataclass
class Refusal:
    """Why the receiver refused a SET."""

    err: str
    description: str = ""


class Transmitter(Provider):
    """Transmits the events of one stream to a receiver with these client credentials."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        port: int = 0,
        signer: Signer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(tls, port=port)
        self.signer = signer or Signer("RS256", "rs")
        self.clock = clock
        # Access tokens.
        self.grants: dict[str, Grant] = {}
        self.expires_in: object = _TTL  # None: not in the response
        self.token_fault: Handler | None = None
        # The stream.
        self.sets: dict[str, object] = {}  # not acknowledged, by the jti under which they are delivered
        self.acknowledged: list[str] = []
        self.refused: dict[str, Refusal] = {}
        self.polls: list[dict[str, Any]] = []  # bodies of the requests
        self.fault: Handler | None = None
        self.waits = True
        self.max_wait = 25.0  # seconds
        self.floods = False  # ignores maxEvents and acknowledgments, and there is always more
        self._changed = asyncio.Condition()
        self.handlers |= {
            "/.well-known/openid-configuration": self._serve_metadata,
            "/jwks.json": self._serve_keys,
            TOKEN: self._serve_token,
            POLL: self._serve_poll,
        }

    @property
    def issuer(self) -> str:
        return self.origin

    async def stop(self) -> None:
        """Close all connections and refuse new ones. The stream remains."""
        await self.__aexit__(None, None, None)

    async def start(self) -> None:
        """Listen again, at the same port."""
        await self.__aenter__()

    # Configuration of the receiver.

    def security_events(self, folder: Path, *, key: bool = False, **changes: Any) -> dict[str, Any]:
        """The receiver's ``security_events``, with its credential in this folder. None removes a setting.

        With ``key`` the client authenticates by private_key_jwt, otherwise by client_secret_basic.
        """
        credential = folder / ("client-key" if key else "client-secret")
        pem = CLIENT_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        credential.write_bytes(pem if key else CLIENT_SECRET.encode())
        own = {
            "poll_endpoint": self.origin + POLL,
            "audience": RECEIVER,
            "client_id": CLIENT_ID,
            "private_key_file" if key else "client_secret_file": str(credential),
            "scopes": list(SCOPES),
        }
        return {name: value for name, value in (own | changes).items() if value is not None}

    # Tokens and events.

    def access_token(self, **claims: Any) -> str:
        """An access token of a user. ``claims`` override the default ones, and None removes one."""
        now = int(self.clock())
        own = {"iss": self.issuer, "sub": "u1", "aud": "api", "client_id": "app", "iat": now, "exp": now + _TTL}
        return self.signer.sign({name: value for name, value in (own | claims).items() if value is not None})

    def grant(self, *, scope: str = " ".join(SCOPES), ttl: float = _TTL) -> str:
        """An access token of the receiver."""
        token = secrets.token_urlsafe(16)
        self.grants[token] = Grant(scope, self.clock() + ttl)
        return token

    def set_of(
        self,
        event: str,
        sub_id: object = None,
        *,
        payload: object = None,
        signer: Signer | None = None,
        typ: str = "secevent+jwt",
        **claims: Any,
    ) -> str:
        """A SET with one event. ``claims`` override the default ones, and None removes one."""
        now = int(self.clock())
        own = {
            "iss": self.issuer,
            "aud": RECEIVER,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "sub_id": sub_id,
            "events": {event: {"event_timestamp": now} if payload is None else payload},
        }
        present = {name: value for name, value in (own | claims).items() if value is not None}
        return (signer or self.signer).sign(present, {"typ": typ})

    async def deliver(self, text: object, jti: str | None = None) -> str:
        """Deliver this to the receiver, under the SET's own jti unless there is another; returns the jti."""
        if jti is None:
            jti = str(jwt.decode(str(text), options={"verify_signature": False})["jti"])
        async with self._changed:
            self.sets[jti] = text
            self._changed.notify_all()
        return jti

    async def emit(self, event: str, sub_id: object = None, **changes: Any) -> str:
        """Deliver an event; returns the jti. ``changes`` are those of ``set_of``."""
        return await self.deliver(self.set_of(event, sub_id, **changes))

    async def revoke_session(self, sub: str, sid: str, **changes: Any) -> str:
        """A session of a user has ended; Keycloak writes ``ALL`` for all sessions."""
        sub_id = {"format": "complex", "user": self.user(sub), "session": {"format": "opaque", "id": sid}}
        return await self.emit(SESSION_REVOKED, sub_id, **changes)

    async def disable(self, sub: str, **changes: Any) -> str:
        return await self.emit(ACCOUNT_DISABLED, self.user(sub), **changes)

    async def purge(self, sub: str, **changes: Any) -> str:
        return await self.emit(ACCOUNT_PURGED, self.user(sub), **changes)

    async def verification(self, state: str | None = None) -> str:
        """The receiver requested this event to verify the stream (SSF 1.0 section 8.1.4)."""
        return await self.emit(VERIFICATION, STREAM, payload={} if state is None else {"state": state})

    def user(self, sub: str) -> dict[str, str]:
        return {"format": "iss_sub", "iss": self.issuer, "sub": sub}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until this is true; it is evaluated after each request of a poll and each delivery."""
        async with self._changed:
            await self._changed.wait_for(condition)

    # HTTP.

    async def _serve_metadata(self, _request: web.Request) -> web.Response:
        own = {"issuer": self.issuer, "jwks_uri": f"{self.origin}/jwks.json", "token_endpoint": self.origin + TOKEN}
        return web.json_response(own)

    async def _serve_keys(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [self.signer.jwk()]})

    async def _serve_token(self, request: web.Request) -> web.StreamResponse:
        if self.token_fault is not None:
            return await self.token_fault(request)
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        if not (is_authenticated(request, form, CLIENT_ID, CLIENT_SECRET) or self._has_assertion(form)):
            return web.json_response({"error": "invalid_client"}, status=401, headers={"WWW-Authenticate": "Basic"})
        scope = str(form.get("scope", ""))
        if not set(scope.split()) <= set(SCOPES):
            return web.json_response({"error": "invalid_scope", "error_description": scope}, status=400)
        ttl = self.expires_in if isinstance(self.expires_in, (int, float)) else _TTL
        members: dict[str, object] = {"access_token": self.grant(scope=scope, ttl=ttl), "token_type": "Bearer"}
        if self.expires_in is not None:
            members["expires_in"] = self.expires_in
        return web.json_response(members, headers={"Cache-Control": "no-store"})

    def _has_assertion(self, form: Any) -> bool:
        """Whether the client authenticates by private_key_jwt (RFC 7523 section 3)."""
        if form.get("client_assertion_type") != _ASSERTION_TYPE or form.get("client_id") != CLIENT_ID:
            return False
        try:
            jwt.decode(
                str(form.get("client_assertion")),
                CLIENT_KEY.public_key(),
                ["ES256"],
                audience=self.issuer,
                issuer=CLIENT_ID,
                subject=CLIENT_ID,
                options={"require": ["exp", "jti", "iat"]},
            )
        except jwt.InvalidTokenError:
            return False
        return True

    async def _serve_poll(self, request: web.Request) -> web.StreamResponse:
        if self.fault is not None:
            await self._record(await request.json())
            return await self.fault(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        grant = self.grants.get(token)
        if scheme != "Bearer" or grant is None or grant.expires <= self.clock() or "ssf.read" not in grant.scope:
            return web.json_response({"error": "invalid_token"}, status=401)
        if request.method != "POST":
            return web.Response(status=405)
        if request.content_type != "application/json":
            return web.Response(status=415)
        body = await request.json()
        if not _is_poll(body) or bool(body.get("setErrs")) != ("Content-Language" in request.headers):
            return web.json_response({"err": "invalid_request"}, status=400)
        await self._record(body)
        return web.json_response(await self._respond(body))

    async def _record(self, body: dict[str, Any]) -> None:
        self.polls.append(body)
        async with self._changed:
            self._changed.notify_all()

    async def _respond(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.floods:
            return {"sets": dict(self._flood()), "moreAvailable": True}
        async with self._changed:
            for jti in body.get("ack", ()):
                if jti in self.sets:
                    del self.sets[jti]
                    self.acknowledged.append(jti)
            for jti, why in body.get("setErrs", {}).items():
                if jti in self.sets:
                    del self.sets[jti]
                    self.refused[jti] = Refusal(**why)
            self._changed.notify_all()
            if self.waits and not body.get("returnImmediately") and body.get("maxEvents") != 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.max_wait):
                        await self._changed.wait_for(lambda: bool(self.sets))
            sets = dict(list(self.sets.items())[: body.get("maxEvents")])
            return {"sets": sets, "moreAvailable": len(sets) < len(self.sets)}

    def _flood(self) -> list[tuple[str, str]]:
        """New events: more than were requested, as many as fit into a megabyte. The first sixty differ."""
        texts = [self.set_of(SESSION_REVOKED, self.user(f"nobody-{secrets.token_hex(4)}")) for _ in range(60)]
        texts += texts[-1:] * (1_000_000 // (len(texts[0]) + 24) - len(texts))
        return [(secrets.token_urlsafe(12), text) for text in texts]


def _is_poll(body: Any) -> bool:
    """Whether this is a request as in RFC 8936 section 2.2, and without anything else."""
    if not isinstance(body, dict) or body.keys() - {"maxEvents", "returnImmediately", "ack", "setErrs"}:
        return False
    acks, errors = body.get("ack", []), body.get("setErrs", {})
    return (
        type(body.get("maxEvents", 0)) is int
        and body.get("maxEvents", 0) >= 0
        and isinstance(body.get("returnImmediately", False), bool)
        and isinstance(acks, list)
        and all(isinstance(jti, str) for jti in acks)
        and isinstance(errors, dict)
        and all(isinstance(each, dict) and isinstance(each.get("err"), str) for each in errors.values())
    )


# Faults.


def respond(
    body: bytes = b'{"sets":{}}', status: int = 200, content_type: str = "application/json", **headers: str
) -> Handler:
    """A handler with this response. Underscores in the names of headers become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def handle(_request: web.Request) -> web.StreamResponse:
        if status in {204, 304}:
            return web.Response(status=status, headers=named)
        return web.Response(body=body, status=status, headers=named | {"Content-Type": content_type})

    return handle


async def hang(_request: web.Request) -> web.StreamResponse:
    """Never respond."""
    await asyncio.Event().wait()
    raise AssertionError


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without a response."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of the response."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = 100
    await response.prepare(request)
    await response.write(b'{"sets":')
    return await drop(request)


async def drip(request: web.Request) -> web.StreamResponse:
    """Send a valid response that never ends, a space at a time."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"sets":{}')
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


FAULTS: dict[str, Handler] = {
    "it hangs": hang,
    "it drips": drip,
    "it drops the connection": drop,
    "it breaks off": break_off,
    "too large": respond(b'{"sets":{"a":"' + b"x" * (1 << 20) + b'"}}'),
    "endless": respond(b'{"sets":{}}' + b" " * (8 << 20)),
    "too many values": respond(b'{"sets":{},"a":[' + b"1," * 500_000 + b"1]}"),
    "too many levels": respond(b'{"sets":{},"a":' + b"[" * 4000 + b"]" * 4000 + b"}"),
    "empty": respond(b""),
    "not JSON": respond(b"not JSON"),
    "half of it": respond(b'{"sets":{"a":'),
    "a duplicate member": respond(b'{"sets":{},"sets":{}}'),
    "not UTF-8": respond(b'{"sets":{"\xff":""}}'),
    "a list": respond(b"[]"),
    "null": respond(b"null"),
    "no sets": respond(b"{}"),
    "sets that are null": respond(b'{"sets":null}'),
    "sets that are a list": respond(b'{"sets":["a"]}'),
    "HTML": respond(b"<html></html>", content_type="text/html"),
    "another content type": respond(content_type="text/json"),
    "no content type": respond(content_type=""),
    **{
        f"status {status}": respond(status=status)
        for status in (201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 409, 410, 413, 415, 418, 429, 500, 502, 503)
    },
    "a redirect": respond(status=302, Location="/elsewhere"),
    "a redirect of the request": respond(status=307, Location="/elsewhere"),
    "a compressed response that is too large": respond(
        gzip.compress(b'{"sets":{}}' + b" " * (8 << 20)), Content_Encoding="gzip"
    ),
    "a response that is not compressed as it says": respond(Content_Encoding="gzip"),
}

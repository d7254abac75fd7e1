"""The sidecar's own objects at work in this process, over an identity provider that is asked about opaque tokens."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.config.load import load
from authz_service.demo.identity_provider import AUDIENCE
from authz_service.demo.introspection import API_ID, API_SECRET
from authz_service.runtime.application import App

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.faulty_provider import FaultyProvider

SECRET_FILE = "secret"
RULE = "rules: [{name: all, require: {scopes: ['read:appointments']}}]\n"


def issuer_of(
    provider: FaultyProvider, *, issuer: str = "", name: str = "main", keys: str = "", **asking: object
) -> str:
    """An issuer in the configuration file; ``asking`` adds to what its introspection is."""
    own = {"client_id": API_ID, "client_secret_file": SECRET_FILE, "timeout": "300ms"}
    introspection = json.dumps(own | asking)
    return (
        f"  - {{issuer: '{issuer or provider.issuer}', name: {name}, audiences: ['{AUDIENCE}'], keys: {{{keys}}},"
        f" introspection: {introspection}}}\n"
    )


class Introspected:
    """A sidecar, and what a caller sees of it."""

    def __init__(self, app: App, provider: FaultyProvider, folder: Path) -> None:
        self.app = app
        self.provider = provider
        self.secret = folder / SECRET_FILE

    async def answer(self, token: str, *, path: str = "/", deadline: float | None = None) -> CheckResponse:
        return CheckResponse.FromString(await self.app.servicer.check(_request(token, path), deadline))

    async def ask(self, token: str, *, path: str = "/", deadline: float | None = None) -> str:
        """The reason of the answer."""
        return reason_of(await self.answer(token, path=path, deadline=deadline))

    def ask_at_once(self, token: str, *, path: str = "/") -> str:
        """The same, of a request that waits for nothing: not for the network, nor for its turn in the event loop."""
        checking = self.app.servicer.check(_request(token, path), None)
        try:
            checking.send(None)
        except StopIteration as answered:
            return reason_of(CheckResponse.FromString(answered.value))
        checking.close()
        return "waits"

    async def until(self, wanted: str, token: str | None = None) -> None:
        """Wait until this token, or each time a new opaque one, comes to this."""
        async with asyncio.timeout(20):
            while await self.ask(token or self.provider.opaque_token()) != wanted:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)

    def number(self, name: str, **labels: str) -> float:
        """What a metric of the issuer says."""
        value = self.app.metrics.registry.get_sample_value(name, {"issuer": "main"} | labels)
        assert value is not None
        return value


def _request(token: str, path: str) -> bytes:
    request = CheckRequest()
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = path
    request.attributes.request.http.headers["authorization"] = f"Bearer {token}"
    return request.SerializeToString()


def reason_of(answer: CheckResponse) -> str:
    if answer.WhichOneof("http_response") == "ok_response":
        return "ok"
    return str(json.loads(answer.denied_response.body)["type"]).rpartition(":")[2]


def header_of(answer: CheckResponse, name: str) -> str:
    """A header of a denial; empty where it is absent."""
    return next((each.header.value for each in answer.denied_response.headers if each.header.key.lower() == name), "")


@asynccontextmanager
async def introspected(
    folder: Path,
    provider: FaultyProvider,
    *others: str,
    rules: str = RULE,
    wait: bool = True,
    check_deadline: str = "1s",
    **asking: Any,
) -> AsyncIterator[Introspected]:
    """A running sidecar that trusts this provider, and the issuers that ``others`` write behind it.

    Where ``wait`` is false it need not be ready.
    """
    (folder / SECRET_FILE).write_text(API_SECRET)
    config = folder / "config.yaml"
    issuers = "".join((issuer_of(provider, **asking), *others))
    server = (
        f'server: {{grpc_address: "unix:authz.sock", admin_address: "127.0.0.1:0", check_deadline: {check_deadline}}}\n'
    )
    config.write_text(f"{server}issuers:\n{issuers}{rules}")
    app = App(load(config))
    await app.start()
    try:
        async with asyncio.timeout(20):
            while wait and app.missing():  # noqa: ASYNC110 - readiness is asked for
                await asyncio.sleep(0.01)
        yield Introspected(app, provider, folder)
    finally:
        await app.close()

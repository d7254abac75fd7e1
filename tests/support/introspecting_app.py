"""The application in this process, with an issuer whose introspection endpoint can fail."""

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
from support.samples import sample_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.faulty_provider import FaultyProvider

SECRET_FILE = "secret"
RULE = "rules: [{name: all, require: {scopes: ['read:appointments']}}]\n"


def issuer_yaml(
    provider: FaultyProvider, *, issuer: str = "", name: str = "main", keys: str = "", **introspection: object
) -> str:
    """An issuer for the configuration file; ``introspection`` overrides its introspection settings."""
    defaults = {"client_id": API_ID, "client_secret_file": SECRET_FILE, "timeout": "300ms"}
    return (
        f"  - {{issuer: '{issuer or provider.issuer}', name: {name}, audiences: ['{AUDIENCE}'], keys: {{{keys}}},"
        f" introspection: {json.dumps(defaults | introspection)}}}\n"
    )


class IntrospectingApp:
    """The running application, called as Envoy calls it."""

    def __init__(self, app: App, provider: FaultyProvider, folder: Path) -> None:
        self.app = app
        self.provider = provider
        self.secret = folder / SECRET_FILE

    async def check(self, token: str, *, path: str = "/", deadline: float | None = None) -> CheckResponse:
        return CheckResponse.FromString(await self.app.servicer.check(_request(token, path), deadline))

    async def reason(self, token: str, *, path: str = "/", deadline: float | None = None) -> str:
        """The reason of the decision."""
        return reason_of(await self.check(token, path=path, deadline=deadline))

    def reason_without_waiting(self, token: str, *, path: str = "/") -> str:
        """The same in one synchronous step; ``waits`` if the decision needs the network or the event loop."""
        call = self.app.servicer.check(_request(token, path), None)
        try:
            call.send(None)
        except StopIteration as done:
            return reason_of(CheckResponse.FromString(done.value))
        call.close()
        return "waits"

    async def wait_for(self, reason: str, token: str | None = None) -> None:
        """Wait until this token, or a new opaque token in each attempt, gets this reason."""
        async with asyncio.timeout(20):
            while await self.reason(token or self.provider.opaque_token()) != reason:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.05)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric of the issuer."""
        value = sample_value(self.app.metrics, name, {"issuer": "main"} | labels)
        assert value is not None
        return value


def _request(token: str, path: str) -> bytes:
    request = CheckRequest()
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = path
    request.attributes.request.http.headers["authorization"] = f"Bearer {token}"
    return request.SerializeToString()


def reason_of(response: CheckResponse) -> str:
    if response.WhichOneof("http_response") == "ok_response":
        return "ok"
    return str(json.loads(response.denied_response.body)["type"]).rpartition(":")[2]


def header_of(response: CheckResponse, name: str) -> str:
    """A header of a denial; empty if it is absent."""
    return next((each.header.value for each in response.denied_response.headers if each.header.key.lower() == name), "")


@asynccontextmanager
async def running_app(
    folder: Path,
    provider: FaultyProvider,
    *others: str,
    rules: str = RULE,
    wait: bool = True,
    check_deadline: str = "1s",
    **introspection: Any,
) -> AsyncIterator[IntrospectingApp]:
    """The application, with this provider as an issuer, followed by ``others`` (from ``issuer_yaml``).

    If ``wait`` is false, it need not be ready.
    """
    (folder / SECRET_FILE).write_text(API_SECRET)
    config = folder / "config.yaml"
    issuers = "".join((issuer_yaml(provider, **introspection), *others))
    server = (
        f'server: {{grpc_address: "unix:authz.sock", admin_address: "127.0.0.1:0", check_deadline: {check_deadline}}}\n'
    )
    config.write_text(f"{server}issuers:\n{issuers}{rules}")
    app = App(load(config))
    await app.start()
    try:
        async with asyncio.timeout(20):
            while wait and app.missing():  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.01)
        yield IntrospectingApp(app, provider, folder)
    finally:
        await app.close()

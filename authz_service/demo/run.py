"""``authz-service demo``: start everything, send the samples through Envoy, print what came of them.

Law: the table shows what Envoy's caller saw, beside what was expected; the exit status is whether they are the same.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from authz_service.core.errors import StartFailed
from authz_service.demo.envoy import Bootstrap, Envoy
from authz_service.demo.identity_provider import AUDIENCE, CLIENT_ID, CLIENT_SECRET, IdentityProvider
from authz_service.demo.introspection import API_SECRET
from authz_service.demo.samples import HOST, SECRET_FILE, Sample, configuration, samples
from authz_service.demo.sidecar import Sidecar
from authz_service.demo.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

_GREEN, _RED, _DIM, _PLAIN = "\033[32m", "\033[31m", "\033[2m", "\033[0m"
_OK = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Envoy's caller saw, and what the API saw when it was asked."""

    status: int
    reason: str
    challenge: str
    upstream: Mapping[str, str]

    def is_expected(self, sample: Sample) -> bool:
        """Whether the sample came to what it must."""
        return (
            (self.status, self.reason) == (sample.status, sample.reason)
            and self._challenge_is_expected(sample.error)
            and all(self.upstream.get(name) == value for name, value in sample.upstream.items())
        )

    def _challenge_is_expected(self, error: str | None) -> bool:
        if error is None:
            return not self.challenge
        named = f'error="{error}"' in self.challenge if error else "error=" not in self.challenge
        return self.challenge.startswith("Bearer realm=") and named


async def send(session: aiohttp.ClientSession, port: int, sample: Sample) -> Outcome:
    """Send a sample through Envoy, its path as it stands."""
    headers = {"Host": HOST, **sample.headers}
    if sample.token is not None:
        headers["Authorization"] = f"Bearer {sample.token}"
    url = URL(f"http://127.0.0.1:{port}{sample.path}", encoded=True)
    async with session.request(sample.method, url, headers=headers) as answer:
        body = await _object_in(answer)
        return Outcome(
            status=answer.status,
            reason=answer.headers.get("x-authz-reason") or str(body.get("type", "")).rpartition(":")[2],
            challenge=answer.headers.get("WWW-Authenticate", ""),
            upstream=body.get("headers", {}),
        )


async def _object_in(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON object in the body; an empty one where Envoy itself answered, which it does in plain text or silence."""
    try:
        body = await answer.json(content_type=None)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def run(*, once: bool) -> int:
    """Run the demo; returns the exit status."""
    try:
        return asyncio.run(_until_told_to_end(once=once))
    except StartFailed as failure:
        print(f"the demo cannot start: {failure}", file=sys.stderr)
        return 1


async def _until_told_to_end(*, once: bool) -> int:
    """The demo, ended by Ctrl-C, SIGTERM or a closed terminal so that nothing that it started is left behind.

    Envoy ignores the SIGHUP of a closed terminal, so it has to be told by us.
    """
    demo = asyncio.create_task(_demo(once=once))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    try:
        return await demo
    except asyncio.CancelledError:
        return 1 if once else 0


async def _demo(*, once: bool) -> int:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="authz-demo-")))
        provider = await stack.enter_async_context(IdentityProvider())
        upstream = await stack.enter_async_context(Upstream())
        socket, config = folder / "authz.sock", folder / "config.yaml"
        config.write_text(configuration(provider.issuer, AUDIENCE, str(socket)))
        (folder / SECRET_FILE).write_text(API_SECRET)
        sidecar = await stack.enter_async_context(Sidecar(config, folder / "sidecar.log"))
        envoy = await stack.enter_async_context(Envoy(Bootstrap(f"unix:{socket}", upstream.port), folder))
        unexpected = await _show(envoy.port, samples(provider))
        if not once:
            _print_lines_to_try(provider, envoy, sidecar, folder)
            with suppress(asyncio.CancelledError):  # told to end: what the table said still counts
                await asyncio.Event().wait()
    return 1 if unexpected else 0


async def _show(port: int, wanted: list[Sample]) -> int:
    """Send the samples and print the table; returns how many came to something else."""
    paint = _paint if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else _no_paint
    print(f"  {'sample':28}{'request':36}{'status':8}{'reason':23}challenge")
    unexpected = 0
    async with aiohttp.ClientSession() as session:
        for sample in wanted:
            outcome = await send(session, port, sample)
            good = outcome.is_expected(sample)
            unexpected += not good
            status = paint(_GREEN if outcome.status == _OK else _RED, f"{outcome.status:<8}")
            mark = paint(_GREEN, "✓") if good else paint(_RED, "✗")
            request = f"{sample.method} {sample.path}"
            challenge = paint(_DIM, _short(outcome.challenge))
            print(f"{mark} {sample.title:28}{request:36}{status}{outcome.reason:23}{challenge}")
            if not good:
                print(
                    f"    expected {sample.status} {sample.reason}, challenge {sample.error}, {dict(sample.upstream)}"
                )
    print(f"\n{len(wanted) - unexpected} as expected, {unexpected} not")
    return unexpected


def _paint(color: str, text: str) -> str:
    return f"{color}{text}{_PLAIN}"


def _no_paint(_color: str, text: str) -> str:
    return text


def _short(challenge: str) -> str:
    """A challenge without realm and description, which are long and alike."""
    parts = challenge.removeprefix("Bearer ").split(", ")
    kept = [part for part in parts if not part.startswith(("realm=", "error_description="))]
    return f"Bearer {', '.join(kept)}".strip() if challenge else ""


def _print_lines_to_try(provider: IdentityProvider, envoy: Envoy, sidecar: Sidecar, folder: Path) -> None:
    client = f"{CLIENT_ID}:{CLIENT_SECRET}"
    get = 'sed \'s/.*_token": "\\([^"]*\\).*/\\1/\''
    print(f"""
Try it yourself, in another terminal (Ctrl-C here ends everything):

  # an access token, and what it opens
  TOKEN=$(curl -s -u {client} -d grant_type=client_credentials {provider.issuer}/token | {get})
  curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:{envoy.port}/v1/appointments/7
  curl -i -H "Authorization: Bearer $TOKEN" -X POST http://127.0.0.1:{envoy.port}/v1/appointments

  # an ID token, which opens nothing
  ID_TOKEN=$(curl -s -X POST {provider.issuer}/login | {get})
  curl -i -H "Authorization: Bearer $ID_TOKEN" http://127.0.0.1:{envoy.port}/v1/appointments/7

  # an opaque token: the sidecar asks about it, and remembers a revoked one for no longer than cache_ttl
  OPAQUE=$(curl -s -u {client} -d grant_type=client_credentials -d format=opaque {provider.issuer}/token | {get})
  curl -i -H "Authorization: Bearer $OPAQUE" http://127.0.0.1:{envoy.port}/v1/appointments/7
  curl -s -d "token=$OPAQUE" {provider.issuer}/revoke

  # no token at all
  curl -i http://127.0.0.1:{envoy.port}/v1/appointments/7
  curl -i http://127.0.0.1:{envoy.port}/public/news

  # what the sidecar says
  curl -s {sidecar.admin_url}/metrics | grep authz_checks_total
  curl -s {sidecar.admin_url}/readyz
  tail {shlex.quote(str(folder / "sidecar.log"))}
  cat {shlex.quote(str(folder / "config.yaml"))}
""")

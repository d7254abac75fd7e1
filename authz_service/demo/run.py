"""``authz-service demo``: start everything, send the samples through Envoy, print the results.

The table shows what Envoy's client received. The exit status is 0 only when every result is the expected one.
"""

from __future__ import annotations

import asyncio
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
from authz_service.demo.dpop import DpopKey
from authz_service.demo.envoy import Bootstrap, Envoy
from authz_service.demo.identity_provider import AUDIENCE, CLIENT_ID, CLIENT_SECRET, IdentityProvider
from authz_service.demo.introspection import API_SECRET
from authz_service.demo.samples import HOST, METADATA_PATH, SECRET_FILE, Sample, configuration, samples
from authz_service.demo.sidecar import Sidecar
from authz_service.demo.upstream import Upstream
from authz_service.terminal import Color, clipped, progress, width_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_OK = 200
_TITLE, _REQUEST, _STATUS, _REASON = 28, 44, 8, 23  # columns of the table, after one for the mark
_MIN_REQUEST, _MIN_CHALLENGE = 24, 12
KEY_FILE = "client-key.pem"  # for the printed commands


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What Envoy's client received, and the headers that the API received."""

    status: int
    reason: str
    challenge: str
    upstream: Mapping[str, str]

    def is_expected(self, sample: Sample) -> bool:
        """Whether this is the sample's expected result."""
        return (
            (self.status, self.reason) == (sample.status, sample.reason)
            and self._challenge_is_expected(sample.challenge, sample.error)
            and sample.in_challenge in self.challenge
            and all(self.upstream.get(name) == value for name, value in sample.upstream.items())
        )

    def _challenge_is_expected(self, scheme: str, error: str | None) -> bool:
        if error is None:
            return not self.challenge
        has_error = f'error="{error}"' in self.challenge if error else "error=" not in self.challenge
        return self.challenge.startswith(f"{scheme} ") and has_error


async def send(session: aiohttp.ClientSession, port: int, sample: Sample) -> SampleResult:
    """Send a sample through Envoy, without normalizing its path."""
    headers = {"Host": HOST, **sample.headers}
    if sample.token is not None:
        headers["Authorization"] = f"{sample.scheme} {sample.token}"
    url = URL(f"http://127.0.0.1:{port}{sample.path}", encoded=True)
    async with session.request(sample.method, url, headers=headers) as response:
        body = await _json_object(response)
        return SampleResult(
            status=response.status,
            reason=response.headers.get("x-authz-reason") or str(body.get("type", "")).rpartition(":")[2],
            challenge=response.headers.get("WWW-Authenticate", ""),
            upstream=body.get("headers", {}),
        )


async def _json_object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON object in the body; empty when Envoy itself responded, with plain text or no body."""
    try:
        body = await response.json(content_type=None)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def run(*, once: bool) -> int:
    """Run the demo; returns the exit status."""
    try:
        return asyncio.run(_run_until_signal(once=once))
    except StartFailed as failure:
        print(f"the demo cannot start: {failure}", file=sys.stderr)
        return 1


async def _run_until_signal(*, once: bool) -> int:
    """Run the demo; on Ctrl-C, SIGTERM or a closed terminal stop everything that it started.

    SIGHUP is handled here because Envoy ignores it.
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
        with progress(sys.stderr, "Starting an identity provider, an API, authz-service and Envoy ..."):
            provider = await stack.enter_async_context(IdentityProvider())
            upstream = await stack.enter_async_context(Upstream())
            socket, config = folder / "authz.sock", folder / "config.yaml"
            config.write_text(configuration(provider.issuer, AUDIENCE, str(socket)))
            (folder / SECRET_FILE).write_text(API_SECRET)
            (folder / KEY_FILE).write_bytes(DpopKey().pem())
            sidecar = await stack.enter_async_context(Sidecar(config, folder / "sidecar.log"))
            envoy = await stack.enter_async_context(Envoy(Bootstrap(f"unix:{socket}", upstream.port), folder))
        unexpected = await _send_all(envoy.port, samples(provider))
        if not once:
            print(commands(provider.issuer, envoy.port, sidecar.admin_url, folder))
            with suppress(asyncio.CancelledError):  # a signal: the results of the samples still decide the exit status
                await asyncio.Event().wait()
    return 1 if unexpected else 0


async def _send_all(port: int, requests: list[Sample]) -> int:
    """Send the samples and print the table; returns the number of unexpected results."""
    color = Color(sys.stdout)
    requests_width, challenges_width = _widths(width_of(sys.stdout))
    heading = f"  {'sample':{_TITLE}}{'request':{requests_width}}{'status':{_STATUS}}{'reason':{_REASON}}"
    print(f"{heading}{clipped('challenge', challenges_width)}".rstrip())
    unexpected = 0
    async with aiohttp.ClientSession() as session:
        for sample in requests:
            result = await send(session, port, sample)
            is_expected = result.is_expected(sample)
            unexpected += not is_expected
            status = color("good" if result.status == _OK else "bad", f"{result.status:<{_STATUS}}")
            mark = color("good", "✓") if is_expected else color("bad", "✗")
            request = clipped(f"{sample.method} {sample.path}", requests_width - 1)
            challenge = color("dim", clipped(_short(result.challenge), challenges_width))
            print(
                f"{mark} {sample.title:{_TITLE}}{request:{requests_width}}{status}{result.reason:{_REASON}}{challenge}"
            )
            if not is_expected:
                print(
                    f"    expected {sample.status} {sample.reason}, challenge {sample.error}, {dict(sample.upstream)}"
                )
    print(f"\n{len(requests) - unexpected} as expected, {unexpected} not")
    return unexpected


def _widths(columns: int | None) -> tuple[int, int]:
    """The columns for requests and for challenges. On a narrow terminal, requests are cut, then challenges left out."""
    if columns is None:
        return _REQUEST, sys.maxsize
    spare = columns - 2 - _TITLE - _STATUS - _REASON
    requests = max(_MIN_REQUEST, min(_REQUEST, spare - _MIN_CHALLENGE))
    challenges = spare - requests
    return requests, challenges if challenges >= _MIN_CHALLENGE else 0


def _short(challenge: str) -> str:
    """The challenge without long parts that are always the same; the metadata's address only without an error."""
    scheme, _, parameters = challenge.partition(" ")
    left_out = ["realm=", "error_description=", "algs="]
    if "error=" in challenge:
        left_out.append("resource_metadata=")
    parts = [each for each in parameters.split(", ") if not each.startswith(tuple(left_out))]
    return f"{scheme} {', '.join(parts)}".strip()


def commands(issuer: str, port: int, admin_url: str, folder: Path) -> str:
    """The commands to try in a shell, with comments."""
    client = f"{CLIENT_ID}:{CLIENT_SECRET}"
    get = 'sed \'s/.*_token": "\\([^"]*\\).*/\\1/\''
    proof = shlex.join([sys.executable, "-m", "authz_service.demo.dpop", str(folder / KEY_FILE)])
    appointment = f"http://127.0.0.1:{port}/v1/appointments/7"
    explain = shlex.join([sys.executable, "-m", "authz_service", "explain", "--config", str(folder / "config.yaml")])
    return f"""
Try it yourself in another terminal (Ctrl-C here stops everything):

  # an access token: may read, may not write
  TOKEN=$(curl -s -u {client} -d grant_type=client_credentials {issuer}/token | {get})
  curl -i -H "Authorization: Bearer $TOKEN" {appointment}
  curl -i -H "Authorization: Bearer $TOKEN" -X POST http://127.0.0.1:{port}/v1/appointments

  # an ID token: denied everywhere
  ID_TOKEN=$(curl -s -X POST {issuer}/login | {get})
  curl -i -H "Authorization: Bearer $ID_TOKEN" {appointment}

  # why it is denied, step by step; for another token of yours as well
  echo "$ID_TOKEN" | {explain} --url {appointment} --token-file - --exit-zero

  # a token for another API
  OTHER=$(curl -s -u {client} -d grant_type=client_credentials -d resource=https://other.demo/ \\
    {issuer}/token | {get})
  curl -i -H "Authorization: Bearer $OTHER" {appointment}

  # an opaque token: authz-service introspects it, and notices a revocation within cache_ttl
  OPAQUE=$(curl -s -u {client} -d grant_type=client_credentials -d format=opaque {issuer}/token | {get})
  curl -i -H "Authorization: Bearer $OPAQUE" {appointment}
  curl -s -d "token=$OPAQUE" {issuer}/revoke

  # a token that is bound to a key: stolen, with a proof (each is valid for a minute), and the same request replayed
  proof() {{ {proof} "$@"; }}
  BOUND=$(curl -s -u {client} -H "DPoP: $(proof POST {issuer}/token)" \\
    -d grant_type=client_credentials {issuer}/token | {get})
  PROOF=$(proof GET {appointment} "$BOUND")
  curl -i -H "Authorization: Bearer $BOUND" {appointment}
  curl -i -H "Authorization: DPoP $BOUND" -H "DPoP: $PROOF" {appointment}
  curl -i -H "Authorization: DPoP $BOUND" -H "DPoP: $PROOF" {appointment}

  # no token at all: the challenge names the metadata, from which a client learns where to log in
  curl -i -H 'Host: {HOST}' {appointment}
  curl -i -H 'Host: {HOST}' http://127.0.0.1:{port}{METADATA_PATH}
  curl -i http://127.0.0.1:{port}/public/news

  # metrics, readiness, log and configuration of authz-service
  curl -s {admin_url}/metrics | grep authz_checks_total
  curl -s {admin_url}/readyz
  tail {shlex.quote(str(folder / "sidecar.log"))}
  cat {shlex.quote(str(folder / "config.yaml"))}
"""
